"""The 95 % interval of an AUC when videos share people: a bootstrap over identity clusters.

Shapes: N videos, K clusters, S resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    kept: list[np.ndarray] = []
    n_kept = 0
    while n_kept < n_resamples:
        weights_SK = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=_CHUNK)
        weights_SK = weights_SK[(weights_SK @ reals_K) * (weights_SK @ fakes_K) > 0]
        kept.append(weights_SK)
        n_kept += len(weights_SK)
    return np.concatenate(kept)[:n_resamples]


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
