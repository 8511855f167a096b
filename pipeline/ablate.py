"""Runs the ablation grid: queues what the store does not hold yet as DVC experiments, and works the queue off."""

from __future__ import annotations

import click

from pipeline.cli import command, load_params


@command
@click.option("--seeds", default="0,1,2", show_default=True, metavar="N[,N…]", help="Seeds of every row.")
@click.option("--rows", metavar="KEY[,KEY…]", help="Only these rows. [default: all eleven]")
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Experiments at a time."
)
@click.option(
    "--force",
    is_flag=True,
    help="Also what the store holds; every stage runs, nothing comes from DVC's cache.",
)
@click.option("--dry-run", is_flag=True, help="Only print the commands.")
def main(seeds: str, rows: str | None, jobs: int, force: bool, dry_run: bool) -> None:
    """Train and evaluate the ablation grid: from V7.3 to full V8.0 one flag at a time, every row with every seed.

    Each is `dvc exp run --queue` of eval_a in a copy of the repository, so params.yaml, weights/ and metrics/ stay as
    they are and tracked but uncommitted edits take part. Runs that the store holds for this params.yaml are left out.
    The table: python -m pipeline.compare --grid
    """
    from stf.evaluation.ablation_queue import chosen, run_grid

    experiments = chosen(rows, seeds)
    params = load_params("params.yaml")
    run_grid(experiments, params, jobs, force=force, dry_run=dry_run)


if __name__ == "__main__":
    main()
