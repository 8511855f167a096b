"""The ablation grid as a table on the terminal; every line fits 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from stf.console.tables import make_table, number, percent, print_notes

if TYPE_CHECKING:
    from rich.console import Console

    from stf.evaluation.ablation import Grid, RowResult, Spread

_SECTIONS_AFTER = ("v73", "v73-normalization", "a", "a-sdim")


def print_grid(
    console: Console, results: Sequence[RowResult], grid: Grid, *, warning: str | None, methods: Sequence[str]
) -> None:
    """Prints the table and what a reader must know.

    `warning` stands above the table; `methods` says how rows and intervals are made.
    """
    console.print()
    if warning:
        console.print(f"[bold yellow]{warning}[/bold yellow]\n")
    console.print(grid_table(results))
    print_notes(console, [*methods, *notes(results, grid)])


def grid_table(results: Sequence[RowResult]) -> Table:
    """A line per row in the grid's order, also those that were not run."""
    table = make_table(
        "Overall AUC on test videos, from V7.3 to V8.0",
        "Row",
        "n",
        "AUC % \\[95 %]",
        "Δ V7.3, points \\[95 %]",
        "Val AUC",
        "Params M",
        "Min",
        "Cost $",
    )
    for result in results:
        figures = (
            percent(result.mean_cost("val_auc")),
            number(result.mean_cost("parameters"), 1e-6, 3),
            number(result.mean_cost("minutes"), 1, 1),
            number(result.mean_cost("cost_usd"), 1, 3),
        )
        if result.overall is None:
            table.add_row(result.row.title, "0", "[dim]not run[/dim]", *[""] * 5)
        else:
            auc, gain = _text(result.overall, ""), _text(result.gain, "+")
            table.add_row(result.row.title, str(result.overall.n), escape(auc), escape(gain), *figures)
        if result.row.key in _SECTIONS_AFTER:
            table.add_section()
    return table


def _text(value: Spread | None, sign: str) -> str:
    if value is None:
        return ""
    text = f"{100 * value.mean:{sign}.1f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} [{100 * value.low:{sign}.1f}, {100 * value.high:{sign}.1f}]"


def notes(results: Sequence[RowResult], grid: Grid) -> Iterator[str]:
    """What a reader must know beside the table."""
    missing = {result.row.key: result.missing for result in results if result.missing}
    if missing:
        text = ", ".join(f"{key} (seed {_listed(seeds)})" for key, seeds in missing.items())
        yield (
            f"Not in the store: {text}. `make grid` runs what is missing. What DVC restored from its cache made no "
            "MLflow run: `python -m pipeline.ablate --force` trains it again."
        )
    if grid.not_evaluated:
        cells = ", ".join(f"{key} seed {seed}" for key, seed in sorted(grid.not_evaluated))
        yield f"Trained, but no finished evaluation: {cells}."
    if grid.other_settings:
        names = ", ".join(f"{name} ({count})" for name, count in grid.other_settings.items())
        yield f"Left out: runs trained with other parameters than params.yaml has now: {names}."
    yield from _uneven(results)
    yield "Min and cost: mean of the training runs; of runs that shared the machine they are too high."


def _uneven(results: Sequence[RowResult]) -> Iterator[str]:
    """Where the cells are not all alike."""
    cells = [cell for result in results for cell in result.cells.values()]
    n_videos = sorted({cell.n_videos for cell in cells})
    if len(n_videos) > 1:
        yield f"Not all runs were scored on equally many videos: {_listed(n_videos)}."
    commits = sorted({cell.commit for cell in cells})
    if len(commits) > 1:
        yield f"Trained by {len(commits)} states of the code (+: with uncommitted changes): {', '.join(commits)}."
    machines = sorted({cell.costs.machine for cell in cells if cell.costs.machine})
    if len(machines) > 1:
        yield f"Trained on different machines: {'; '.join(machines)}."


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
