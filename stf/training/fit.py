"""The training loop of either phase: it only sequences steps, validation, checkpoints and callables."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

import torch

from stf.training.budget_tracker import BudgetStatus
from stf.training.learner import Learner
from stf.training.optimizer import learning_rates
from stf.training.records import EpochDetails, EpochMeans, EpochRecord, StepRecord
from stf.training.state import Best, CheckpointFolder, Progress
from stf.training.step import Batch, StepFigures, train_step
from stf.training.validation import ValidationFigures, failures_in, validate


@runtime_checkable
class Batches(Iterable[Batch], Sized, Protocol):
    """A loader: batches, and how many an epoch has."""


@dataclass(frozen=True)
class Feeds:
    """Where clips come from; `set_epoch` (from 0) tells the sampler behind `train` which epoch comes."""

    train: Batches
    set_epoch: Callable[[int], None]
    val: Iterable[Batch]


@dataclass(frozen=True)
class Plan:
    """How long, and in which steps. `empty_cache_every` counts optimizer steps; 0 is never."""

    phase: str
    epochs: int
    grad_accum: int = 1
    empty_cache_every: int = 0

    def steps_per_epoch(self, batches: int) -> int:
        """Optimizer steps for `batches` batches; the last one may hold fewer than grad_accum."""
        return math.ceil(batches / self.grad_accum)


@dataclass(frozen=True)
class Hooks:
    """What the loop calls: after a step, after an epoch, and to ask what the run has cost."""

    on_step: Callable[[StepRecord], None]
    on_epoch: Callable[[EpochRecord, EpochDetails], None]
    check_budget: Callable[[], BudgetStatus]


@dataclass(frozen=True)
class _Told:
    """What a process tells the others after a step. Only rank 0 looks at the budget."""

    data_s: float
    step_s: float
    failures: Counter[str]
    should_stop: bool


def fit(
    learner: Learner,
    feeds: Feeds,
    plan: Plan,
    hooks: Hooks,
    folder: CheckpointFolder,
    progress: Progress,
) -> Progress:
    """Trains from `progress` to the end of the plan, or until the budget is used up; returns where it stands.

    Every process of learner.world calls it, with its share of the clips; rank 0 alone writes and calls the hooks.
    An epoch that the budget cuts short is validated as it is, so that even a first epoch leaves a best checkpoint;
    last.pt stays at the last whole epoch. Raises TrainingError on a NaN or infinite loss, with the checkpoints of
    earlier epochs untouched.
    """
    while progress.epoch < plan.epochs and not progress.stopped_by_budget:
        if learner.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(learner.device)
        started_s, epoch = time.perf_counter(), progress.epoch + 1
        means, complete = _train_epoch(learner, feeds, plan, hooks, progress)
        validation_started_s = time.perf_counter()
        figures = validate(learner, feeds.val, f"epoch {epoch}")
        ended_s = time.perf_counter()
        _keep_if_best(learner, folder, progress, epoch, figures)
        status = learner.world.from_main(hooks.check_budget)
        record = _epoch_record(learner, plan, progress, means, figures, (ended_s - started_s, status.spent))
        progress.history.append(record)
        progress.epoch, progress.stopped_by_budget = epoch, status.should_stop or not complete
        if complete:
            folder.keep_last(learner, progress)
        if learner.world.is_main:
            hooks.on_epoch(record, _details(means, figures, ended_s - validation_started_s, complete))
    return progress


def _train_epoch(
    learner: Learner, feeds: Feeds, plan: Plan, hooks: Hooks, progress: Progress
) -> tuple[EpochMeans, bool]:
    """One pass over the training clips; False when the budget ended it before its last step."""
    epoch, means, world = progress.epoch + 1, EpochMeans(), learner.world
    steps = plan.steps_per_epoch(len(feeds.train))
    feeds.set_epoch(epoch - 1)
    waiting_since_s = time.perf_counter()
    for step, batches in enumerate(_grouped(feeds.train, plan.grad_accum), start=1):
        ready_s = time.perf_counter()
        rates = learning_rates(learner.optimizer)
        figures = train_step(learner, batches, f"epoch {epoch}, step {step}")
        progress.global_step += 1
        learner.schedule.step_update(progress.global_step)
        told = _Told(
            data_s=ready_s - waiting_since_s,
            step_s=time.perf_counter() - ready_s,
            failures=sum((failures_in(batch) for batch in batches), start=Counter()),
            should_stop=world.is_main and hooks.check_budget().should_stop,
        )
        by_rank = world.exchange(told)
        record = _step_record(figures, (epoch, step, progress.global_step), rates, by_rank)
        means.add(record)
        if world.is_main:
            hooks.on_step(record)
        _empty_cache(learner, plan, progress.global_step)
        if by_rank[0].should_stop and step < steps:
            return means, False
        waiting_since_s = time.perf_counter()
    return means, True


def _step_record(
    figures: StepFigures, place: tuple[int, int, int], rates: tuple[float, float], by_rank: list[_Told]
) -> StepRecord:
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
        data_s=last.data_s,
        step_s=last.step_s,
    )


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches, the last one perhaps shorter."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _empty_cache(learner: Learner, plan: Plan, global_step: int) -> None:
    """Gives CUDA's cached blocks back now and then: fragmentation ends long runs on small cards."""
    due = plan.empty_cache_every > 0 and global_step % plan.empty_cache_every == 0
    if due and learner.device.type == "cuda":
        torch.cuda.empty_cache()


def _keep_if_best(
    learner: Learner, folder: CheckpointFolder, progress: Progress, epoch: int, figures: ValidationFigures
) -> None:
    weights = {name: value.detach().cpu().clone() for name, value in learner.judged.state_dict().items()}
    candidate = Best(epoch, figures.auc, figures.loss, weights)
    if candidate.beats(progress.best):
        progress.best = candidate
        folder.keep_best(learner, candidate)


def _epoch_record(
    learner: Learner,
    plan: Plan,
    progress: Progress,
    means: EpochMeans,
    figures: ValidationFigures,
    time_and_cost: tuple[float, float],
) -> EpochRecord:
    on_cuda = learner.device.type == "cuda"
    peak_bytes = torch.cuda.max_memory_allocated(learner.device) if on_cuda else 0
    peak_bytes = max(learner.world.exchange(peak_bytes))  # of the fullest GPU
    return EpochRecord(
        epoch=progress.epoch + 1,
        phase=plan.phase,
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


def _details(
    means: EpochMeans, figures: ValidationFigures, validation_s: float, complete: bool
) -> EpochDetails:
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
