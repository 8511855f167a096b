"""What the training commands share: a phase from its network to its outputs, tracked and inside its budget."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
import torch

from stf.console.hints import explained
from stf.errors import UsageError
from stf.models.backbone_v73 import STFMambaV73
from stf.tracking.loggers import ConsoleLogger, CSVLogger
from stf.tracking.run import TrackedRun, track
from stf.tracking.training_report import TrainingReport
from stf.training.budget_tracker import BudgetTracker
from stf.training.distributed import start_alike
from stf.training.face_cache import prepare_face_cache
from stf.training.loop import Hooks, fit
from stf.training.outputs import report_outputs, tell_what_is_trained, write_outputs
from stf.training.preemption import Leaving, listening
from stf.training.progress import Progress
from stf.training.records import EpochDetails, EpochRecord
from stf.training.setup import (
    PhaseRun,
    Training,
    ends_without_money,
    open_budget,
    set_up_training,
    tell_backend,
    tell_forecast,
)
from stf.training.state import Found


@dataclass(frozen=True)
class Wanted:
    """Where the user wants the run to start: at --resume's file, at epoch 1 (--fresh), else where it stopped."""

    resume_path: str | None
    fresh: bool

    def __post_init__(self) -> None:
        if self.resume_path is not None and self.fresh:
            raise UsageError("--resume goes on from a file and --fresh starts at epoch 1; give one of them")


def run_phase(phase_run: PhaseRun, model: STFMambaV73, wanted: Wanted) -> None:
    """Trains `model` and writes the phase's outputs, the weights first; a run that fails leaves the old ones.

    Of several processes rank 0 does what there is to do once: folder, budget, MLflow, console, outputs. Raises
    Interrupted when it was asked to leave; the state is then kept.
    """
    with listening() as leaving:
        outputs = dry_run_folder() if phase_run.dry_run and phase_run.world.is_main else Path()
        training = set_up_training(phase_run, model, outputs)
        if phase_run.world.is_main:
            tell_plan(training)
            lead(training, wanted, leaving)
        else:
            follow(training, wanted, leaving)


def tell_plan(training: Training) -> None:
    """What it will cost, what is trained and on what, and where its weights come from."""
    phase_run, network = training.phase_run, training.learner.model
    if not phase_run.dry_run:
        tell_forecast(phase_run, training.dataset)
    click.echo(phase_run.config.describe())
    tell_backend(phase_run.config, network.ssm_backend, phase_run.device)
    if phase_run.start is not None:
        found = phase_run.start.report
        click.echo(f"starting from {phase_run.start.path}, epoch {found.epoch}:\n{found.table()}")


def dry_run_folder() -> Path:
    """A new temporary folder in place of the repository's root, for all that a dry run writes."""
    outputs = Path(tempfile.mkdtemp(prefix="stf-dry-run-"))
    os.environ["DVC_ROOT"] = str(outputs)  # checkpoints and the MLflow store follow it
    click.echo(f"dry run: all that it writes goes to {outputs}; no output of the pipeline is touched")
    return outputs


def lead(training: Training, wanted: Wanted, leaving: Leaving) -> None:
    """The run of a single process, or of rank 0: trains, tracks and writes."""
    phase_run, folder, epochs = training.phase_run, training.folder, training.plan.epochs
    with folder.locked(click.echo), open_budget(phase_run) as budget:
        leaving.answer()  # dvc may have gone during the imports or the wait for the lock
        if wanted.fresh:  # refused without money before the state is put aside
            ends_without_money(phase_run, Progress(), epochs, budget.check())
        progress = starting_point(training, wanted)
        leaving.goes_on = how_to_go_on(training, wanted)
        if not phase_run.params.runtime.billing:  # there is no ledger that knows of earlier runs
            budget.backdate(sum(record.epoch_time for record in progress.history) + progress.epoch_s)
        prepare(training, progress, lambda: ends_without_money(phase_run, progress, epochs, budget.check()))
        tracked = track(
            f"train_phase_{phase_run.phase}",
            params=phase_run.params,
            config=phase_run.config,
            fingerprint=phase_run.fingerprint,
            device=phase_run.device,
            memory=memory_of(training),
            identity=folder.identity,
        )
        with tracked as run:
            tell_what_is_trained(training, run)
            progress = train(training, progress, budget, run, leaving)
            best = write_outputs(training, progress)
            report_outputs(training, best, run)
            run.tag("stopped_by_budget", str(progress.stopped_by_budget).lower())
    if progress.stopped_by_budget:
        done = f"in epoch {progress.epoch} of {training.plan.epochs}"
        click.secho(f"the budget stopped training {done}", fg="yellow")


def follow(training: Training, wanted: Wanted, leaving: Leaving) -> None:
    """The run of every other rank: it trains its share, and writes nothing but what a disk of its own lacks."""
    progress = starting_point(training, wanted)
    prepare(training, progress, _not_here)
    hooks = Hooks(_not_here, _not_here, _not_here, leaving.asked)
    with leaving.answered_between_steps():
        fitted(training, hooks, progress)


def prepare(training: Training, progress: Progress, ends_here: Callable[[], bool]) -> None:
    """What comes between starting point and first clip: whether the budget ends the run here, as rank 0 tells, and the
    face cache, on the budget's clock."""
    progress.stopped_by_budget = training.phase_run.world.from_main(ends_here)
    if progress.epoch < training.plan.epochs and not progress.stopped_by_budget:
        prepare_face_cache(training.phase_run.params, training.phase_run.fingerprint)


def fitted(training: Training, hooks: Hooks, progress: Progress) -> Progress:
    """`fit`; what the machine refuses meanwhile is said with the parameters to lower."""
    steps = training.plan.steps_per_epoch(len(training.feeds.train))
    with explained(training.phase_run.params, training.folder.path, lambda: progress.place(steps)):
        return fit(training.learner, training.feeds, training.plan, hooks, training.folder, progress)


def _not_here(*_: object) -> NoReturn:
    raise AssertionError("only rank 0 reports and looks at the budget")


def starting_point(training: Training, wanted: Wanted) -> Progress:
    """Where the run starts; the same for every process, each with random numbers of its own."""
    learner, world = training.learner, training.phase_run.world
    if world.rank > 0:  # dropout of one process is not that of another
        torch.manual_seed(training.phase_run.params.seed + world.rank)
    progress = named(training, wanted.resume_path) if wanted.resume_path else found(training, wanted.fresh)
    world.require_same(f"the step that {wanted.resume_path} ends with", progress.global_step)
    start_alike((learner.model, learner.loss, learner.judged), world)
    return progress


def memory_of(training: Training) -> Path:
    """Where tracking keeps in mind which MLflow run this training is."""
    return training.folder.path / "mlflow_run.json"


def named(training: Training, path: str) -> Progress:
    """Where the file that the user names leads."""
    used, progress, told = training.folder.resume(path, training.learner, warn)
    click.echo(told if progress.global_step == 0 else going_on(training, progress, used) + told)
    return progress


def warn(text: str) -> None:
    """`text` in yellow."""
    click.secho(text, fg="yellow")


def found(training: Training, fresh: bool) -> Progress:
    """Where this run stopped, as rank 0's disk tells, or the beginning."""
    folder = training.folder
    if fresh and training.phase_run.world.is_main:
        click.echo(folder.put_aside("is not gone on from (--fresh)", "before_fresh"))
        memory_of(training).unlink(missing_ok=True)  # another training is another MLflow run
    state = Found(None, None, ()) if fresh else training.phase_run.world.from_main(folder.find)
    for told in state.told:
        warn(told)
    if state.path is None or state.payload is None:
        click.echo("starting at epoch 1")
        return Progress()
    progress, note = folder.restore(state.path, state.payload, training.learner)
    click.echo(going_on(training, progress, state.path) + note)
    return progress


def how_to_go_on(training: Training, wanted: Wanted) -> str:
    """What is told to whoever stops the run. The same weights named again are gone on from; --fresh begins anew, and a
    state that --resume names is where the run would start again."""
    is_own = wanted.resume_path is not None and not training.folder.starts_from_weights
    without = " without --fresh" if wanted.fresh else " without --resume" if is_own else ""
    return f"the same command{without} goes on from the last state in checkpoints/"


def going_on(training: Training, progress: Progress, path: str | Path) -> str:
    """'going on from checkpoints/…/last.pt after epoch 3', or that there is nothing left to train."""
    if progress.epoch >= training.plan.epochs:
        return f"this training had finished; its outputs are written from {path} (--fresh would train anew)"
    return f"going on from {path} {progress.place(training.plan.steps_per_epoch(len(training.feeds.train)))}"


def train(
    training: Training, progress: Progress, budget: BudgetTracker, run: TrackedRun, leaving: Leaving
) -> Progress:
    """`fit` with console, CSV log, MLflow and budget around it."""
    params, plan = training.phase_run.params, training.plan
    csv = CSVLogger(training.folder.path / "log.csv")
    for record in progress.history:
        csv.log(dataclasses.asdict(record))
    console = ConsoleLogger(
        plan.phase,
        plan.epochs,
        plan.steps_per_epoch(len(training.feeds.train)),
        cost_per_hour=params.budget.cost_per_hour,
        first_epoch=progress.epoch + 1,
    )
    report = TrainingReport(run, console, csv, log_every_steps=params.runtime.log_every_steps)

    def on_epoch(record: EpochRecord, details: EpochDetails) -> None:
        report.epoch(record, details)
        if params.runtime.billing:
            fitting = budget.estimate_remaining_epochs(record.epoch_time)
            report.budget(budget.check(), fitting, plan.epochs - record.epoch)

    hooks = Hooks(report.step, on_epoch, budget.check, leaving.asked)
    try:
        with console, leaving.answered_between_steps():
            return fitted(training, hooks, progress)
    finally:
        run.log({"cost_usd": budget.check().spent})
