"""Two evaluations of the same videos, compared video by video. B − A: above 0, B is better.

Shapes: N videos, K clusters of people, S resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stf.config import METHODS
from stf.errors import DataError
from stf.evaluation.bootstrap import LEVEL, resample_weights, resampled_aucs, wins_by_cluster
from stf.evaluation.delong import DeLong, delong
from stf.evaluation.results import OVERALL, REAL, group_rows

N_RESAMPLES = 10_000
SEED = 0  # of the resamples: the same two files give the same interval
KEY = ["quality", "method", "video_id"]
_SAME = ["label", "identity_pair"]
_REASON = {"left_only": "only in A", "right_only": "only in B", "both": "no score"}


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


@dataclass(frozen=True)
class PairedGroup:
    """One row of a comparison. None: n/a, a class (or a second cluster of people) is missing."""

    n_real: int
    n_fake: int
    delong: DeLong | None
    bootstrap: PairedBootstrap | None


@dataclass(frozen=True)
class Pairing:
    """The videos that both evaluations scored, and how many of each group (quality, method) are left out, and why."""

    table: pd.DataFrame  # KEY, label, identity_pair, score_a, score_b
    left_out: Mapping[tuple[str, str], Mapping[str, int]]  # reasons: "only in A", "only in B", "no score"


def pair_scores(table_a: pd.DataFrame, table_b: pd.DataFrame) -> Pairing:
    """Joins two score tables over quality, method and video id.

    Raises DataError when they disagree about what a video is, or share none with a score in both.
    """
    merged = table_a[[*KEY, *_SAME, "score"]].merge(
        table_b[[*KEY, *_SAME, "score"]],
        on=KEY,
        how="outer",
        suffixes=("_a", "_b"),
        indicator=True,
        sort=True,
    )
    in_both = merged["_merge"] == "both"
    for column in _SAME:
        odd = merged[in_both & (merged[f"{column}_a"] != merged[f"{column}_b"])]
        if len(odd):
            which = "/".join(odd.iloc[0][KEY])
            raise DataError(
                f"the two evaluations disagree about {which}: another {column}; not the same data"
            )
    scored = in_both & merged["score_a"].notna() & merged["score_b"].notna()
    left_out: dict[tuple[str, str], dict[str, int]] = {}
    for row in merged.loc[~scored, [*KEY, "_merge"]].itertuples(index=False):
        counts = left_out.setdefault((str(row[0]), str(row[1])), {})
        counts[_REASON[str(row[3])]] = counts.get(_REASON[str(row[3])], 0) + 1
    if not np.any(scored):
        raise DataError("the two evaluations share no video that both scored: they are of different data")
    kept = merged.loc[scored].rename(columns={f"{column}_a": column for column in _SAME})
    return Pairing(pd.DataFrame(kept[[*KEY, *_SAME, "score_a", "score_b"]]), left_out)


def compare_groups(pairing: Pairing, quality: str) -> dict[str, PairedGroup]:
    """Every method with paired fakes in that quality, then OVERALL: all of them pooled against the same reals."""
    table = pairing.table.assign(score=pairing.table["score_a"])  # what group_rows looks at
    there = set(table.loc[table["quality"] == quality, "method"]) - {REAL}
    methods = [method for method in METHODS if method in there] + sorted(there - set(METHODS))
    return {name: _compare(group_rows(table, quality, name)) for name in (*methods, OVERALL)}


def _compare(rows: pd.DataFrame) -> PairedGroup:
    labels_N = rows["label"].to_numpy(int)
    a_N, b_N = rows["score_a"].to_numpy(float), rows["score_b"].to_numpy(float)
    clusters_N = rows["identity_pair"].to_numpy(str)
    n_fake = int(labels_N.sum())
    bootstrap = paired_bootstrap(labels_N, a_N, b_N, clusters_N, N_RESAMPLES, SEED)
    return PairedGroup(len(labels_N) - n_fake, n_fake, delong(labels_N, a_N, b_N), bootstrap)


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
