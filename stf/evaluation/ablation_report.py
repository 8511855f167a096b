"""The ablation grid as a table on the terminal (every line fits 100 columns) and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stf.evaluation.ablation import SEEDS, Cell, Grid, RowResult, Spread, mean_cost
from stf.evaluation.compare_console import number, print_notes
from stf.evaluation.console import make_table, percent
from stf.evaluation.document import SYNTHETIC_NOTE, rounded
from stf.evaluation.results import OVERALL

_SECTIONS_AFTER = ("v73", "v73-normalization", "a", "a-sdim")
HOW = (
    "Every row is trained in one go by phase A's recipe and scored by eval_a; full V8.0 is therefore not the phase B "
    "that fine-tunes phase A's weights."
)
INTERVAL = (
    "Intervals: Student's t over the seeds, 95 %; with 3 seeds that is ±4.3 standard errors. They hold what a seed "
    "changes, not which videos were filmed: all runs are scored on the same ones. Δ pairs the runs of equal seed."
)


def print_grid(console: Console, results: Sequence[RowResult], grid: Grid, synthetic: bool) -> None:
    """Prints the table and what a reader must know."""
    console.print()
    if synthetic:
        console.print(f"[bold yellow]{SYNTHETIC_NOTE}[/bold yellow]\n")
    console.print(grid_table(results))
    print_notes(console, notes(results, grid))


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
    table.collapse_padding = True
    for result in results:
        figures = (
            percent(mean_cost(result, "val_auc")),
            number(mean_cost(result, "parameters"), 1e-6, 3),
            number(mean_cost(result, "minutes"), 1, 1),
            number(mean_cost(result, "cost_usd"), 1, 3),
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
    yield HOW
    yield INTERVAL
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
        yield f"Set aside: runs trained with other parameters than params.yaml has now: {names}."
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


def as_document(
    results: Sequence[RowResult], grid: Grid, fingerprint: str, synthetic: bool
) -> dict[str, Any]:
    """Rows, means with intervals, and every run, as plain JSON values; not available is null."""
    document = {
        "note": SYNTHETIC_NOTE if synthetic else None,
        "how": HOW,
        "intervals": INTERVAL,
        "data_fingerprint": fingerprint,
        "planned_seeds": list(SEEDS),
        "seeds": list(grid.seeds),
        "rows": [_row(result) for result in results],
        "not_evaluated": [f"{key} seed {seed}" for key, seed in sorted(grid.not_evaluated)],
        "set_aside_for_other_parameters": dict(grid.other_settings),
    }
    return rounded(document)


def _row(result: RowResult) -> dict[str, Any]:
    return {
        "key": result.row.key,
        "title": result.row.title,
        "flags": list(result.row.flags),
        "overall_auc": _spread(result.overall),
        "difference_to_v73": _spread(result.gain),
        "method_auc": {name: _spread(value) for name, value in result.methods.items()},
        "missing_seeds": list(result.missing),
        "runs": {str(seed): _cell(cell) for seed, cell in result.cells.items()},
    }


def _spread(value: Spread | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)


def _cell(cell: Cell) -> dict[str, Any]:
    methods: Mapping[str, float] = {name: auc for name, auc in cell.aucs.items() if name != OVERALL}
    return {
        "overall_auc": cell.aucs.get(OVERALL),
        "method_auc": methods,
        "n_videos": cell.n_videos,
        "training": asdict(cell.costs),
        "training_run": cell.training_run,
        "evaluation_run": cell.evaluation_run,
        "commit": cell.commit,
    }
