"""The picture of a comparison: AUC of every run side by side, and the paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stf.evaluation.compare import Comparison, Contestant, interval_of, is_synthetic
from stf.evaluation.compare_console import p_value_text
from stf.evaluation.plots import DPI, GRID, STYLE
from stf.evaluation.results import OVERALL
from stf.io.outputs import write_png

# Okabe and Ito's palette again; the first is what the others are held against
RUN_COLOURS = ("#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SYNTHETIC_TITLE = "SYNTHETIC STAND-IN: these figures mean nothing for real deepfakes"
_SPREAD = 0.5  # of a row's height, over which its runs are spread


def save_comparison_plot(
    contestants: Sequence[Contestant], comparisons: Sequence[Comparison], path: Path
) -> None:
    """Both panels share the rows: the methods, then all pooled. At A's headline quality."""
    names = list(dict.fromkeys(name for c in comparisons for name in c.qualities[c.headline]))
    names = [name for name in names if name != OVERALL] + [OVERALL]
    with matplotlib.rc_context(STYLE):
        height = 2.6 + (0.3 + 0.24 * len(contestants)) * len(names)
        figure = Figure(figsize=(11.0, height), dpi=DPI, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
        _auc_panel(left, comparisons, names)
        _difference_panel(right, comparisons, names)
        left.set_yticks(range(len(names))[::-1], [_title(name) for name in names])
        left.set_ylim(-0.6, len(names) - 0.4)
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
            for row in range(len(names) - 1):  # the lowest stands between the methods and OVERALL
                axes.axhline(row + 0.5, color="#e4e4e4" if row else "#999999", linewidth=0.8, zorder=0)
        title = f"Test videos, {comparisons[0].headline}"
        if is_synthetic(contestants):
            title += f"\n{SYNTHETIC_TITLE}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, color="#222222")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=1, frameon=False, fontsize=8.5)
        write_png(path, figure)


def _title(name: str) -> str:
    return name.capitalize() if name == OVERALL else name


def _offset(index: int, count: int) -> float:
    """Height of one run within a row, the first on top."""
    return _SPREAD * (0.5 - index / (count - 1)) if count > 1 else 0.0


def _auc_panel(axes: Axes, comparisons: Sequence[Comparison], names: Sequence[str]) -> None:
    count = len(comparisons) + 1
    first = comparisons[0].a
    runs = [(first, comparisons[0], True), *((c.b, c, False) for c in comparisons)]
    axes.axvline(50, color="#aaaaaa", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.grid(axis="x", **GRID)
    for index, (contestant, comparison, is_first) in enumerate(runs):
        points = []
        for row, name in enumerate(names):
            group = comparison.qualities[comparison.headline].get(name)
            if group is not None and group.delong is not None:
                auc = group.delong.auc_a if is_first else group.delong.auc_b
                points.append((100 * auc, len(names) - 1 - row + _offset(index, count)))
        label = f"{contestant.letter}: {contestant.evaluation.variant} ({contestant.name})"
        x_P, y_P = zip(*points, strict=True) if points else ((), ())
        axes.plot(
            x_P, y_P, MARKERS[index % 7], color=RUN_COLOURS[index % 7], markersize=6, label=label, zorder=3
        )
    axes.set_xlabel("AUC, %")


def _difference_panel(axes: Axes, comparisons: Sequence[Comparison], names: Sequence[str]) -> None:
    axes.axvline(0, color="#444444", linewidth=1, zorder=1)
    axes.grid(axis="x", **GRID)
    reach = 5.0
    for index, comparison in enumerate(comparisons):
        for row, name in enumerate(names):
            group = comparison.qualities[comparison.headline].get(name)
            if group is None or group.delong is None:
                continue
            y = len(names) - 1 - row + _offset(index, len(comparisons))
            x, colour = 100 * group.delong.difference, RUN_COLOURS[(index + 1) % 7]
            axes.plot(x, y, MARKERS[(index + 1) % 7], color=colour, markersize=6, zorder=3)
            low, high, p_value = interval_of(name, group) or (x / 100, x / 100, None)
            axes.plot((100 * low, 100 * high), (y, y), color=colour, linewidth=2, zorder=2)
            note = f"p = {p_value_text(p_value)}".replace("= <", "<")
            place = {"xy": (100 * high, y), "xytext": (6, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(note, **place, fontsize=8, color="#444444")
            reach = max(reach, abs(100 * low), abs(100 * high))
    axes.set_xlim(-1.1 * reach, 1.45 * reach)  # room for the p-values
    axes.set_xlabel(f"difference to {comparisons[0].a.letter}, points, with 95 % interval")
