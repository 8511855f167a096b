"""Trains phase A on self-blended clips of real videos: weights/phase_a.safetensors and metrics/phase_a.json."""

from __future__ import annotations

from typing import Any

from pipeline.cli import command, params_option
from stf.training.options import TrainingOptions, training_options


@command
@params_option
@training_options("phase_a")
def main(params_path: str, **options: Any) -> None:
    """Train phase A on self-blended clips of real videos.

    Writes weights/phase_a.safetensors (the epoch with the best validation AUC), metrics/phase_a.json and
    metrics/phase_a_log.csv. The state of a run in progress lies in checkpoints/: after a kill, Ctrl-C or SIGTERM the
    same command resumes from it.
    """
    from stf.forecast.report import projected_line
    from stf.training.run import train_phase

    train_phase("a", params_path, TrainingOptions(**options), projected_line)


if __name__ == "__main__":
    main()
