"""Fine-tunes phase A's network with phase B's upgrades: weights/phase_b.pt and metrics/phase_b.json."""

from __future__ import annotations

import click

from pipeline.cli import command, load_params, params_option
from stf.io.distributed import World
from stf.io.processes import in_processes
from stf.training.options import training_options

START = "weights/phase_a.pt"
GATE = "metrics/gate_a.json"
REPORT = "metrics/eval_a.json"  # for the words of a refusal alone


@command
@params_option
@training_options("phase_b")
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
    """Train phase B, starting from phase A's best weights.

    What weights/phase_a.pt has in common with phase B's network is loaded, the rest is new; optimizer, schedule and
    the loss's margin start afresh. Refused when phase A's overall AUC on real deepfakes is not above
    phase_b.min_phase_a_auc (metrics/gate_a.json, written by eval_a) or the plan's budget is used up.

    Writes weights/phase_b.pt (the epoch with the best validation AUC), metrics/phase_b.json and
    metrics/phase_b_log.csv. The state of a run in progress lies in checkpoints/: after a kill, Ctrl-C or SIGTERM the
    same command goes on from it.
    """
    from pathlib import Path

    from stf.models.network import build_network
    from stf.training.gate import require_open_gate
    from stf.training.progress import config_hash
    from stf.training.run import Wanted, run_phase
    from stf.training.setup import from_scratch, money_text, overridden, prepared, start_from

    written = load_params(params_path)
    params = overridden(written, "b", epochs, batch_size, dry_run)
    plan = config_hash(written, "a")
    if dry_run:
        click.echo(f"dry run: {GATE} is not asked whether phase B may start")
    else:
        require_open_gate(GATE, params.phase_b.min_phase_a_auc, REPORT, money_text(params, "b", plan))
    phase_run = prepared("b", params, world, plan=plan, dry_run=dry_run)
    model = build_network(phase_run.config, phase_run.device)
    if dry_run and not Path(START).exists():
        click.echo(f"dry run: there is no {START}, so the network starts from scratch")
        from_scratch(phase_run, model)
    else:
        phase_run = start_from(phase_run, model, START)
    run_phase(phase_run, model, Wanted(resume_path, fresh))


if __name__ == "__main__":
    main()
