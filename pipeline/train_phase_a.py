"""Trains phase A on self-blended clips of real videos: weights/phase_a.pt and metrics/phase_a.json."""

from __future__ import annotations

from pipeline.cli import command, load_params, params_option
from stf.io.distributed import World
from stf.io.processes import in_processes
from stf.training.options import training_options


@command
@params_option
@training_options("phase_a")
@in_processes
def main(
    world: World,
    params_path: str,
    resume_path: str | None,
    fresh: bool,
    epochs: int | None,
    batch_size: int | None,
    dry_run: bool,
) -> None:
    """Train phase A on self-blended clips of real videos.

    Writes weights/phase_a.pt (the epoch with the best validation AUC), metrics/phase_a.json and
    metrics/phase_a_log.csv. The state of a run in progress lies in checkpoints/: after a kill, Ctrl-C or SIGTERM the
    same command goes on from it.
    """
    from stf.models.network import build_network
    from stf.training.progress import config_hash
    from stf.training.run import Wanted, run_phase
    from stf.training.setup import from_scratch, overridden, prepared

    written = load_params(params_path)
    params = overridden(written, "a", epochs, batch_size, dry_run)
    phase_run = prepared("a", params, world, plan=config_hash(written, "a"), dry_run=dry_run)
    model = build_network(phase_run.config, phase_run.device)
    if resume_path is None:
        from_scratch(phase_run, model)
    run_phase(phase_run, model, Wanted(resume_path, fresh))


if __name__ == "__main__":
    main()
