"""Fine-tunes phase A's network with phase B's upgrades: weights/phase_b.safetensors and metrics/phase_b.json."""

from __future__ import annotations

from typing import Any

from pipeline.cli import command, params_option
from stf.training.options import TrainingOptions, training_options


@command
@params_option
@training_options("phase_b")
def main(params_path: str, **options: Any) -> None:
    """Train phase B, starting from phase A's best weights.

    What weights/phase_a.safetensors has in common with phase B's network is loaded, the rest is new; optimizer,
    schedule and the loss's margin start afresh. Refused when phase A's overall AUC on real deepfakes is not above
    phase_b.min_phase_a_auc (metrics/gate_a.json, written by eval_a) or the plan's budget is used up.

    Writes weights/phase_b.safetensors (the epoch with the best validation AUC), metrics/phase_b.json and
    metrics/phase_b_log.csv. The state of a run in progress lies in checkpoints/: after a kill, Ctrl-C or SIGTERM the
    same command resumes from it.
    """
    from stf.forecast.report import projected_line
    from stf.training.run import train_phase

    train_phase("b", params_path, TrainingOptions(**options), projected_line)


if __name__ == "__main__":
    main()
