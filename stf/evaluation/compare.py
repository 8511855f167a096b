"""Evaluations side by side: every one against the first, on the videos that both scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stf.evaluation.delong import DeLong
from stf.evaluation.paired import (
    N_RESAMPLES,
    PairedBootstrap,
    PairedGroup,
    Pairing,
    compare_groups,
    pair_scores,
)
from stf.evaluation.results import OVERALL
from stf.evaluation.saved import SavedEvaluation

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
    "best_auc": "val_auc",
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
    val_auc: float | None = None  # of the kept epoch, on self-blended clips
    minutes: float | None = None
    machine: str | None = None

    @classmethod
    def of(cls, metrics: Mapping[str, float], minutes: float | None, tags: Mapping[str, str]) -> Costs:
        """From a training run's metrics, wall time and tags (the machine's)."""
        found = {field: metrics[name] for name, field in TRAINING_METRICS.items() if name in metrics}
        gpu = tags.get("machine.gpu", "none")
        machine = tags.get("machine.cpu") if gpu == "none" else gpu
        return cls(**found, minutes=minutes, machine=machine)


@dataclass(frozen=True)
class Contestant:
    """One evaluation in a comparison; `run_id` is None for a file, `fingerprint` of its data too."""

    letter: str
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
    found = []
    for other in contestants[1:]:
        pairing = pair_scores(first.evaluation.table, other.evaluation.table)
        shared = sorted(
            set(pairing.table["quality"]), key=lambda name: (name != first.evaluation.quality, name)
        )
        qualities = {quality: compare_groups(pairing, quality) for quality in shared}
        found.append(Comparison(first, other, pairing, qualities))
    return tuple(found)


def is_synthetic(contestants: Sequence[Contestant]) -> bool:
    """Whether any figure comes from the built-in sample."""
    return any(c.evaluation.is_synthetic for c in contestants)


def interval_of(name: str, group: PairedGroup) -> tuple[float, float, float | None] | None:
    """(low, high, p) that a report shows: the bootstrap over people for OVERALL, DeLong's for a method."""
    shown = group.bootstrap if name == OVERALL else group.delong
    if shown is None or shown.low is None or shown.high is None:
        return None
    return shown.low, shown.high, shown.p_value


def left_out_text(comparison: Comparison) -> list[str]:
    """'c23/FaceSwap: 2 only in A, 1 no score' for every group that lost a video."""
    return [
        f"{quality}/{method}: " + ", ".join(f"{count} {why}" for why, count in counts.items())
        for (quality, method), counts in comparison.pairing.left_out.items()
    ]


def tracked_differences(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Flat numbers for a tracking store: 'B-A/difference_overall', 'B-A/p_value_Deepfakes', …"""
    found: dict[str, float] = {}
    for comparison in comparisons:
        pair = f"{comparison.b.letter}-{comparison.a.letter}"
        for name, group in comparison.qualities[comparison.headline].items():
            shown: PairedBootstrap | DeLong | None = group.bootstrap if name == OVERALL else group.delong
            if shown is not None:
                found[f"{pair}/difference_{name}"] = shown.difference
                found |= {f"{pair}/p_value_{name}": shown.p_value} if shown.p_value is not None else {}
    return found
