"""The two pictures of an evaluation: ROC curves per method, and every video's score. Equal input, equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from stf.evaluation.metrics import GroupMetrics
from stf.evaluation.results import OVERALL, REAL, Evaluation, group_rows
from stf.io.outputs import write_png

# Okabe and Ito's palette, which colour-blind readers can tell apart
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
N_BINS = 40


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
        title += "\nSYNTHETIC STAND-IN: these figures mean nothing for real deepfakes"
    axes.set_title(
        title, fontsize=10.5, loc="left", color="#222222", pad=18 if what.startswith("Scores") else 10
    )
