"""The ablation grid: from V7.3 to full V8.0, one flag at a time, every row with the same seeds.

Every row is trained in one go by phase A's recipe, so that rows differ in their flags alone; the last is therefore not
stage train_phase_b, which fine-tunes phase A's weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from stf.config import FLAGS, PHASE_A_FLAGS, PHASE_B_FLAGS, Params
from stf.evaluation.compare import Costs
from stf.evaluation.intervals import LEVEL
from stf.evaluation.outputs import rounded
from stf.evaluation.results import OVERALL, SYNTHETIC_NOTE
from stf.evaluation.stored_runs import RunLike, differing, n_videos, training_setting, whole_evaluations

SEEDS = (0, 1, 2)
HOW = (
    "Every row is trained in one go by phase A's recipe and scored by eval_a; full V8.0 is therefore not the phase B "
    "that fine-tunes phase A's weights."
)
INTERVAL = (
    "Intervals: Student's t over the seeds, 95 %; with 3 seeds that is ±4.3 standard errors. They hold what a seed "
    "changes, not which videos were filmed: all runs are scored on the same ones. Δ pairs the runs of equal seed."
)


@dataclass(frozen=True)
class Row:
    """One row of the grid; `key` names its DVC experiments."""

    key: str
    title: str
    flags: tuple[str, ...]

    def experiment(self, seed: int) -> str:
        """The name of the DVC experiment."""
        return f"grid-{self.key}-s{seed}"

    def overrides(self, seed: int) -> tuple[str, ...]:
        """What `dvc exp run -S` sets: the seed and all eight flags, whatever params.yaml has."""
        flags = (f"phase_a.{flag}={str(flag in self.flags).lower()}" for flag in FLAGS)
        return (f"seed={seed}", *flags)


_TITLES = {
    "use_contrastive_hll": ("contrastive", "contrastive HLL"),
    "use_compression_aug": ("compression", "H.264"),
    "use_multiscale_drift": ("drift", "multi-scale drift"),
    "use_hll_normalization": ("normalization", "HLL normalisation"),
    "use_hydra": ("hydra", "Hydra"),
    "use_mamer": ("mamer", "Mamer"),
    "use_wss": ("wss", "W-SS"),
    "use_adaptive_sdim": ("sdim", "adaptive state"),
}
ROWS: tuple[Row, ...] = (
    Row("v73", "V7.3", ()),
    *(Row(f"v73-{_TITLES[flag][0]}", f"+ {_TITLES[flag][1]}", (flag,)) for flag in PHASE_A_FLAGS),
    Row("a", "Phase A (all four)", PHASE_A_FLAGS),
    *(
        Row(f"a-{_TITLES[flag][0]}", f"A + {_TITLES[flag][1]}", (*PHASE_A_FLAGS, flag))
        for flag in PHASE_B_FLAGS
    ),
    Row("v80", "V8.0 (all eight)", FLAGS),
)


@dataclass(frozen=True)
class Cell:
    """One row with one seed, trained and evaluated; AUCs in [0, 1] by method and OVERALL."""

    aucs: Mapping[str, float]
    n_videos: int
    costs: Costs
    training_run: str
    evaluation_run: str
    commit: str


@dataclass(frozen=True)
class Grid:
    """The cells, the (row key, seed) that were trained but not evaluated, and how many runs are left out."""

    cells: Mapping[tuple[str, int], Cell]
    not_evaluated: frozenset[tuple[str, int]]
    other_settings: Mapping[str, int]  # 'phase_a.epochs' → runs of a grid row that differ in it

    @property
    def seeds(self) -> tuple[int, ...]:
        """SEEDS and whatever others were run."""
        return tuple(sorted({*SEEDS, *(seed for _, seed in self.cells)}))


def collect(trainings: Iterable[RunLike], evaluations: Sequence[RunLike], params: Params) -> Grid:
    """Sorts runs of train_phase_a and eval_a, newest first, into the grid's cells.

    A training counts when all its parameters but flags and seed are those of `params`; a cell takes the newest.
    """
    rows = {frozenset(row.flags): row.key for row in ROWS}
    setting = training_setting(params, "a")
    evaluated = whole_evaluations(evaluations, params)
    cells: dict[tuple[str, int], Cell] = {}
    not_evaluated: set[tuple[str, int]] = set()
    other: dict[str, int] = {}
    for training in trainings:
        key = rows.get(frozenset(flag for flag in FLAGS if training.tags.get(flag) == "true"))
        if key is None or training.tags.get("dry_run") == "true" or "seed" not in training.params:
            continue
        place, names = (key, int(training.params["seed"])), differing(training.params, setting)
        for name in names:
            other[name] = other.get(name, 0) + 1
        if names or place in cells:
            continue
        evaluation = evaluated.get(training.tags.get("weights_sha256", "unknown"))
        if evaluation is None:
            not_evaluated.add(place)
        else:
            cells[place] = _cell(training, evaluation)
    return Grid(cells, frozenset(not_evaluated - set(cells)), other)


def _cell(training: RunLike, evaluation: RunLike) -> Cell:
    aucs = {
        name.removeprefix("auc/"): value
        for name, value in evaluation.metrics.items()
        if name.startswith("auc/")
    }
    costs = Costs.of(training.metrics, training.minutes, training.tags)
    commit = training.tags.get("git.commit", "unknown")[:8]
    changed = "+" if training.tags.get("git.dirty") == "true" else ""
    return Cell(aucs, n_videos(evaluation), costs, training.run_id, evaluation.run_id, commit + changed)


@dataclass(frozen=True)
class Spread:
    """Mean over seeds with its 95 % t interval; no interval with one seed."""

    mean: float
    low: float | None
    high: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """The mean of `values` and Student's interval of it, n − 1 degrees of freedom; None of nothing."""
    if not values:
        return None
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Spread(mean, None, None, n)
    reach = float(student_t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Spread(mean, mean - reach, mean + reach, n)


@dataclass(frozen=True)
class RowResult:
    """One row over its seeds; `gain` is the paired difference to the first row, over the seeds that both have."""

    row: Row
    cells: Mapping[int, Cell]
    missing: tuple[int, ...]
    overall: Spread | None
    gain: Spread | None
    methods: Mapping[str, Spread]

    def mean_cost(self, field: str) -> float | None:
        """Mean over the seeds of one of Costs' numbers; None where no run has it."""
        values = [getattr(cell.costs, field) for cell in self.cells.values()]
        there = [value for value in values if value is not None]
        return float(np.mean(there)) if there else None


def row_results(grid: Grid) -> tuple[RowResult, ...]:
    """Every row in the grid's order, also those that were not run."""
    first = _aucs(_cells(grid, ROWS[0]), OVERALL)
    results = []
    for row in ROWS:
        cells = _cells(grid, row)
        mine = _aucs(cells, OVERALL)
        gains = [mine[seed] - first[seed] for seed in mine if seed in first]
        names = dict.fromkeys(name for cell in cells.values() for name in cell.aucs if name != OVERALL)
        methods = {name: spread(list(_aucs(cells, name).values())) for name in names}
        results.append(
            RowResult(
                row=row,
                cells=cells,
                missing=tuple(seed for seed in grid.seeds if seed not in cells),
                overall=spread(list(mine.values())),
                gain=None if row is ROWS[0] else spread(gains),
                methods={name: value for name, value in methods.items() if value is not None},
            )
        )
    return tuple(results)


def _cells(grid: Grid, row: Row) -> dict[int, Cell]:
    return {seed: grid.cells[row.key, seed] for seed in grid.seeds if (row.key, seed) in grid.cells}


def _aucs(cells: Mapping[int, Cell], name: str) -> dict[int, float]:
    return {seed: cell.aucs[name] for seed, cell in cells.items() if name in cell.aucs}


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
        "rows": [_row_document(result) for result in results],
        "not_evaluated": [f"{key} seed {seed}" for key, seed in sorted(grid.not_evaluated)],
        "left_out_for_other_parameters": dict(grid.other_settings),
    }
    return rounded(document)


def _row_document(result: RowResult) -> dict[str, Any]:
    return {
        "key": result.row.key,
        "title": result.row.title,
        "flags": list(result.row.flags),
        "overall_auc": _spread_document(result.overall),
        "difference_to_v73": _spread_document(result.gain),
        "method_auc": {name: _spread_document(value) for name, value in result.methods.items()},
        "missing_seeds": list(result.missing),
        "runs": {str(seed): _cell_document(cell) for seed, cell in result.cells.items()},
    }


def _spread_document(value: Spread | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)


def _cell_document(cell: Cell) -> dict[str, Any]:
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
