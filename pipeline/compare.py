"""Evaluations side by side, every one against the first; or the ablation grid as a table."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli import command, load_params, params_option

FOLDER = Path("tmp/compare")  # beside DVC: nothing of the pipeline lies there
MAX_RUNS = 26  # more do not fit a table


@command
@click.argument("runs", nargs=-1, metavar="[RUN]…")
@click.option(
    "--grid", is_flag=True, help="The ablation grid's table instead; `make grid` runs what is missing."
)
@params_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="The JSON file; the picture goes beside it. [default: tmp/compare/compare.json, or grid.json]",
)
def main(runs: tuple[str, ...], grid: bool, params_path: str, output: str | None) -> None:
    """Compare evaluations on the videos that all of them scored: AUC, paired difference, interval, p-value.

    A RUN is an MLflow run's id (or its beginning), its name, a DVC experiment's name, or the path of an evaluation's
    JSON with its scores beside it. A training run stands for its newest evaluation. Without RUN: the V7.3 baseline,
    phase A and phase B of this repository. The first is what the others are held against.
    """
    from stf.errors import UsageError
    from stf.io.outputs import require_own_json

    if grid and runs:
        raise UsageError("--grid takes no RUN: it collects its own")
    if len(runs) == 1 or len(runs) > MAX_RUNS:
        raise UsageError(f"give at least two runs to compare and at most {MAX_RUNS}, or none for the default")
    path = Path(output) if output else FOLDER / ("grid.json" if grid else "compare.json")
    require_own_json("--output", path, "rows" if grid else "comparisons")
    params = load_params(params_path)
    from stf.evaluation.compare_run import report_comparison, report_grid

    if grid:
        report_grid(params, path)
    else:
        report_comparison(runs, params, path)


if __name__ == "__main__":
    main()
