"""The training loop of either phase: epochs of optimizer steps, validation, checkpoints, budget, records."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import torch

from stf.config import Params, PhaseName
from stf.console.training import too_many_failures
from stf.errors import DataError, Interrupted
from stf.training.budget_tracker import BudgetStatus
from stf.training.checkpoint_folder import CheckpointFolder
from stf.training.loaders import ClipLoader
from stf.training.optimizer import learning_rates
from stf.training.progress import Best, Progress
from stf.training.records import EpochDetails, EpochMeans, EpochRecord, StepFigures, StepRecord
from stf.training.step import Batch, train_step
from stf.training.train_state import TrainState
from stf.training.validation import ValidationFigures, failures_in, pairs_failed_in, validate

_ALLOWED_FAILURES = 3  # sound pairs fail occasionally: 0.8 % of the sample's, as "invisible blend"


@dataclass(frozen=True)
class Plan:
    """How long a training is, and in which steps. `empty_cache_every` counts optimizer steps; 0 is never.

    The state is saved after every epoch, and within one when `save_every_s` seconds have passed. Training stops when
    draws failed for more than `max_failure_share` of an epoch's pairs.
    """

    phase: str
    epochs: int
    grad_accum: int = 1
    empty_cache_every: int = 0
    save_every_s: float = math.inf
    max_failure_share: float = 1.0

    @classmethod
    def of(cls, params: Params, phase: PhaseName) -> Plan:
        """The plan of one phase of a parameter file."""
        section, runtime = params.phase_a if phase == "a" else params.phase_b, params.runtime
        save_every_s = 60 * runtime.checkpoint_minutes
        return cls(
            phase,
            section.epochs,
            params.training.grad_accum,
            runtime.empty_cache_every,
            save_every_s,
            params.data.max_failure_share,
        )

    def steps_per_epoch(self, batches: int) -> int:
        """Optimizer steps for `batches` batches; the last one may hold fewer than grad_accum."""
        return math.ceil(batches / self.grad_accum)


class _StepReport(NamedTuple):
    """What a process sends to the others after a step. Only rank 0 checks the budget and the clock."""

    data_s: float
    step_s: float
    failures: Counter[str]
    pairs_failed: int
    should_stop: bool
    should_save: bool
    interrupted: Interrupted | None


def fit(  # noqa: C901, PLR0913, PLR0915  # one training, top to bottom
    train_state: TrainState,
    train_loader: ClipLoader,
    val_batches: Iterable[Batch],
    plan: Plan,
    folder: CheckpointFolder,
    progress: Progress,
    *,
    on_step: Callable[[StepRecord], None] | None,
    on_epoch: Callable[[EpochRecord, EpochDetails], None] | None,
    check_budget: Callable[[], BudgetStatus] | None,
    stop_request: Callable[[], Interrupted | None] = lambda: None,
) -> None:
    """Trains from `progress`, which it updates, to the end of the plan, or until the budget is used up.

    Every process of train_state.world calls it, with its own clips. Only rank 0 writes files and has the callbacks on
    step, epoch and budget; `stop_request` returns, in any process, the error to stop with. last.pt is written after
    every epoch, every plan.save_every_s, when the budget ends training, and before the error of a stop request is
    raised. An epoch that the budget cuts short is validated as it is, so that even a first epoch leaves a best
    checkpoint; last.pt does not include that validation. Raises TrainingError on a NaN or infinite loss, with the
    checkpoints unchanged.
    """
    world, steps = train_state.world, plan.steps_per_epoch(len(train_loader))
    on_cuda, saved_s = train_state.device.type == "cuda", time.monotonic()
    while progress.epoch < plan.epochs and not progress.stopped_by_budget:
        epoch, epoch_began_s = progress.epoch + 1, time.monotonic() - progress.epoch_s
        means, complete = progress.means, True
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(train_state.device)

        # The remaining steps of the epoch
        train_loader.set_epoch(epoch - 1, means.steps * plan.grad_accum)
        waiting_since_s = time.perf_counter()
        for batches in _grouped(train_loader, plan.grad_accum) if means.steps < steps else ():
            began_s, step = time.perf_counter(), means.steps + 1
            rates = learning_rates(train_state.optimizer)
            figures = train_step(train_state, batches, f"epoch {epoch}, step {step}")
            progress.global_step += 1
            train_state.schedule.step_update(progress.global_step)
            own = _StepReport(
                data_s=began_s - waiting_since_s,
                step_s=time.perf_counter() - began_s,
                failures=sum((failures_in(batch) for batch in batches), start=Counter()),
                pairs_failed=sum(map(pairs_failed_in, batches)),
                should_stop=check_budget is not None and check_budget().should_stop,
                should_save=world.is_main and time.monotonic() - saved_s >= plan.save_every_s,
                interrupted=stop_request(),
            )
            by_rank = world.all_gather(own)
            record = _step_record(figures, (epoch, step, progress.global_step), rates, by_rank)
            means.add(record)
            pairs = means.clips / 2 / means.steps * steps
            require_few_failures(
                means.pairs_failed, pairs, plan.max_failure_share, means.failures, f"training epoch {epoch}"
            )
            if on_step is not None:
                on_step(record)
            if on_cuda and plan.empty_cache_every and progress.global_step % plan.empty_cache_every == 0:
                torch.cuda.empty_cache()  # fragmentation ends long runs on small cards
            interrupted = next((other.interrupted for other in by_rank if other.interrupted), None)
            if interrupted is not None or by_rank[0].should_save:
                saved_s = _save(train_state, folder, progress, epoch_began_s)
            if interrupted is not None:
                raise interrupted
            if by_rank[0].should_stop and step < steps:
                complete = False
                break
            waiting_since_s = time.perf_counter()
        if not complete:
            saved_s = _save(train_state, folder, progress, epoch_began_s)

        # Validation
        validation_began_s = time.monotonic()
        batches = _until_interrupted(val_batches, train_state, folder, progress, epoch_began_s, stop_request)
        val = validate(train_state, batches, f"epoch {epoch}")
        validation_s = time.monotonic() - validation_began_s
        require_few_failures(
            val.pairs_failed, val.pairs, plan.max_failure_share, val.failures, f"validation in epoch {epoch}"
        )
        _save_if_best(train_state, folder, progress, epoch, val)

        # Records
        budget = world.broadcast(lambda: check_budget() if check_budget is not None else None)
        spent_usd = budget.spent if budget is not None else 0.0
        epoch_s = time.monotonic() - epoch_began_s
        record = _epoch_record(train_state, plan.phase, progress, val, epoch_s, spent_usd)
        progress.end_epoch(record)
        out_of_money = budget is not None and budget.should_stop and progress.epoch < plan.epochs
        progress.stopped_by_budget = not complete or out_of_money
        if on_epoch is not None:  # before the state is saved: a resumed run does not report this epoch again
            on_epoch(record, _epoch_details(means, val, validation_s, complete))
        if complete:
            saved_s = _save(train_state, folder, progress, epoch_began_s)


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches; the last one may be shorter."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _save(
    train_state: TrainState, folder: CheckpointFolder, progress: Progress, epoch_began_s: float
) -> float:
    """Writes last.pt; returns the time when it was done."""
    if progress.means.steps:
        progress.epoch_s = time.monotonic() - epoch_began_s
    folder.keep_last(train_state, progress)
    return time.monotonic()


def _until_interrupted(
    val_batches: Iterable[Batch],
    train_state: TrainState,
    folder: CheckpointFolder,
    progress: Progress,
    epoch_began_s: float,
    stop_request: Callable[[], Interrupted | None],
) -> Iterator[Batch]:
    """The validation batches. A single process can stop between two of them; several finish them together."""
    for batch in val_batches:
        interrupted = stop_request() if train_state.world.size == 1 else None
        if interrupted is not None:
            _save(train_state, folder, progress, epoch_began_s)
            raise interrupted
        yield batch


def require_few_failures(
    failed: int, pairs: float, max_share: float, failures: Mapping[str, int], where: str
) -> None:
    """Raises DataError when `failed` pairs are more than `max_share` of `pairs`, with `failures` (cause → draws).

    Called during an epoch with the pairs of the whole epoch, it raises as soon as the epoch is certain to exceed the
    share, whatever the order of the pairs. Three failed pairs are always allowed.
    """
    if failed > max(max_share * pairs, _ALLOWED_FAILURES):
        raise DataError(too_many_failures(failed, pairs, max_share, failures, where))


def _save_if_best(
    train_state: TrainState, folder: CheckpointFolder, progress: Progress, epoch: int, val: ValidationFigures
) -> None:
    weights = {
        name: value.detach().cpu().clone()
        for name, value in train_state.evaluation_model.state_dict().items()
    }
    candidate = Best(epoch, val.auc, val.loss, weights)
    if candidate.beats(progress.best):
        progress.best = candidate
        folder.keep_best(train_state, candidate)


def _step_record(
    figures: StepFigures,
    place: tuple[int, int, int],
    rates: tuple[float, float],
    by_rank: list[_StepReport],
) -> StepRecord:
    """One step: what it computed, its (epoch, step, global step), its (lr, backbone lr), and its times and failures."""
    # the other processes' step_s includes the wait for the one whose clips came last
    last = max(by_rank, key=lambda report: report.data_s)
    epoch, step, global_step = place
    lr, backbone_lr = rates
    return StepRecord(
        **vars(figures),
        epoch=epoch,
        step=step,
        global_step=global_step,
        lr=lr,
        backbone_lr=backbone_lr,
        failures=sum((report.failures for report in by_rank), start=Counter()),
        pairs_failed=sum(report.pairs_failed for report in by_rank),
        data_s=last.data_s,
        step_s=last.step_s,
    )


def _epoch_record(
    train_state: TrainState,
    phase: str,
    progress: Progress,
    val: ValidationFigures,
    epoch_s: float,
    spent_usd: float,
) -> EpochRecord:
    """The current epoch, after its validation; `spent_usd` is what the plan has cost so far."""
    on_cuda, means = train_state.device.type == "cuda", progress.means
    peak_bytes = torch.cuda.max_memory_allocated(train_state.device) if on_cuda else 0
    peak_bytes = max(train_state.world.all_gather(peak_bytes))  # of the fullest GPU
    return EpochRecord(
        epoch=progress.epoch + 1,
        phase=phase,
        train_loss=means.mean("loss"),
        train_acc=means.mean("correct"),
        val_loss=val.loss,
        val_acc=val.accuracy,
        val_auc=val.auc,
        val_f1=val.f1,
        lr=means.last_lr,
        epoch_time=epoch_s,
        gpu_mem_gb=peak_bytes / 2**30,
        best_auc=progress.best.val_auc if progress.best is not None else math.nan,
        cost_usd=spent_usd,
        ce_loss=means.mean("ce"),
        hll_loss=means.mean("hll"),
        timestamp=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _epoch_details(
    means: EpochMeans, val: ValidationFigures, validation_s: float, complete: bool
) -> EpochDetails:
    """The figures of the same epoch that the CSV does not have."""
    return EpochDetails(
        e_real=means.mean("e_real"),
        e_fake=means.mean("e_fake"),
        margin=means.mean("margin"),
        active_share=means.mean("active_share"),
        clips_per_s=means.clips / (means.data_s + means.step_s),
        data_s=means.data_s,
        step_s=means.step_s,
        validation_s=validation_s,
        failures=dict(means.failures + val.failures),
        complete=complete,
    )
