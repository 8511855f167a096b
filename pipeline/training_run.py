"""What the training commands share: a phase from its network to its outputs, tracked and inside its budget."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
import torch
from matplotlib.figure import Figure
from torch import nn

from pipeline.face_cache import prepare_face_cache, training_reader
from pipeline.training_setup import PhaseRun, checkpoint_folder, open_budget, tell_backend, tell_forecast
from stf.config import DCCONV
from stf.data.pairs import as_floats
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.errors import TrainingError
from stf.model_size import multiply_adds
from stf.models.backbone_v73 import STFMambaV73
from stf.models.weights import write_atomically
from stf.tracking.loggers import ConsoleLogger, CSVLogger
from stf.tracking.pictures import hll_figure, pairs_figure
from stf.tracking.run import TrackedRun, track
from stf.tracking.training_report import TrainingReport
from stf.training.budget_tracker import BudgetTracker
from stf.training.distributed import start_alike
from stf.training.feeds import build_feeds
from stf.training.fit import Feeds, Hooks, Plan, fit
from stf.training.learner import Learner, build_learner
from stf.training.records import EpochDetails, EpochRecord
from stf.training.state import Best, CheckpointFolder, Progress
from stf.training.summary import phase_summary, write_json

DRY_RUN_PAIRS = 4
PICTURED_PAIRS = 4


@dataclass(frozen=True)
class Training:
    """Everything that one run of a phase works with."""

    phase_run: PhaseRun
    plan: Plan
    feeds: Feeds
    dataset: VideoSBIDataset
    learner: Learner
    folder: CheckpointFolder
    outputs: Path  # weights/ and metrics/ lie below it


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
        report = phase_run.start.report
        click.echo(f"starting from {phase_run.start.path}, epoch {report.epoch}:\n{report.table()}")


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


def set_up_training(phase_run: PhaseRun, model: STFMambaV73, outputs: Path) -> Training:
    """Clips, optimizer and checkpoint folder of a phase."""
    params, config = phase_run.params, phase_run.config
    max_pairs = DRY_RUN_PAIRS if phase_run.dry_run else None
    reader = training_reader(params, phase_run.fingerprint)
    feeds, dataset = build_feeds(config, params, max_pairs, phase_run.world, reader)
    section = params.phase_a if phase_run.phase == "a" else params.phase_b
    plan = Plan(phase_run.phase, section.epochs, config.grad_accum, params.runtime.empty_cache_every)
    learner = build_learner(
        model,
        config,
        params.training,
        epochs=plan.epochs,
        steps_per_epoch=plan.steps_per_epoch(len(feeds.train)),
        device=phase_run.device,
        world=phase_run.world,
    )
    return Training(phase_run, plan, feeds, dataset, learner, checkpoint_folder(phase_run), outputs)


def tell_what_is_trained(training: Training, run: TrackedRun) -> None:
    """The network's size and backend, where its weights come from, and some of its clips, into the MLflow run."""
    phase_run, dataset = training.phase_run, training.dataset
    run.tag("dry_run", str(phase_run.dry_run).lower())
    run.tag("processes", phase_run.world.size)
    run.tag("ssm_backend", training.learner.model.ssm_backend)
    run.log(size_figures(training.learner.model, phase_run))
    if phase_run.start is not None:
        transfer = phase_run.start.report
        run.starts_from(phase_run.start.sha256)
        run.log({f"transfer/{name}": float(n) for name, n in transfer.counts().items()})
        run.text(transfer.table() + "\n", "transfer/table.txt")
        run.text(json.dumps(transfer.as_rows(), indent=1) + "\n", "transfer/modules.json")
    run.figure(pairs_figure([dataset.pair(0, pair) for pair in pictured(dataset)]), "sample_pairs.png")


def size_figures(network: nn.Module, phase_run: PhaseRun) -> dict[str, float]:
    """Parameters of the network as it stands, and its multiply-adds for one clip in units of 1e9.

    Those of a network with a timm backbone are not counted, so they are left out.
    """
    figures = {"model/parameters": float(sum(parameter.numel() for parameter in network.parameters()))}
    if phase_run.config.spatial_backbone == DCCONV:
        figures["model/gmacs_per_clip"] = multiply_adds(phase_run.config).total / 1e9
    return figures


def pictured(dataset: VideoSBIDataset) -> list[int]:
    """Pairs spread over the training videos."""
    n = min(PICTURED_PAIRS, dataset.n_pairs)
    return [i * dataset.n_pairs // n for i in range(n)]


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


def write_outputs(training: Training, progress: Progress) -> Best:
    """Weights, summary and CSV log, each in one step; returns the epoch that was kept."""
    phase_run, folder, best = training.phase_run, training.folder, progress.best
    name, outputs = f"phase_{phase_run.phase}", training.outputs
    if best is None:
        raise TrainingError("training ended without a validated epoch; start again without --resume")
    summary = phase_summary(progress, best, phase_run.params, phase_run.config, phase_run.phase)
    if phase_run.start is not None:
        summary |= {"transfer": phase_run.start.report.counts()}
    folder.keep_best(training.learner, best, outputs / f"weights/{name}.pt")
    write_json(outputs / f"metrics/{name}.json", summary)
    write_atomically(outputs / f"metrics/{name}_log.csv", (folder.path / "log.csv").read_bytes())
    return best


def report_outputs(training: Training, best: Best, run: TrackedRun) -> None:
    """Ties the weights to the MLflow run, registers them, pictures what they see, and says where they are."""
    name, outputs = f"phase_{training.phase_run.phase}", training.outputs
    weights = outputs / f"weights/{name}.pt"
    training.learner.judged.load_state_dict(best.weights)
    run.figure(flicker_figure(training.learner, training.feeds), "hll_maps.png")
    run.artifact(outputs / f"metrics/{name}.json")
    run.artifact(outputs / f"metrics/{name}_log.csv")
    run.tie_weights(weights)
    run.register(weights, training.phase_run.config)
    click.echo(
        f"best epoch {best.epoch}: AUC {best.val_auc:.4f} on self-blended validation clips (not on deepfakes); "
        f"wrote {weights} and {outputs / f'metrics/{name}.json'}"
    )


def flicker_figure(learner: Learner, feeds: Feeds) -> Figure:
    """|HLL| of the first pair of some validation batches, as the kept weights see them."""
    network, videos, titles = learner.judged.eval(), [], []
    for batch in itertools.islice(feeds.val, PICTURED_PAIRS):
        videos.append(batch["video"][:2])
        titles += [f"{name} {batch['provenance'][0].video_id}" for name in ("real", "fake")]
    video_BCTHW = as_floats(torch.cat(videos))
    with torch.no_grad():
        logits_BK = network(video_BCTHW.to(learner.device))["logits"].float()
    maps_BTHW = network.hll_maps(video_BCTHW.to(learner.device)).float().cpu().numpy()
    return hll_figure(video_BCTHW.numpy(), maps_BTHW, titles, logits_BK.softmax(1)[:, 1].tolist())
