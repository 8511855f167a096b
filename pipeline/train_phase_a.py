"""Trains phase A on self-blended clips of real videos: weights/phase_a.pt and metrics/phase_a.json."""

from __future__ import annotations

import click

from pipeline.common import command, load_params, params_option, set_up_runtime
from stf.config import STFV8Config


@command
@params_option
@click.option(
    "--resume",
    "resume_path",
    type=click.Path(exists=True, dir_okay=False),
    help="Go on from a last.pt of this configuration and data, or start from the weights of any checkpoint.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of phase_a.epochs.")
@click.option("--batch-size", type=click.IntRange(min=2), help="Clips, instead of training.batch_size.")
@click.option("--dry-run", is_flag=True, help="2 epochs on a few pairs, into a temporary folder.")
def main(
    params_path: str, resume_path: str | None, epochs: int | None, batch_size: int | None, dry_run: bool
) -> None:
    """Train phase A on self-blended clips of real videos.

    Writes weights/phase_a.pt (the epoch with the best validation AUC), metrics/phase_a.json and
    metrics/phase_a_log.csv. Checkpoints of a run in progress lie in checkpoints/.
    """
    import torch

    from pipeline.training_run import PhaseRun, overridden, run_phase
    from stf.data.ffpp import require_fingerprint
    from stf.models.network import build_network

    params = overridden(load_params(params_path), "a", epochs, batch_size, dry_run)
    config = STFV8Config.from_params(params, "a")
    device = set_up_runtime(params.runtime)
    torch.manual_seed(params.seed)  # first weights and dropout; clips have generators of their own
    model = build_network(config, device)
    fingerprint = require_fingerprint(params.data.root, "metrics/data.json")
    run_phase(PhaseRun("a", params, config, device, fingerprint, dry_run), model, resume_path)


if __name__ == "__main__":
    main()
