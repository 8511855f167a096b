"""DeLong's test: do two detectors, scored on the same videos, differ in AUC?

DeLong, DeLong and Clarke-Pearson, *Comparing the areas under two or more correlated receiver operating characteristic
curves* (Biometrics 1988), by the midranks of Sun and Xu, *Fast implementation of DeLong's algorithm* (IEEE Signal
Processing Letters 2014): O(N log N) instead of every pair of a fake and a real. The packages that offer it are small
and return little (a p-value, its logarithm), so it stands here; tests hold it against the definition.

Shapes: N videos, m fakes, n reals; label 1 is fake. The test takes videos for independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from stf.evaluation.bootstrap import LEVEL


@dataclass(frozen=True)
class DeLong:
    """Two AUCs on the same videos, and B − A with its standard error, 95 % interval and two-sided p-value.

    Error, interval and p-value are None where the test has nothing to say: a class of one video, or an estimated
    variance of 0 although the scores rank the videos differently (as when both AUCs are 1).
    """

    auc_a: float
    auc_b: float
    difference: float
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def placements(labels_N: np.ndarray, scores_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(wins_m, losses_n): the reals below each fake, and the fakes above each real; ties count ½.

    They are n·V₁₀ and m·V₀₁ of DeLong's equations: kept as counts, which floats hold exactly.
    """
    is_fake_N = labels_N == 1
    ranks_N = rankdata(scores_N)
    wins_m = ranks_N[is_fake_N] - rankdata(scores_N[is_fake_N])
    below_n = ranks_N[~is_fake_N] - rankdata(scores_N[~is_fake_N])
    return wins_m, np.count_nonzero(is_fake_N) - below_n


def delong(labels_N: np.ndarray, scores_a_N: np.ndarray, scores_b_N: np.ndarray) -> DeLong | None:
    """The paired test; None when a class is missing. Raises ValueError for a score that is not finite."""
    if not (np.isfinite(scores_a_N).all() and np.isfinite(scores_b_N).all()):
        raise ValueError("a score is not finite")
    m, n = int((labels_N == 1).sum()), int((labels_N == 0).sum())
    if not m or not n:
        return None
    (wins_a_m, losses_a_n), (wins_b_m, losses_b_n) = (
        placements(labels_N, scores) for scores in (scores_a_N, scores_b_N)
    )
    auc_a, auc_b = wins_a_m.sum() / (m * n), wins_b_m.sum() / (m * n)
    found = DeLong(float(auc_a), float(auc_b), float((wins_b_m - wins_a_m).sum() / (m * n)))
    if m < 2 or n < 2:
        return found
    # L·S·Lᵀ of the paper with L = (−1, 1), as the variance of differences: nothing cancels
    variance = np.var(wins_b_m - wins_a_m, ddof=1) / (m * n**2)
    variance += np.var(losses_b_n - losses_a_n, ddof=1) / (n * m**2)
    if variance == 0:
        alike = np.array_equal(rankdata(scores_a_N), rankdata(scores_b_N))
        return _tested(found, 0.0, 1.0) if alike else found
    error = math.sqrt(variance)
    return _tested(found, error, 2 * float(norm.sf(abs(found.difference) / error)))


def _tested(found: DeLong, error: float, p_value: float) -> DeLong:
    reach = error * float(norm.ppf((1 + LEVEL) / 2))
    low, high = found.difference - reach, found.difference + reach
    return DeLong(found.auc_a, found.auc_b, found.difference, error, low, high, p_value)
