"""Tests whether scalars of the background separate Video-SBI's fakes from its reals: then the data leak the label.

With the recipe "transform and recompress only the fake", one untrained scalar reaches an AUC of 1.0, and a network
learns that scalar instead of the forgery. The audit draws pairs with drift and codec each on and off, a quarter of the
pairs per combination, so its verdict is independent of a training run's flags. It has its own seed too: it tests the
recipe, not one run's draws, so runs with other seeds need no new audit.

Real and fake of a pair differ only in the blend, so the within-pair comparison is the more sensitive measure: a fake
that is minimally larger in every pair has a win rate of 1 at an AUC of .5.
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
MAX_CANDIDATES = 3  # drawn per required pair before the audit fails
Z_999 = 3.2905267314919255  # two-sided 99.9 %
Progress = Callable[[int, int], Any]  # (pairs done, pairs in total)


@dataclass(frozen=True)
class Setting:
    """Whether drift and codec are on; the codec then compresses every pair."""

    drift: bool
    codec: bool

    @property
    def name(self) -> str:
        """For example 'drift on, codec off'."""
        return f"drift {'on' if self.drift else 'off'}, codec {'on' if self.codec else 'off'}"


SETTINGS = tuple(Setting(drift, codec) for drift in (False, True) for codec in (False, True))


@dataclass(frozen=True)
class MeasuredPair:
    """The values of all probes for both members, in the order of PROBES."""

    group: str  # the setting, or the manipulation method
    real: tuple[float, ...]
    fake: tuple[float, ...]


@dataclass(frozen=True)
class ProbeVerdict:
    """How well one probe separates fakes from reals; AUC and win rate are .5 when it cannot."""

    probe: str
    auc: float  # pooled over all pairs
    win_rate: float  # share of pairs whose fake is larger, ties count ½
    low: float  # the win rate's 99.9 % interval
    high: float
    win_rate_by_group: dict[str, float]
    leaks: bool


@dataclass(frozen=True)
class AuditReport:
    """The verdicts over `n_pairs` pairs; `n_replaced` others had too little background to measure."""

    n_pairs: int
    n_replaced: int
    verdicts: tuple[ProbeVerdict, ...]

    @property
    def leaking(self) -> tuple[str, ...]:
        """The names of the probes that leak the label."""
        return tuple(verdict.probe for verdict in self.verdicts if verdict.leaks)


@dataclass(frozen=True)
class _DatasetParams:
    """The parameters of the audit's data sets; hashable, so that a process builds each data set once."""

    data: DataParams
    sbi: SbiParams


def wilson_interval(wins: float, n: int, z: float = Z_999) -> tuple[float, float]:
    """Computes Wilson's score interval of a proportion; with ties (half wins) it is conservative."""
    share, weight = wins / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    return centre - half, centre + half


def _win_rate(real_N: np.ndarray, fake_N: np.ndarray) -> float:
    return float(np.mean((fake_N > real_N) + 0.5 * (fake_N == real_N)))


def judge_probes(pairs: Sequence[MeasuredPair], audit: AuditParams) -> tuple[ProbeVerdict, ...]:
    """Computes one verdict per probe.

    A probe leaks when its AUC is outside .5 ± auc_tolerance, or the win rate's 99.9 % interval lies entirely outside
    .5 ± win_rate_tolerance.
    """
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
        is_one_sided = high < 0.5 - audit.win_rate_tolerance or low > 0.5 + audit.win_rate_tolerance
        leaks = abs(auc - 0.5) > audit.auc_tolerance or is_one_sided
        verdicts.append(ProbeVerdict(probe, auc, rate, low, high, by_group, leaks))
    return tuple(verdicts)


def measure_pair(group: str, pair: Pair) -> MeasuredPair | None:
    """Measures both members of a native pair outside the union of its masks and 32 px around it.

    None when too little of the picture is left.
    """
    outside_HW = background_of(pair.mask.max(0) > 0)
    if outside_HW.mean() < MIN_BACKGROUND:
        return None
    return MeasuredPair(group, measure(pair.real, outside_HW), measure(pair.fake, outside_HW))


@functools.lru_cache(maxsize=len(SETTINGS))
def _dataset(params: _DatasetParams, setting: Setting) -> VideoSBIDataset:
    config = STFV8Config(
        num_frames=params.data.num_frames,
        img_size=params.data.img_size,
        data_root=params.data.root,
        use_multiscale_drift=setting.drift,
        use_compression_aug=setting.codec,
    )
    always_compressed = dataclasses.replace(params.sbi, compression_probability=1.0)
    return VideoSBIDataset("train", config, data=params.data, sbi=always_compressed, seed=AUDIT_SEED)


def _measure_candidate(params: _DatasetParams, candidate: tuple[Setting, int, int]) -> MeasuredPair | None:
    setting, epoch, index = candidate
    return measure_pair(setting.name, _dataset(params, setting).pair(epoch, index, stage="native"))


def _candidates(params: _DatasetParams, setting: Setting, n: int) -> list[tuple[Setting, int, int]]:
    """Draws `n` different pairs of one setting, spread over the data set's videos, epoch after epoch."""
    n_pairs, offset = _dataset(params, setting).n_pairs, SETTINGS.index(setting)
    order = np.random.default_rng([AUDIT_SEED, len(SETTINGS)]).permutation(n_pairs)
    numbers = range(offset, offset + n * len(SETTINGS), len(SETTINGS))
    return [(setting, number // n_pairs, int(order[number % n_pairs])) for number in numbers]


def measure_pairs(
    data: DataParams,
    sbi: SbiParams,
    audit: AuditParams,
    *,
    n_workers: int,
    progress: Progress | None = None,
) -> tuple[list[MeasuredPair], int]:
    """Measures `audit.pairs` pairs, a quarter per setting; also returns how many had too little background.

    Raises DataError when fewer than 200 usable pairs can be drawn.
    """
    params, quota = _DatasetParams(data, sbi), math.ceil(audit.pairs / len(SETTINGS))
    queues = {setting.name: _candidates(params, setting, MAX_CANDIDATES * quota) for setting in SETTINGS}
    usable: dict[str, list[MeasuredPair]] = {name: [] for name in queues}
    n_replaced = 0
    while True:
        missing = {name: quota - len(pairs) for name, pairs in usable.items()}
        batch = [candidate for name, queue in queues.items() for candidate in queue[: missing[name]]]
        if not batch:
            break
        queues = {name: queue[missing[name] :] for name, queue in queues.items()}
        for pair in parallel_map(_measure_candidate, batch, n_workers, params):
            if pair is None:
                n_replaced += 1
                continue
            usable[pair.group].append(pair)
            if progress is not None:
                progress(sum(map(len, usable.values())), quota * len(SETTINGS))
    pairs = [pair for group in usable.values() for pair in group]
    if len(pairs) < MIN_PAIRS:
        cause = f"{n_replaced} others have less than {MIN_BACKGROUND:.0%} of the picture outside the face"
        hint = "store frames with more background (SBI's preprocessing keeps whole frames)"
        raise DataError(f"the leak audit needs {MIN_PAIRS} pairs but got {len(pairs)}: {cause}; {hint}")
    return pairs, n_replaced


def run_audit(
    data: DataParams,
    sbi: SbiParams,
    audit: AuditParams,
    *,
    n_workers: int,
    progress: Progress | None = None,
) -> AuditReport:
    """Draws and measures pairs and judges every probe; raises DataError when there are too few usable pairs."""
    pairs, n_replaced = measure_pairs(data, sbi, audit, n_workers=n_workers, progress=progress)
    return AuditReport(len(pairs), n_replaced, judge_probes(pairs, audit))


def require_no_leak(report: AuditReport) -> None:
    """Raises DataError with the probes that predict the label from the background alone."""
    if report.leaking:
        probes = ", ".join(
            f"{v.probe} (AUC {v.auc:.3f}, win rate {v.win_rate:.3f})" for v in report.verdicts if v.leaks
        )
        raise DataError(
            f"the training pairs leak their label outside the face: {probes}; do not train on them"
        )
