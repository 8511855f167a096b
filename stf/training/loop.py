"""The training loop of either phase: it only sequences steps, validation, checkpoints and callables."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from stf.console.hints import require_few_failures
from stf.errors import Interrupted
from stf.training.bookkeeping import StepTold, epoch_details, epoch_record, step_record
from stf.training.budget_tracker import BudgetStatus
from stf.training.learner import Learner
from stf.training.optimizer import learning_rates
from stf.training.progress import Best, Progress
from stf.training.records import EpochDetails, EpochMeans, EpochRecord, StepRecord
from stf.training.state import CheckpointFolder
from stf.training.step import Batch, train_step
from stf.training.validation import ValidationFigures, failures_in, pairs_failed_in, validate


@runtime_checkable
class Batches(Iterable[Batch], Sized, Protocol):
    """A loader: batches, and how many an epoch has."""


@dataclass(frozen=True)
class Feeds:
    """Where clips come from; `set_epoch(epoch, n)`, epochs from 0, makes `train` begin at its batch n (from 0) next."""

    train: Batches
    set_epoch: Callable[[int, int], None]
    val: Iterable[Batch]


@dataclass(frozen=True)
class Plan:
    """How long, and in which steps. `empty_cache_every` counts optimizer steps; 0 is never.

    The state is kept after every epoch, and within one when `keep_every_s` seconds have passed. Training stops when
    draws failed for more than `max_failure_share` of an epoch's pairs.
    """

    phase: str
    epochs: int
    grad_accum: int = 1
    empty_cache_every: int = 0
    keep_every_s: float = math.inf
    max_failure_share: float = 1.0

    def steps_per_epoch(self, batches: int) -> int:
        """Optimizer steps for `batches` batches; the last one may hold fewer than grad_accum."""
        return math.ceil(batches / self.grad_accum)


@dataclass(frozen=True)
class Hooks:
    """What the loop calls: after a step, after an epoch, to ask what the run has cost, and whether to leave.

    Every process is asked `asked_to_leave`; it gives the error to leave with.
    """

    on_step: Callable[[StepRecord], None]
    on_epoch: Callable[[EpochRecord, EpochDetails], None]
    check_budget: Callable[[], BudgetStatus]
    asked_to_leave: Callable[[], Interrupted | None] = lambda: None


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
    last.pt is written after every epoch, every plan.keep_every_s, when the budget ends training, and when
    hooks.asked_to_leave gives an Interrupted, which is then raised. An epoch that the budget cuts short is validated as
    it is, so that even a first epoch leaves a best checkpoint; last.pt knows nothing of that. Raises TrainingError on a
    NaN or infinite loss, with the checkpoints untouched.
    """
    loop = _Loop(learner, feeds, plan, hooks, folder, progress)
    while progress.epoch < plan.epochs and not progress.stopped_by_budget:
        loop.epoch()
    return progress


class _Loop:
    """`fit`'s parts, with its arguments at hand."""

    def __init__(
        self,
        learner: Learner,
        feeds: Feeds,
        plan: Plan,
        hooks: Hooks,
        folder: CheckpointFolder,
        progress: Progress,
    ) -> None:
        self._learner, self._feeds, self._plan, self._hooks = learner, feeds, plan, hooks
        self._folder, self._progress, self._world = folder, progress, learner.world
        self._kept_s = time.monotonic()
        self._epoch_started_s = 0.0

    def epoch(self) -> None:
        """The rest of an epoch: its steps, validation, checkpoints, and what the hooks are told."""
        learner, progress, hooks = self._learner, self._progress, self._hooks
        if learner.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(learner.device)
        self._epoch_started_s, epoch = time.monotonic() - progress.epoch_s, progress.epoch + 1
        complete, means = self._train(epoch), progress.means
        if not complete:
            self._keep()
        validation_started_s = time.monotonic()
        figures = validate(learner, self._validation(), f"epoch {epoch}")
        validation_s = time.monotonic() - validation_started_s
        self._require_few_failures(figures, figures.pairs, f"validation in epoch {epoch}")
        _keep_if_best(learner, self._folder, progress, epoch, figures)
        status = self._world.from_main(hooks.check_budget)
        time_and_cost = (time.monotonic() - self._epoch_started_s, status.spent)
        record = epoch_record(learner, self._plan.phase, progress, figures, time_and_cost)
        progress.end_epoch(record)
        progress.stopped_by_budget = not complete or (
            status.should_stop and progress.epoch < self._plan.epochs
        )
        if self._world.is_main:
            # first: what a state has behind it is not reported again by the run that goes on from it
            hooks.on_epoch(record, epoch_details(means, figures, validation_s, complete))
        if complete:
            self._keep()

    def _train(self, epoch: int) -> bool:
        """The optimizer steps that are left of the epoch; False when the budget ended it before its last one."""
        plan, means, world = self._plan, self._progress.means, self._world
        steps = plan.steps_per_epoch(len(self._feeds.train))
        self._feeds.set_epoch(epoch - 1, means.steps * plan.grad_accum)
        waiting_since_s = time.perf_counter()
        for batches in _grouped(self._feeds.train, plan.grad_accum) if means.steps < steps else ():
            ready_s, step = time.perf_counter(), means.steps + 1
            rates = learning_rates(self._learner.optimizer)
            figures = train_step(self._learner, batches, f"epoch {epoch}, step {step}")
            self._progress.global_step += 1
            self._learner.schedule.step_update(self._progress.global_step)
            by_rank = world.exchange(self._told(batches, ready_s - waiting_since_s, ready_s))
            record = step_record(figures, (epoch, step, self._progress.global_step), rates, by_rank)
            means.add(record)
            pairs = means.clips / 2 / means.steps * steps
            self._require_few_failures(means, pairs, f"training epoch {epoch}")
            if world.is_main:
                self._hooks.on_step(record)
            _empty_cache(self._learner, plan, self._progress.global_step)
            self._keep_or_leave(by_rank)
            if by_rank[0].should_stop and step < steps:
                return False
            waiting_since_s = time.perf_counter()
        return True

    def _require_few_failures(self, seen: EpochMeans | ValidationFigures, pairs: float, where: str) -> None:
        share = self._plan.max_failure_share
        require_few_failures(seen.pairs_failed, pairs, share, seen.failures, where)

    def _told(self, batches: list[Batch], data_s: float, ready_s: float) -> StepTold:
        is_main, now_s = self._world.is_main, time.monotonic()
        return StepTold(
            data_s=data_s,
            step_s=time.perf_counter() - ready_s,
            failures=sum((failures_in(batch) for batch in batches), start=Counter()),
            pairs_failed=sum(map(pairs_failed_in, batches)),
            should_stop=is_main and self._hooks.check_budget().should_stop,
            should_keep=is_main and now_s - self._kept_s >= self._plan.keep_every_s,
            leave=self._hooks.asked_to_leave(),
        )

    def _keep_or_leave(self, by_rank: list[StepTold]) -> None:
        leave = next((told.leave for told in by_rank if told.leave is not None), None)
        if leave is not None or by_rank[0].should_keep:
            self._keep()
        if leave is not None:
            raise leave

    def _keep(self) -> None:
        if self._progress.means.steps:
            self._progress.epoch_s = time.monotonic() - self._epoch_started_s
        self._folder.keep_last(self._learner, self._progress)
        self._kept_s = time.monotonic()

    def _validation(self) -> Iterator[Batch]:
        """The validation batches. One process alone leaves between two of them; several finish them together."""
        for batch in self._feeds.val:
            leave = self._hooks.asked_to_leave() if self._world.size == 1 else None
            if leave is not None:
                self._keep()
                raise leave
            yield batch


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
