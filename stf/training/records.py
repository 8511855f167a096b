"""What training reports: one record per optimizer step, one per epoch. Plain numbers, no tensors.

Times are seconds, money is US dollars, memory is GiB. Epochs and steps count from 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """One optimizer step; means over its clips. E_real to the active share are ContrastiveHLLLoss's."""

    loss: float
    ce: float
    hll: float
    e_real: float
    e_fake: float
    margin: float
    active_share: float
    grad_norm: float  # before clipping
    correct: int  # clips on the right side of 0.5
    clips: int


_STEP_FIGURES = tuple(figure.name for figure in fields(StepFigures))


@dataclass(frozen=True, kw_only=True)
class StepRecord(StepFigures):
    """StepFigures with their place in the run, learning rates, and the draws that had to be repeated."""

    epoch: int
    step: int  # within the epoch
    global_step: int
    lr: float
    backbone_lr: float
    failures: dict[str, int]  # cause → draws
    pairs_failed: int  # with a failed draw
    data_s: float  # waiting for clips
    step_s: float


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch, with exactly the columns of the CSV log."""

    epoch: int
    phase: str
    train_loss: float
    train_acc: float
    val_loss: float
    val_acc: float
    val_auc: float
    val_f1: float
    lr: float
    epoch_time: float
    gpu_mem_gb: float
    best_auc: float
    cost_usd: float
    ce_loss: float
    hll_loss: float
    timestamp: str  # ISO 8601, UTC


@dataclass(frozen=True, kw_only=True)
class EpochDetails:
    """What else is known of an epoch: where its time went, which draws failed (train and val)."""

    e_real: float
    e_fake: float
    margin: float
    active_share: float
    clips_per_s: float  # training clips, validation aside
    data_s: float
    step_s: float
    validation_s: float
    failures: dict[str, int]
    complete: bool  # False: the budget ended it early


@dataclass
class EpochMeans:
    """Means of the step figures over an epoch, weighted by clips: a short last step counts for what it is."""

    steps: int = 0
    clips: int = 0
    data_s: float = 0.0
    step_s: float = 0.0
    last_lr: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    pairs_failed: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STEP_FIGURES, 0.0))

    def add(self, record: StepRecord) -> None:
        """Takes one step in."""
        for name in self.sums:
            weight = 1 if name in ("correct", "clips") else record.clips
            self.sums[name] += weight * getattr(record, name)
        self.steps += 1
        self.clips += record.clips
        self.data_s += record.data_s
        self.step_s += record.step_s
        self.last_lr = record.lr
        self.failures.update(record.failures)
        self.pairs_failed += record.pairs_failed

    def mean(self, name: str) -> float:
        """Mean per clip of one of StepFigures' fields ('correct' gives the accuracy)."""
        return self.sums[name] / self.clips

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return vars(self) | {"failures": dict(self.failures), "sums": dict(self.sums)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EpochMeans:
        """The inverse of `as_dict`, bit for bit; raises TypeError or ValueError for the values of another version."""
        if tuple(values["sums"]) != _STEP_FIGURES:
            raise ValueError(f"an epoch's figures are other ones: {', '.join(values['sums'])}")
        return cls(**values | {"failures": Counter(values["failures"]), "sums": dict(values["sums"])})


def count_failures(failures_of_pairs: Iterable[Iterable[str]]) -> Counter[str]:
    """Failed draws by cause, over pairs."""
    return Counter(cause for failures in failures_of_pairs for cause in failures)
