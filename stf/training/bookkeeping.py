"""From what the loop saw to the records that it reports."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from stf.errors import Interrupted
from stf.training.learner import Learner
from stf.training.progress import Progress
from stf.training.records import EpochDetails, EpochMeans, EpochRecord, StepRecord
from stf.training.step import StepFigures
from stf.training.validation import ValidationFigures


@dataclass(frozen=True)
class StepTold:
    """What a process tells the others after a step. Only rank 0 looks at the budget and at the clock."""

    data_s: float
    step_s: float
    failures: Counter[str]
    pairs_failed: int
    should_stop: bool
    should_keep: bool
    leave: Interrupted | None


def step_record(
    figures: StepFigures, place: tuple[int, int, int], rates: tuple[float, float], by_rank: list[StepTold]
) -> StepRecord:
    """One step: what it computed, its (epoch, step, global step), its (lr, backbone lr), and its times and failures."""
    # the others' step began with waiting for the one whose clips came last
    last = max(by_rank, key=lambda told: told.data_s)
    epoch, step, global_step = place
    lr, backbone_lr = rates
    return StepRecord(
        **vars(figures),
        epoch=epoch,
        step=step,
        global_step=global_step,
        lr=lr,
        backbone_lr=backbone_lr,
        failures=sum((told.failures for told in by_rank), start=Counter()),
        pairs_failed=sum(told.pairs_failed for told in by_rank),
        data_s=last.data_s,
        step_s=last.step_s,
    )


def epoch_record(
    learner: Learner,
    phase: str,
    progress: Progress,
    figures: ValidationFigures,
    time_and_cost: tuple[float, float],
) -> EpochRecord:
    """The epoch that runs, after its validation; `time_and_cost` are its seconds and the plan's dollars so far."""
    on_cuda, means = learner.device.type == "cuda", progress.means
    peak_bytes = torch.cuda.max_memory_allocated(learner.device) if on_cuda else 0
    peak_bytes = max(learner.world.exchange(peak_bytes))  # of the fullest GPU
    return EpochRecord(
        epoch=progress.epoch + 1,
        phase=phase,
        train_loss=means.mean("loss"),
        train_acc=means.mean("correct"),
        val_loss=figures.loss,
        val_acc=figures.accuracy,
        val_auc=figures.auc,
        val_f1=figures.f1,
        lr=means.last_lr,
        epoch_time=time_and_cost[0],
        gpu_mem_gb=peak_bytes / 2**30,
        best_auc=progress.best.val_auc if progress.best is not None else math.nan,
        cost_usd=time_and_cost[1],
        ce_loss=means.mean("ce"),
        hll_loss=means.mean("hll"),
        timestamp=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def epoch_details(
    means: EpochMeans, figures: ValidationFigures, validation_s: float, complete: bool
) -> EpochDetails:
    """What else is known of the same epoch."""
    return EpochDetails(
        e_real=means.mean("e_real"),
        e_fake=means.mean("e_fake"),
        margin=means.mean("margin"),
        active_share=means.mean("active_share"),
        clips_per_s=means.clips / (means.data_s + means.step_s),
        data_s=means.data_s,
        step_s=means.step_s,
        validation_s=validation_s,
        failures=dict(means.failures + figures.failures),
        complete=complete,
    )
