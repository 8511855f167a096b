"""Detection metrics of one group of videos. Shapes: N videos; label 1 is fake, score is p(fake)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    roc_auc_score,
    roc_curve,
)

from stf.evaluation.intervals import Interval

MIN_REALS_FOR_LOW_FPR = 100  # below it, FPR = 1 % is less than one video
LOW_FPR = 0.01


@dataclass(frozen=True)
class GroupMetrics:
    """The figures of one row of a report, all shares in [0, 1]; None is "not available", never 0 or 0.5."""

    n_real: int
    n_fake: int
    auc: float | None = None
    auc_interval: Interval | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    precision: float | None = None  # None as well when no video was called fake
    recall: float | None = None
    f1: float | None = None
    eer: float | None = None
    ap: float | None = None
    tpr_at_fpr_1pct: float | None = None  # None below 100 reals


def group_metrics(
    labels_N: np.ndarray, scores_N: np.ndarray, threshold: float, auc_interval: Interval | None = None
) -> GroupMetrics:
    """All metrics at once; a video is called fake when its score is at or above `threshold`.

    With a class missing only the counts are filled in. Raises ValueError for a score that is not finite.
    """
    if not np.isfinite(scores_N).all():
        raise ValueError("a score is not finite")
    n_fake = int(labels_N.sum())
    n_real = len(labels_N) - n_fake
    if n_real == 0 or n_fake == 0:
        return GroupMetrics(n_real, n_fake)
    called_N = (scores_N >= threshold).astype(int)
    (_, false_alarms), (misses, hits) = confusion_matrix(labels_N, called_N, labels=[0, 1]).tolist()
    return GroupMetrics(
        n_real=n_real,
        n_fake=n_fake,
        auc=float(roc_auc_score(labels_N, scores_N)),
        auc_interval=auc_interval,
        accuracy=float((called_N == labels_N).mean()),
        balanced_accuracy=float(balanced_accuracy_score(labels_N, called_N)),
        precision=hits / (hits + false_alarms) if hits + false_alarms else None,
        recall=hits / n_fake,
        f1=2 * hits / (2 * hits + false_alarms + misses),
        eer=equal_error_rate(labels_N, scores_N),
        ap=float(average_precision_score(labels_N, scores_N)),
        tpr_at_fpr_1pct=tpr_at_fpr(labels_N, scores_N, LOW_FPR) if n_real >= MIN_REALS_FOR_LOW_FPR else None,
    )


def equal_error_rate(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Where FPR = FNR on the ROC, interpolated linearly between its vertices."""
    fpr_V, tpr_V, _ = roc_curve(labels_N, scores_N, drop_intermediate=False)
    # FPR − FNR rises strictly from −1 to 1 along the vertices, so the crossing is single
    return float(np.interp(0.0, fpr_V - (1.0 - tpr_V), fpr_V))


def tpr_at_fpr(labels_N: np.ndarray, scores_N: np.ndarray, max_fpr: float) -> float:
    """The highest TPR that a threshold reaches with FPR ≤ `max_fpr`; nothing is interpolated."""
    fpr_V, tpr_V, _ = roc_curve(labels_N, scores_N, drop_intermediate=False)
    return float(tpr_V[fpr_V <= max_fpr + 1e-12].max())


@dataclass(frozen=True)
class Threshold:
    """A decision threshold on p(fake) and what it reached on the clips it was chosen on."""

    value: float
    balanced_accuracy: float
    auc: float
    n_real: int
    n_fake: int


def choose_threshold(labels_N: np.ndarray, scores_N: np.ndarray) -> Threshold:
    """The threshold of the highest balanced accuracy; of several equally good, the one nearest to 0.5.

    Candidates are the midpoints between neighbouring distinct scores, so the choice does not hang on one
    clip's own score; when all scores are equal it is 0.5. Raises ValueError when a class is missing or a
    score is not finite.
    """
    if len(np.unique(labels_N)) < 2:
        raise ValueError("a threshold needs both classes")
    if not np.isfinite(scores_N).all():
        raise ValueError("a score is not finite")
    distinct = np.unique(scores_N)
    candidates = (distinct[:-1] + distinct[1:]) / 2 if len(distinct) > 1 else np.array([0.5])
    reals, fakes = np.sort(scores_N[labels_N == 0]), np.sort(scores_N[labels_N == 1])
    specificity = np.searchsorted(reals, candidates, side="left") / len(reals)
    sensitivity = 1.0 - np.searchsorted(fakes, candidates, side="left") / len(fakes)
    balanced = (specificity + sensitivity) / 2
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    pick = min(best, key=lambda i: (abs(candidates[i] - 0.5), candidates[i]))
    auc = float(roc_auc_score(labels_N, scores_N))
    return Threshold(float(candidates[pick]), float(balanced[pick]), auc, len(reals), len(fakes))
