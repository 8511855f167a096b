"""The pictures of an evaluation, of a comparison and of the ablation grid. Equal input, equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from stf.evaluation.clips import REAL
from stf.evaluation.metrics import GroupMetrics
from stf.evaluation.results import OVERALL, Evaluation, group_rows
from stf.io.outputs import write_png

if TYPE_CHECKING:
    from stf.evaluation.ablation import RowResult
    from stf.evaluation.compare import Comparison, Contestant

# Okabe and Ito's palette, which colour-blind readers can distinguish
COLOURS = {
    REAL: "#0072B2",
    "Deepfakes": "#D55E00",
    "Face2Face": "#E69F00",
    "FaceSwap": "#009E73",
    "NeuralTextures": "#CC79A7",
    OVERALL: "#222222",
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: no machine's own fonts
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}
GRID = {"color": "#e4e4e4", "linewidth": 0.8, "zorder": 0}
DPI = 150
SYNTHETIC_TITLE = "SYNTHETIC STAND-IN: these figures mean nothing for real deepfakes"
N_BINS = 40
# Okabe and Ito's palette again; the first is what the others are held against
RUN_COLOURS = ("#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SPREAD = 0.5  # of a row's height, over which its runs are spread
_BASE, _FIX, _UPGRADE = "#222222", "#D55E00", "#0072B2"  # rows of the grid: V7.3, fixes alone, with upgrades
_MARGIN = 2.0  # points of AUC beside the grid's outermost figure


def save_roc_plot(evaluation: Evaluation, path: Path) -> None:
    """ROC curve of every method and of all pooled at the headline quality; a ring marks the threshold."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 6.4), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle=(0, (4, 3)), label="chance")
        for name, metrics in evaluation.headline.groups.items():
            if metrics.auc is not None:
                _roc_line(axes, evaluation, name, metrics)
        axes.grid(**GRID)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set(
            xlabel="False positive rate (real called fake)", ylabel="True positive rate (fake called fake)"
        )
        ring = {"marker": "o", "markersize": 7, "markerfacecolor": "white", "markeredgecolor": "#666666"}
        axes.plot([], [], linestyle="none", **ring, label="at the validation threshold")
        axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="#dddddd", fontsize=8.5)
        _titles(axes, evaluation, "ROC on test videos")
        write_png(path, figure)


def _roc_line(axes: Axes, evaluation: Evaluation, name: str, metrics: GroupMetrics) -> None:
    labels_N, scores_N = _labels_and_scores(evaluation, name)
    fpr_V, tpr_V, _ = roc_curve(labels_N, scores_N, drop_intermediate=False)
    interval = metrics.auc_interval
    spread = f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if interval else ""
    colour, is_overall = COLOURS[name], name == OVERALL
    title = name.capitalize() if is_overall else name
    label = f"{title}: AUC {100 * metrics.auc:.1f} %{spread}" if metrics.auc is not None else title
    width, order = (2.6, 4) if is_overall else (1.6, 3)
    axes.plot(fpr_V, tpr_V, color=colour, linewidth=width, label=label, zorder=order, clip_on=False)
    called_N = scores_N >= evaluation.threshold.value
    point = called_N[labels_N == 0].mean(), called_N[labels_N == 1].mean()
    axes.plot(*point, "o", markersize=7, markerfacecolor="white", markeredgecolor=colour, zorder=order + 2)


def _labels_and_scores(evaluation: Evaluation, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = group_rows(evaluation.table, evaluation.headline.quality, name)
    return rows["label"].to_numpy(int), rows["score"].to_numpy(float)


def save_scores_plot(evaluation: Evaluation, path: Path) -> None:
    """Per group a histogram over a strip with every video's score, and the threshold across all groups."""
    names = [REAL, *(name for name in evaluation.headline.groups if name != OVERALL)]
    by_name: dict[str, np.ndarray] = {}
    for name in names:
        labels_N, scores_N = _labels_and_scores(evaluation, name)
        by_name[name] = scores_N[labels_N == (name != REAL)]
    limits = _score_limits(np.concatenate([*by_name.values(), [evaluation.threshold.value]]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 1.6 + 0.95 * len(names)), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="x", **GRID)
        for row, name in enumerate(names):
            _score_row(axes, len(names) - 1 - row, by_name[name], COLOURS[name], limits)
        _threshold_line(axes, evaluation.threshold.value, limits, len(names) - 0.28)
        labels = [f"{name}\nN = {len(scores_N)}" for name, scores_N in by_name.items()]
        axes.set_yticks(range(len(names))[::-1], labels)
        axes.tick_params(axis="y", length=0)
        margin = 0.015 * (limits[1] - limits[0])
        axes.set(xlim=(limits[0] - margin, limits[1] + margin), ylim=(-0.42, len(names) - 0.02))
        axes.set_xlabel("score = mean p(fake) over the video's clips")
        _titles(axes, evaluation, "Scores of the test videos")
        write_png(path, figure)


def _score_limits(scores_N: np.ndarray) -> tuple[float, float]:
    """0 to 1, or the scores' own range in steps of 0.05 when it is narrow."""
    low, high = np.floor(20 * scores_N.min()) / 20, np.ceil(20 * scores_N.max()) / 20
    return (0.0, 1.0) if high - low > 0.5 else (float(low), float(max(high, low + 0.05)))


def _score_row(axes: Axes, base: int, scores_N: np.ndarray, colour: str, limits: tuple[float, float]) -> None:
    """Histogram upwards from `base`, strip of points below it; points are spread by rank, not by chance."""
    axes.axhline(base, color="#bbbbbb", linewidth=0.8, zorder=1)
    if not len(scores_N):
        axes.text(sum(limits) / 2, base + 0.1, "n/a", ha="center", color="#777777")
        return
    heights, edges = np.histogram(scores_N, bins=N_BINS, range=limits)
    tops = 0.62 * heights / heights.max()
    axes.bar(edges[:-1], tops, np.diff(edges), base, align="edge", color=colour, alpha=0.45, zorder=2)
    order = np.argsort(np.argsort(scores_N, kind="stable"), kind="stable")
    depth = 0.09 + 0.05 * (order % 4)
    axes.plot(scores_N, base - depth, ".", color=colour, markersize=5, alpha=0.75, zorder=3, clip_on=False)


def _threshold_line(axes: Axes, value: float, limits: tuple[float, float], height: float) -> None:
    axes.axvline(value, color="#222222", linewidth=1.4, linestyle=(0, (5, 3)), zorder=5)
    side = "left" if value < limits[0] + 0.7 * (limits[1] - limits[0]) else "right"
    text = f" threshold {value:.3f} (from validation) "
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    axes.text(value, height, text, ha=side, va="bottom", fontsize=8.5, color="#222222", bbox=box, zorder=6)


def _titles(axes: Axes, evaluation: Evaluation, what: str) -> None:
    title = f"{what}: {evaluation.variant}, epoch {evaluation.epoch}, {evaluation.headline.quality}"
    if evaluation.synthetic:
        title += f"\n{SYNTHETIC_TITLE}"
    axes.set_title(
        title, fontsize=10.5, loc="left", color="#222222", pad=18 if what.startswith("Scores") else 10
    )


def save_comparison_plot(
    contestants: Sequence[Contestant], comparisons: Sequence[Comparison], synthetic: bool, path: Path
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
        if synthetic:
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
        label = f"{contestant.label}: {contestant.evaluation.variant} ({contestant.name})"
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
            low, high = group.interval or (x / 100, x / 100)
            axes.plot((100 * low, 100 * high), (y, y), color=colour, linewidth=2, zorder=2)
            note = f"p = {group.p_text}".replace("= <", "<")
            place = {"xy": (100 * high, y), "xytext": (6, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(note, **place, fontsize=8, color="#444444")
            reach = max(reach, abs(100 * low), abs(100 * high))
    axes.set_xlim(-1.1 * reach, 1.45 * reach)  # room for the p-values
    axes.set_xlabel(f"difference to {comparisons[0].a.label}, points, with 95 % interval")


def save_grid_plot(results: Sequence[RowResult], synthetic: bool, path: Path) -> None:
    """Rows from top to bottom in the grid's order; overall AUC in per cent."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 1.6 + 0.42 * len(results)), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="x", **GRID)
        axes.set_xlim(*_grid_limits(results))
        axes.axvline(50, color="#aaaaaa", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        baseline = results[0].overall
        if baseline is not None:
            axes.axvline(100 * baseline.mean, color=_BASE, linewidth=1, zorder=1)
        for index, result in enumerate(results):
            _grid_row(axes, len(results) - 1 - index, result)
        axes.set_yticks(range(len(results))[::-1], [result.row.title for result in results])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(results) - 0.4)
        axes.set_xlabel("overall AUC on test videos, %; bar: mean and 95 % t interval over seeds; line: V7.3")
        _seed_legend(axes, results)
        title = "Ablation grid, one flag at a time"
        axes.set_title(f"{title}\n{SYNTHETIC_TITLE}" if synthetic else title, fontsize=10.5, loc="left")
        write_png(path, figure)


def _grid_limits(results: Sequence[RowResult]) -> tuple[float, float]:
    """Chance, every dot, and the intervals as far as an AUC can go."""
    shown = [0.5, *(cell.aucs[OVERALL] for result in results for cell in result.cells.values())]
    for result in results:
        if result.overall is not None and result.overall.low is not None and result.overall.high is not None:
            shown += [max(result.overall.low, 0.0), min(result.overall.high, 1.0)]
    return 100 * min(shown) - _MARGIN, 100 * max(shown) + _MARGIN


def _seeds(results: Sequence[RowResult]) -> list[int]:
    return sorted({seed for result in results for seed in (*result.cells, *result.missing)})


def _grid_row(axes: Axes, y: int, result: RowResult) -> None:
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
