"""What the training commands share: a phase from its network to its outputs, tracked and inside its budget."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import NoReturn

import click
import torch

from pipeline.face_cache import prepare_face_cache
from pipeline.training_outputs import report_outputs, tell_what_is_trained, write_outputs
from pipeline.training_setup import (
    PhaseRun,
    Training,
    open_budget,
    set_up_training,
    tell_backend,
    tell_forecast,
)
from stf.models.backbone_v73 import STFMambaV73
from stf.tracking.loggers import ConsoleLogger, CSVLogger
from stf.tracking.run import TrackedRun, track
from stf.tracking.training_report import TrainingReport
from stf.training.budget_tracker import BudgetTracker
from stf.training.distributed import start_alike
from stf.training.fit import Hooks, fit
from stf.training.records import EpochDetails, EpochRecord
from stf.training.state import Progress


def run_phase(phase_run: PhaseRun, model: STFMambaV73, resume_path: str | None) -> None:
    """Trains `model` and writes the phase's outputs, the weights first; a run that fails leaves the old ones.

    Of several processes rank 0 does what there is to do once: folder, budget, MLflow, console, outputs.
    """
    outputs = dry_run_folder() if phase_run.dry_run and phase_run.world.is_main else Path()
    training = set_up_training(phase_run, model, outputs)
    if phase_run.world.is_main:
        tell_plan(training)
        lead(training, resume_path)
    else:
        follow(training, resume_path)


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


def lead(training: Training, resume_path: str | None) -> None:
    """The run of a single process, or of rank 0: trains, tracks and writes."""
    phase_run = training.phase_run
    tracked = track(
        f"train_phase_{phase_run.phase}",
        params=phase_run.params,
        config=phase_run.config,
        fingerprint=phase_run.fingerprint,
        device=phase_run.device,
    )
    with training.folder.locked():
        budget = open_budget(phase_run)
        prepare_face_cache(phase_run.params, phase_run.fingerprint)  # on the budget's clock
        with tracked as run:
            tell_what_is_trained(training, run)
            progress = starting_point(training, resume_path)
            progress = train(training, progress, budget, run)
            best = write_outputs(training, progress)
            report_outputs(training, best, run)
            run.tag("stopped_by_budget", str(progress.stopped_by_budget).lower())
    if progress.stopped_by_budget:
        done = f"in epoch {progress.epoch} of {training.plan.epochs}"
        click.secho(f"the budget stopped training {done}", fg="yellow")


def follow(training: Training, resume_path: str | None) -> None:
    """The run of every other rank: it trains its share, and writes nothing but what a disk of its own lacks."""
    prepare_face_cache(training.phase_run.params, training.phase_run.fingerprint)
    progress = starting_point(training, resume_path)
    hooks = Hooks(_not_here, _not_here, _not_here)
    fit(training.learner, training.feeds, training.plan, hooks, training.folder, progress)


def _not_here(*_: object) -> NoReturn:
    raise AssertionError("only rank 0 reports and looks at the budget")


def starting_point(training: Training, resume_path: str | None) -> Progress:
    """The beginning, or where --resume says; the same for every process, each with random numbers of its own."""
    phase_run, learner, progress = training.phase_run, training.learner, Progress()
    world = phase_run.world
    if world.rank > 0:  # dropout of one process is not that of another
        torch.manual_seed(phase_run.params.seed + world.rank)
    if resume_path is not None:
        progress, told = training.folder.resume(resume_path, learner)
        click.echo(told)
    world.require_same(f"the epoch that {resume_path} ends with", progress.epoch)
    start_alike((learner.model, learner.loss, learner.judged), world)
    return progress


def train(training: Training, progress: Progress, budget: BudgetTracker, run: TrackedRun) -> Progress:
    """`fit` with console, CSV log, MLflow and budget around it."""
    params, plan, learner = training.phase_run.params, training.plan, training.learner
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

    hooks = Hooks(report.step, on_epoch, budget.check)
    try:
        with console:
            return fit(learner, training.feeds, plan, hooks, training.folder, progress)
    finally:
        budget.close()
        run.log({"cost_usd": budget.check().spent})
