"""Evaluations side by side: every one against the first, on the videos that both scored.

Videos are paired one by one; a difference is B − A: above 0, B is better. Shapes: N videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from stf.config import METHODS
from stf.errors import DataError
from stf.evaluation.clips import REAL
from stf.evaluation.intervals import (
    DeLong,
    PairedBootstrap,
    delong,
    paired_bootstrap,
)
from stf.evaluation.outputs import SavedEvaluation, rounded
from stf.evaluation.results import OVERALL, SYNTHETIC_NOTE, group_rows

N_RESAMPLES = 10_000
SEED = 0  # of the resamples: the same two files give the same interval
KEY = ["quality", "method", "video_id"]
_SAME = ["label", "identity_pair"]


@dataclass(frozen=True)
class PairedGroup:
    """One row of a comparison. None: n/a, a class (or a second cluster of people) is missing."""

    n_real: int
    n_fake: int
    delong: DeLong | None
    bootstrap: PairedBootstrap | None
    is_overall: bool

    @property
    def shown(self) -> PairedBootstrap | DeLong | None:
        """The test that a report shows: the bootstrap over people for OVERALL, DeLong's for a method."""
        return self.bootstrap if self.is_overall else self.delong

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high) of `shown`."""
        if self.shown is None or self.shown.low is None or self.shown.high is None:
            return None
        return self.shown.low, self.shown.high

    @property
    def p_text(self) -> str:
        """The p-value of `shown`: three decimals, or that it is below them."""
        if self.shown is None or self.shown.p_value is None:
            return "n/a"
        return "< 0.001" if self.shown.p_value < 0.001 else f"{self.shown.p_value:.3f}"


@dataclass(frozen=True)
class Pairing:
    """The videos that both evaluations scored, and how many of each group (quality, method) are left out, and why."""

    table: pd.DataFrame  # KEY, label, identity_pair, score_a, score_b
    left_out: Mapping[tuple[str, str], Mapping[str, int]]  # reasons: "only in LABEL", "no score"


def pair_scores(
    table_a: pd.DataFrame, table_b: pd.DataFrame, labels: tuple[str, str] = ("A", "B")
) -> Pairing:
    """Joins two score tables over quality, method and video id; `labels` name the two in `left_out`.

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
    reasons = {"left_only": f"only in {labels[0]}", "right_only": f"only in {labels[1]}", "both": "no score"}
    for quality, method, _, merge in merged.loc[~scored, [*KEY, "_merge"]].itertuples(index=False):
        counts = left_out.setdefault((str(quality), str(method)), {})
        counts[reasons[str(merge)]] = counts.get(reasons[str(merge)], 0) + 1
    if not np.any(scored):
        raise DataError("the two evaluations share no video that both scored: they are of different data")
    pairs = merged.loc[scored].rename(columns={f"{column}_a": column for column in _SAME})
    return Pairing(pd.DataFrame(pairs[[*KEY, *_SAME, "score_a", "score_b"]]), left_out)


def compare_groups(pairing: Pairing, quality: str) -> dict[str, PairedGroup]:
    """Every method with paired fakes in that quality, then OVERALL: all of them pooled against the same reals."""
    table = pairing.table.assign(score=pairing.table["score_a"])  # what group_rows looks at
    there = set(table.loc[table["quality"] == quality, "method"]) - {REAL}
    methods = [method for method in METHODS if method in there] + sorted(there - set(METHODS))
    return {name: _compare(group_rows(table, quality, name), name == OVERALL) for name in (*methods, OVERALL)}


def _compare(rows: pd.DataFrame, is_overall: bool) -> PairedGroup:
    labels_N = rows["label"].to_numpy(int)
    a_N, b_N = rows["score_a"].to_numpy(float), rows["score_b"].to_numpy(float)
    clusters_N = rows["identity_pair"].to_numpy(str)
    n_fake = int(labels_N.sum())
    bootstrap = paired_bootstrap(labels_N, a_N, b_N, clusters_N, N_RESAMPLES, SEED)
    test = delong(labels_N, a_N, b_N)
    return PairedGroup(len(labels_N) - n_fake, n_fake, test, bootstrap, is_overall)


DELONG_NOTE = (
    "DeLong's test takes videos for independent; fakes share people, so its p-values are on the small side. "
    "They are not corrected for the number of comparisons."
)
BOOTSTRAP_NOTE = (
    f"Overall: {N_RESAMPLES} resamples of identity pairs, the same for both runs; percentile interval; "
    "p = 2 x the smaller share of resamples at or below 0 and at or above 0, one resample added to each."
)
TRAINING_METRICS = {  # what a training run logs → field of Costs
    "model/parameters": "parameters",
    "model/gmacs_per_clip": "gmacs_per_clip",
    "clips_per_s": "clips_per_s",
    "cost_usd": "cost_usd",
    "val/best_auc": "val_auc",
}


@dataclass(frozen=True)
class Costs:
    """What the network and its training took; None is "not logged". Clips per second are those of the last epoch.

    `cost_usd` is the run's own, or with runtime.billing what its plan (phase B's: with phase A) had cost by its end.
    """

    parameters: float | None = None
    gmacs_per_clip: float | None = None
    clips_per_s: float | None = None
    cost_usd: float | None = None
    val_auc: float | None = None  # of the best epoch, on self-blended clips
    minutes: float | None = None
    machine: str | None = None

    @classmethod
    def of(cls, metrics: Mapping[str, float], minutes: float | None, tags: Mapping[str, str]) -> Costs:
        """From a training run's metrics, wall time and tags (the machine's)."""
        logged = {field: metrics[name] for name, field in TRAINING_METRICS.items() if name in metrics}
        gpu = tags.get("machine.gpu", "none")
        machine = tags.get("machine.cpu") if gpu == "none" else gpu
        return cls(**logged, minutes=minutes, machine=machine)


@dataclass(frozen=True)
class Contestant:
    """One evaluation in a comparison; `run_id` is None for a file, `fingerprint` of its data too."""

    label: str
    name: str
    run_id: str | None
    fingerprint: str | None
    evaluation: SavedEvaluation
    costs: Costs


@dataclass(frozen=True)
class Comparison:
    """B against A in every quality that both hold, A's headline first. Figures are B − A."""

    a: Contestant
    b: Contestant
    pairing: Pairing
    qualities: Mapping[str, Mapping[str, PairedGroup]]

    @property
    def headline(self) -> str:
        return next(iter(self.qualities))

    @property
    def overall(self) -> PairedGroup:
        return self.qualities[self.headline][OVERALL]


def compare(contestants: Sequence[Contestant]) -> tuple[Comparison, ...]:
    """Each of the others against the first; raises DataError where two share no scored video."""
    first = contestants[0]
    comparisons = []
    for other in contestants[1:]:
        labels = (first.label, other.label)
        pairing = pair_scores(first.evaluation.table, other.evaluation.table, labels)
        shared = sorted(
            set(pairing.table["quality"]), key=lambda name: (name != first.evaluation.quality, name)
        )
        qualities = {quality: compare_groups(pairing, quality) for quality in shared}
        comparisons.append(Comparison(first, other, pairing, qualities))
    return tuple(comparisons)


def is_synthetic(contestants: Sequence[Contestant]) -> bool:
    """Whether any figure comes from the built-in sample."""
    return any(c.evaluation.is_synthetic for c in contestants)


def tracked_differences(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Flat numbers for a tracking store: 'R2-R1/difference_overall', 'R2-R1/p_value_Deepfakes', …"""
    metrics: dict[str, float] = {}
    for comparison in comparisons:
        pair = f"{comparison.b.label}-{comparison.a.label}"
        for name, group in comparison.qualities[comparison.headline].items():
            shown = group.shown
            if shown is not None:
                metrics[f"{pair}/difference_{name}"] = shown.difference
                metrics |= {f"{pair}/p_value_{name}": shown.p_value} if shown.p_value is not None else {}
    return metrics


def as_document(contestants: Sequence[Contestant], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The whole comparison as plain JSON values; not available is null. Differences are B − A."""
    document = {
        "note": SYNTHETIC_NOTE if is_synthetic(contestants) else None,
        "delong": DELONG_NOTE,
        "bootstrap": BOOTSTRAP_NOTE,
        "runs": {contestant.label: _contestant(contestant) for contestant in contestants},
        "comparisons": [
            {
                "a": comparison.a.label,
                "b": comparison.b.label,
                "qualities": {
                    quality: {name: _group(group) for name, group in groups.items()}
                    for quality, groups in comparison.qualities.items()
                },
                "left_out": _left_out(comparison.pairing.left_out),
            }
            for comparison in comparisons
        ],
    }
    return rounded(document)


def _contestant(contestant: Contestant) -> dict[str, Any]:
    evaluation = contestant.evaluation
    return {
        "name": contestant.name,
        "run_id": contestant.run_id,
        "data_fingerprint": contestant.fingerprint,
        "variant": evaluation.variant,
        "epoch": evaluation.epoch,
        "weights_sha256": evaluation.weights_sha256,
        "clips": evaluation.clips,
        "training": asdict(contestant.costs),
    }


def _group(group: PairedGroup) -> dict[str, Any]:
    return {
        "n_real": group.n_real,
        "n_fake": group.n_fake,
        "delong": None if group.delong is None else asdict(group.delong),
        "bootstrap": None if group.bootstrap is None else asdict(group.bootstrap),
    }


def _left_out(left_out: Mapping[tuple[str, str], Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {f"{quality}/{method}": dict(counts) for (quality, method), counts in left_out.items()}
