"""Can a scalar that never sees the face tell Video-SBI's fakes from its reals? If so, the data leak the label.

"Transform and recompress only the fake" is told apart by one untrained scalar with AUC 1.0, and a network trained
on it learns that and no forgery. The audit draws pairs with drift and codec each on and off, a quarter of the
pairs per combination, so that its verdict depends on no flag of a training run. Its seed is its own too: the recipe
is on trial, not one run's draws, and runs with other seeds need no other audit.

Real and fake of a pair share everything but the blend, so the within-pair comparison is the sharper of the two
measures: a fake that is larger in every pair by a hair has a win rate of 1 at an AUC of .5.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from stf.audit.probes import MIN_BACKGROUND, PROBES, background_of, measure
from stf.config import AuditParams, DataParams, SbiParams, STFV8Config
from stf.data.video_sbi_dataset import Pair, VideoSBIDataset
from stf.errors import DataError
from stf.io.workers import parallel_map

AUDIT_SEED = 0
MIN_PAIRS = 200
MAX_CANDIDATES = 3  # per pair that is wanted, before the audit gives up on this data set
Z_999 = 3.2905267314919255  # two-sided 99.9 %
Progress = Callable[[int, int], Any]  # (pairs done, pairs wanted)


@dataclass(frozen=True)
class Setting:
    """Which of the two upgrades of Video-SBI are on; the codec then compresses every pair."""

    drift: bool
    codec: bool

    @property
    def name(self) -> str:
        """'drift on, codec off'."""
        return f"drift {'on' if self.drift else 'off'}, codec {'on' if self.codec else 'off'}"


SETTINGS = tuple(Setting(drift, codec) for drift in (False, True) for codec in (False, True))


@dataclass(frozen=True)
class MeasuredPair:
    """Every probe of both members, in the order of PROBES."""

    group: str  # the setting, or the manipulation method
    real: tuple[float, ...]
    fake: tuple[float, ...]


@dataclass(frozen=True)
class ProbeVerdict:
    """How well one probe tells fakes from reals; .5 and .5 is not at all."""

    probe: str
    auc: float  # pooled over all pairs
    win_rate: float  # share of pairs whose fake is larger, ties ½
    low: float  # of the win rate's 99.9 % interval
    high: float
    win_rate_by_group: dict[str, float]
    leaks: bool


@dataclass(frozen=True)
class AuditReport:
    """The verdicts over `n_pairs` pairs; `n_replaced` more had too little background to measure."""

    n_pairs: int
    n_replaced: int
    verdicts: tuple[ProbeVerdict, ...]

    @property
    def leaking(self) -> tuple[str, ...]:
        """The names of the probes that tell the label."""
        return tuple(verdict.probe for verdict in self.verdicts if verdict.leaks)


@dataclass(frozen=True)
class _Source:
    """All that makes the audit's data sets; hashable, so a process builds each once."""

    data: DataParams
    sbi: SbiParams


def wilson_interval(wins: float, n: int, z: float = Z_999) -> tuple[float, float]:
    """Wilson's score interval of a binomial share; `wins` may hold halves (a tie varies less, so it is wider)."""
    share, weight = wins / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    return centre - half, centre + half


def _win_rate(real_N: np.ndarray, fake_N: np.ndarray) -> float:
    return float(np.mean((fake_N > real_N) + 0.5 * (fake_N == real_N)))


def judge(pairs: Sequence[MeasuredPair], audit: AuditParams) -> tuple[ProbeVerdict, ...]:
    """One verdict per probe: it leaks when the AUC leaves .5 ± auc_tolerance, or the win rate's 99.9 % interval
    lies wholly outside .5 ± win_rate_tolerance."""
    real_NP, fake_NP = (np.array([getattr(pair, member) for pair in pairs]) for member in ("real", "fake"))
    groups = np.array([pair.group for pair in pairs])
    labels = np.repeat([0, 1], len(pairs))
    verdicts = []
    for i, probe in enumerate(PROBES):
        real_N, fake_N = real_NP[:, i], fake_NP[:, i]
        auc = float(roc_auc_score(labels, np.concatenate([real_N, fake_N])))
        rate = _win_rate(real_N, fake_N)
        low, high = wilson_interval(rate * len(pairs), len(pairs))
        by_group = {
            g: _win_rate(real_N[groups == g], fake_N[groups == g]) for g in dict.fromkeys(groups.tolist())
        }
        one_sided = high < 0.5 - audit.win_rate_tolerance or low > 0.5 + audit.win_rate_tolerance
        leaks = abs(auc - 0.5) > audit.auc_tolerance or one_sided
        verdicts.append(ProbeVerdict(probe, auc, rate, low, high, by_group, leaks))
    return tuple(verdicts)


def measure_pair(group: str, pair: Pair) -> MeasuredPair | None:
    """Both members of a native pair, the mask of all frames and 32 px around it filled; None when too little of
    the picture is left."""
    outside_HW = background_of(pair.mask.max(0) > 0)
    if outside_HW.mean() < MIN_BACKGROUND:
        return None
    return MeasuredPair(group, measure(pair.real, outside_HW), measure(pair.fake, outside_HW))


@functools.lru_cache(maxsize=len(SETTINGS))
def _dataset(source: _Source, setting: Setting) -> VideoSBIDataset:
    config = STFV8Config(
        num_frames=source.data.num_frames,
        img_size=source.data.img_size,
        data_root=source.data.root,
        use_multiscale_drift=setting.drift,
        use_compression_aug=setting.codec,
    )
    always = dataclasses.replace(source.sbi, compression_probability=1.0)
    return VideoSBIDataset("train", config, data=source.data, sbi=always, seed=AUDIT_SEED)


def _measure_candidate(source: _Source, candidate: tuple[Setting, int, int]) -> MeasuredPair | None:
    setting, epoch, index = candidate
    return measure_pair(setting.name, _dataset(source, setting).pair(epoch, index, stage="native"))


def _candidates(source: _Source, setting: Setting, n: int) -> list[tuple[Setting, int, int]]:
    """`n` different pairs of one setting, spread over the data set's videos, epoch after epoch."""
    n_pairs, place = _dataset(source, setting).n_pairs, SETTINGS.index(setting)
    order = np.random.default_rng([AUDIT_SEED, len(SETTINGS)]).permutation(n_pairs)
    numbers = range(place, place + n * len(SETTINGS), len(SETTINGS))
    return [(setting, number // n_pairs, int(order[number % n_pairs])) for number in numbers]


def measure_pairs(
    data: DataParams,
    sbi: SbiParams,
    audit: AuditParams,
    *,
    n_workers: int,
    progress: Progress | None = None,
) -> tuple[list[MeasuredPair], int]:
    """`audit.pairs` measured pairs, a quarter per setting, and how many were replaced for lack of background.

    Raises DataError when fewer than 200 usable pairs can be drawn.
    """
    source, quota = _Source(data, sbi), math.ceil(audit.pairs / len(SETTINGS))
    queues = {setting.name: _candidates(source, setting, MAX_CANDIDATES * quota) for setting in SETTINGS}
    usable: dict[str, list[MeasuredPair]] = {name: [] for name in queues}
    n_replaced = 0
    while True:
        missing = {name: quota - len(pairs) for name, pairs in usable.items()}
        wave = [candidate for name, queue in queues.items() for candidate in queue[: missing[name]]]
        if not wave:
            break
        queues = {name: queue[missing[name] :] for name, queue in queues.items()}
        for pair in parallel_map(_measure_candidate, wave, n_workers, source):
            if pair is None:
                n_replaced += 1
                continue
            usable[pair.group].append(pair)
            if progress is not None:
                progress(sum(map(len, usable.values())), quota * len(SETTINGS))
    pairs = [pair for found in usable.values() for pair in found]
    if len(pairs) < MIN_PAIRS:
        why = f"{n_replaced} had less than {MIN_BACKGROUND:.0%} of the picture left outside the face"
        hint = "store frames with more around the face (SBI's preprocessing keeps whole frames)"
        raise DataError(f"the leak audit needs {MIN_PAIRS} pairs and got {len(pairs)}: {why}; {hint}")
    return pairs, n_replaced


def run_audit(
    data: DataParams,
    sbi: SbiParams,
    audit: AuditParams,
    *,
    n_workers: int,
    progress: Progress | None = None,
) -> AuditReport:
    """Draws, measures and judges; raises DataError when there are too few usable pairs."""
    pairs, n_replaced = measure_pairs(data, sbi, audit, n_workers=n_workers, progress=progress)
    return AuditReport(len(pairs), n_replaced, judge(pairs, audit))


def require_no_leak(report: AuditReport) -> None:
    """Raises DataError naming the probes that tell the label from the background alone."""
    if report.leaking:
        named = ", ".join(
            f"{v.probe} (AUC {v.auc:.3f}, win rate {v.win_rate:.3f})" for v in report.verdicts if v.leaks
        )
        raise DataError(
            f"the training pairs leak their label outside the face: {named}; do not train on them"
        )
