"""The picture of the ablation grid: a dot per seed, the mean with its interval, V7.3's mean across all rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stf.evaluation.ablation import RowResult
from stf.evaluation.compare_plots import MARKERS, SYNTHETIC_TITLE
from stf.evaluation.plots import DPI, GRID, STYLE
from stf.evaluation.results import OVERALL
from stf.io.outputs import write_png

_BASE, _FIX, _UPGRADE = "#222222", "#D55E00", "#0072B2"
_MARGIN = 2.0  # points


def save_grid_plot(results: Sequence[RowResult], synthetic: bool, path: Path) -> None:
    """Rows from top to bottom in the grid's order; overall AUC in per cent."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 1.6 + 0.42 * len(results)), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="x", **GRID)
        axes.set_xlim(*_limits(results))
        axes.axvline(50, color="#aaaaaa", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        baseline = results[0].overall
        if baseline is not None:
            axes.axvline(100 * baseline.mean, color=_BASE, linewidth=1, zorder=1)
        for index, result in enumerate(results):
            _row(axes, len(results) - 1 - index, result)
        axes.set_yticks(range(len(results))[::-1], [result.row.title for result in results])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(results) - 0.4)
        axes.set_xlabel("overall AUC on test videos, %; bar: mean and 95 % t interval over seeds; line: V7.3")
        _seed_legend(axes, results)
        title = "Ablation grid, one flag at a time"
        axes.set_title(f"{title}\n{SYNTHETIC_TITLE}" if synthetic else title, fontsize=10.5, loc="left")
        write_png(path, figure)


def _limits(results: Sequence[RowResult]) -> tuple[float, float]:
    """Chance, every dot, and the intervals as far as an AUC can go."""
    shown = [0.5, *(cell.aucs[OVERALL] for result in results for cell in result.cells.values())]
    for result in results:
        if result.overall is not None and result.overall.low is not None and result.overall.high is not None:
            shown += [max(result.overall.low, 0.0), min(result.overall.high, 1.0)]
    return 100 * min(shown) - _MARGIN, 100 * max(shown) + _MARGIN


def _seeds(results: Sequence[RowResult]) -> list[int]:
    return sorted({seed for result in results for seed in (*result.cells, *result.missing)})


def _row(axes: Axes, y: int, result: RowResult) -> None:
    extra = len(result.row.flags)
    colour = _BASE if extra == 0 else _FIX if extra <= 4 else _UPGRADE
    if result.overall is None:
        axes.text(
            sum(axes.get_xlim()) / 2, y, "not run", ha="center", va="center", color="#777777", fontsize=9
        )
        return
    mean, low, high = 100 * result.overall.mean, result.overall.low, result.overall.high
    if low is not None and high is not None:
        span = (100 * low, 100 * high)
        axes.plot(span, (y, y), color=colour, linewidth=5, alpha=0.25, solid_capstyle="butt", zorder=2)
    axes.plot((mean, mean), (y - 0.28, y + 0.28), color=colour, linewidth=2.2, zorder=3)
    seeds = sorted((*result.cells, *result.missing))
    for seed, cell in result.cells.items():
        marker = MARKERS[seeds.index(seed) % len(MARKERS)]
        axes.plot(100 * cell.aucs[OVERALL], y, marker, color=colour, markersize=5.5, alpha=0.85, zorder=4)


def _seed_legend(axes: Axes, results: Sequence[RowResult]) -> None:
    for index, seed in enumerate(_seeds(results)):
        axes.plot(
            [], [], MARKERS[index % len(MARKERS)], color="#666666", markersize=5.5, label=f"seed {seed}"
        )
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8.5)
