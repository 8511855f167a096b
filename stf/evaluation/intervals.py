"""Intervals and tests of AUCs: a bootstrap over people for one AUC and for a paired difference, and DeLong's test.

Videos share people, so the bootstrap draws whole identity clusters; DeLong's test assumes that videos are independent.

Shapes: N videos, m fakes, n reals, K clusters, S resamples; label 1 is fake. Differences are B − A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

LEVEL = 0.95
_CHUNK = 2048  # resamples drawn at once


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval, and how many clusters and resamples it comes from."""

    low: float
    high: float
    n_clusters: int
    n_resamples: int


def identity_clusters(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """{identity: name of its cluster} for a split file's pairs; pairs sharing an identity form one cluster.

    In FF++ every identity stands in exactly one pair, and both fakes of the pair show its two people.
    """
    members: dict[str, set[str]] = {}
    for pair in pairs:
        merged = set(pair).union(*(members.get(identity, set()) for identity in pair))
        members.update(dict.fromkeys(merged, merged))
    return {identity: "+".join(sorted(group)) for identity, group in members.items()}


def wins_by_cluster(
    labels_N: np.ndarray, scores_N: np.ndarray, clusters_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(wins_KK, reals_K, fakes_K): wins[i, j] counts fakes of cluster j that beat reals of cluster i, ties ½.

    A resample that takes cluster k w_k times then has AUC = wᵀ·wins·w / ((w·reals)(w·fakes)), exactly.
    """
    names, index_N = np.unique(clusters_N, return_inverse=True)
    is_real_N = labels_N == 0
    reals_R, fakes_F = scores_N[is_real_N], scores_N[~is_real_N]
    beats_RF = (fakes_F[None] > reals_R[:, None]) + 0.5 * (fakes_F[None] == reals_R[:, None])
    member_RK = np.eye(len(names))[index_N[is_real_N]]
    member_FK = np.eye(len(names))[index_N[~is_real_N]]
    return member_RK.T @ beats_RF @ member_FK, member_RK.sum(0), member_FK.sum(0)


def resample_weights(reals_K: np.ndarray, fakes_K: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """(S, K): how often each resample takes each cluster, K draws with replacement; draws without a class are redrawn.

    Never ends when a class is missing altogether: ask before.
    """
    n_clusters = len(reals_K)
    rng = np.random.default_rng(seed)
    draws: list[np.ndarray] = []
    n_kept = 0
    while n_kept < n_resamples:
        weights_SK = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=_CHUNK)
        weights_SK = weights_SK[(weights_SK @ reals_K) * (weights_SK @ fakes_K) > 0]
        draws.append(weights_SK)
        n_kept += len(weights_SK)
    return np.concatenate(draws)[:n_resamples]


def resampled_aucs(
    weights_SK: np.ndarray, wins_KK: np.ndarray, reals_K: np.ndarray, fakes_K: np.ndarray
) -> np.ndarray:
    """The AUC of every resample, (S,)."""
    pairs_S = (weights_SK @ reals_K) * (weights_SK @ fakes_K)
    return ((weights_SK @ wins_KK) * weights_SK).sum(1) / pairs_S


def auc_interval(
    labels_N: np.ndarray, scores_N: np.ndarray, clusters_N: np.ndarray, n_resamples: int, seed: int
) -> Interval | None:
    """Percentile interval of the AUC over `n_resamples` draws of whole clusters with replacement.

    A draw that lacks a class has no AUC and is drawn again, so the interval is conditional on both being
    there. None when the data lacks a class or holds fewer than two clusters. With few clusters (below about
    ten) or an AUC at 0 or 1 such an interval is too narrow; reports say how many clusters stand behind it.
    """
    if len(np.unique(labels_N)) < 2 or len(np.unique(clusters_N)) < 2:
        return None
    wins_KK, reals_K, fakes_K = wins_by_cluster(labels_N, scores_N, clusters_N)
    weights_SK = resample_weights(reals_K, fakes_K, n_resamples, seed)
    aucs_S = resampled_aucs(weights_SK, wins_KK, reals_K, fakes_K)
    low, high = np.quantile(aucs_S, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), len(reals_K), n_resamples)


@dataclass(frozen=True)
class PairedBootstrap:
    """B − A over resampled people: 95 % percentile interval and two-sided p-value.

    p = 2·min(share of resamples ≤ 0, share ≥ 0), one resample added to both counts, at most 1.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n_clusters: int
    n_resamples: int


def paired_bootstrap(
    labels_N: np.ndarray,
    scores_a_N: np.ndarray,
    scores_b_N: np.ndarray,
    clusters_N: np.ndarray,
    n_resamples: int,
    seed: int,
) -> PairedBootstrap | None:
    """B − A over `n_resamples` draws of whole clusters, the same draws for both. None as for `auc_interval`."""
    if len(np.unique(labels_N)) < 2 or len(np.unique(clusters_N)) < 2:
        return None
    wins_a_KK, reals_K, fakes_K = wins_by_cluster(labels_N, scores_a_N, clusters_N)
    gained_KK = wins_by_cluster(labels_N, scores_b_N, clusters_N)[0] - wins_a_KK
    weights_SK = resample_weights(reals_K, fakes_K, n_resamples, seed)
    # AUC is linear in the wins, so the difference of the two AUCs is the "AUC" of the wins gained
    gains_S = resampled_aucs(weights_SK, gained_KK, reals_K, fakes_K)
    low, high = np.quantile(gains_S, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min(np.count_nonzero(gains_S <= 0), np.count_nonzero(gains_S >= 0))
    p_value = min(1.0, 2 * (tail + 1) / (n_resamples + 1))
    difference = float(gained_KK.sum() / (reals_K.sum() * fakes_K.sum()))
    return PairedBootstrap(difference, float(low), float(high), p_value, len(reals_K), n_resamples)


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

    They are n·V₁₀ and m·V₀₁ of DeLong's equations: as counts, which floats hold exactly.
    """
    is_fake_N = labels_N == 1
    ranks_N = rankdata(scores_N)
    wins_m = ranks_N[is_fake_N] - rankdata(scores_N[is_fake_N])
    below_n = ranks_N[~is_fake_N] - rankdata(scores_N[~is_fake_N])
    return wins_m, np.count_nonzero(is_fake_N) - below_n


def delong(labels_N: np.ndarray, scores_a_N: np.ndarray, scores_b_N: np.ndarray) -> DeLong | None:
    """DeLong's paired test; None when a class is missing. Raises ValueError for a score that is not finite.

    DeLong, DeLong and Clarke-Pearson, *Comparing the areas under two or more correlated receiver operating
    characteristic curves* (Biometrics 1988), by the midranks of Sun and Xu, *Fast implementation of DeLong's algorithm*
    (IEEE Signal Processing Letters 2014): O(N log N) instead of every pair of a fake and a real. The packages that
    offer it are small and return little (a p-value, its logarithm), so it stands here; tests hold it against the
    definition. It takes videos for independent.
    """
    if not (np.isfinite(scores_a_N).all() and np.isfinite(scores_b_N).all()):
        raise ValueError("a score is not finite")
    m, n = int((labels_N == 1).sum()), int((labels_N == 0).sum())
    if not m or not n:
        return None
    (wins_a_m, losses_a_n), (wins_b_m, losses_b_n) = (
        placements(labels_N, scores) for scores in (scores_a_N, scores_b_N)
    )
    auc_a, auc_b = wins_a_m.sum() / (m * n), wins_b_m.sum() / (m * n)
    result = DeLong(float(auc_a), float(auc_b), float((wins_b_m - wins_a_m).sum() / (m * n)))
    if m < 2 or n < 2:
        return result
    # L·S·Lᵀ of the paper with L = (−1, 1), as the variance of differences: nothing cancels
    variance = np.var(wins_b_m - wins_a_m, ddof=1) / (m * n**2)
    variance += np.var(losses_b_n - losses_a_n, ddof=1) / (n * m**2)
    if variance == 0:
        alike = np.array_equal(rankdata(scores_a_N), rankdata(scores_b_N))
        return _tested(result, 0.0, 1.0) if alike else result
    error = math.sqrt(variance)
    return _tested(result, error, 2 * float(norm.sf(abs(result.difference) / error)))


def _tested(result: DeLong, error: float, p_value: float) -> DeLong:
    reach = error * float(norm.ppf((1 + LEVEL) / 2))
    low, high = result.difference - reach, result.difference + reach
    return DeLong(result.auc_a, result.auc_b, result.difference, error, low, high, p_value)
