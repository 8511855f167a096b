"""What the training commands share: a phase from its network to its outputs, tracked and inside its budget."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from matplotlib.figure import Figure

from stf.config import Params, PhaseName, STFV8Config
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.errors import TrainingError
from stf.models.backbone_v73 import STFMambaV73
from stf.models.weights import write_atomically
from stf.tracking.loggers import ConsoleLogger, CSVLogger
from stf.tracking.pictures import hll_figure, pairs_figure
from stf.tracking.run import TrackedRun, track
from stf.tracking.training_report import TrainingReport
from stf.training.budget_tracker import BudgetTracker
from stf.training.feeds import build_feeds
from stf.training.fit import Feeds, Hooks, Plan, fit
from stf.training.learner import Learner, build_learner
from stf.training.records import EpochDetails, EpochRecord
from stf.training.state import Best, CheckpointFolder, Origin, Progress, config_hash
from stf.training.summary import phase_summary, write_json

DRY_RUN_EPOCHS, DRY_RUN_PAIRS = 2, 4
PICTURED_PAIRS = 4


@dataclass(frozen=True)
class PhaseRun:
    """One training of one phase: what it was asked to do, on what."""

    phase: PhaseName
    params: Params
    config: STFV8Config
    device: str
    fingerprint: str  # of the data
    dry_run: bool


def overridden(
    params: Params, phase: PhaseName, epochs: int | None, batch_size: int | None, dry_run: bool
) -> Params:
    """`params` with the command line's options in them, so that they are validated and recorded like the file's."""
    section = params.phase_a if phase == "a" else params.phase_b
    wanted = DRY_RUN_EPOCHS if dry_run else epochs
    if wanted is not None:
        section = dataclasses.replace(section, epochs=wanted)
    training = params.training
    if batch_size is not None:
        training = dataclasses.replace(training, batch_size=batch_size)
    return dataclasses.replace(params, **{f"phase_{phase}": section, "training": training})


def run_phase(phase_run: PhaseRun, model: STFMambaV73, resume_path: str | None) -> None:
    """Trains `model` and writes the phase's outputs, the weights first; a run that fails leaves the old ones."""
    params, config, outputs = phase_run.params, phase_run.config, Path()
    if phase_run.dry_run:
        outputs = Path(tempfile.mkdtemp(prefix="stf-dry-run-"))
        os.environ["DVC_ROOT"] = str(outputs)  # checkpoints and the MLflow store follow it
        click.echo(f"dry run: all that it writes goes to {outputs}; no output of the pipeline is touched")
    click.echo(config.describe())
    feeds, dataset = build_feeds(config, params, DRY_RUN_PAIRS if phase_run.dry_run else None)
    section = params.phase_a if phase_run.phase == "a" else params.phase_b
    plan = Plan(phase_run.phase, section.epochs, config.grad_accum, params.runtime.empty_cache_every)
    learner = build_learner(
        model,
        config,
        params.training,
        epochs=plan.epochs,
        steps_per_epoch=plan.steps_per_epoch(len(feeds.train)),
        device=phase_run.device,
    )
    folder = checkpoint_folder(phase_run)
    stage = f"train_phase_{phase_run.phase}"
    tracked = track(
        stage,
        params=params,
        config=config,
        fingerprint=phase_run.fingerprint,
        device=phase_run.device,
    )
    with folder.locked(), tracked as run:
        run.tag("dry_run", str(phase_run.dry_run).lower())
        run.figure(pairs_figure([dataset.pair(0, pair) for pair in pictured(dataset)]), "sample_pairs.png")
        progress = starting_point(folder, learner, resume_path)
        progress = train(phase_run, plan, feeds, learner, folder, progress, run)
        best = write_outputs(phase_run, learner, folder, progress, outputs)
        report_outputs(phase_run, learner, feeds, best, outputs, run)
        run.tag("stopped_by_budget", str(progress.stopped_by_budget).lower())
        if progress.stopped_by_budget:
            click.secho(
                f"the budget stopped training in epoch {progress.epoch} of {plan.epochs}", fg="yellow"
            )


def checkpoint_folder(phase_run: PhaseRun) -> CheckpointFolder:
    """checkpoints/<config hash> of the real repository: under `dvc exp run --temp` the working folder is a copy."""
    digest = config_hash(phase_run.params, phase_run.phase)
    place = Path(os.environ.get("DVC_ROOT", ".")) / "checkpoints" / digest
    return CheckpointFolder(place, phase_run.config, Origin(digest, phase_run.fingerprint))


def pictured(dataset: VideoSBIDataset) -> list[int]:
    """Pairs spread over the training videos."""
    n = min(PICTURED_PAIRS, dataset.n_pairs)
    return [i * dataset.n_pairs // n for i in range(n)]


def starting_point(folder: CheckpointFolder, learner: Learner, resume_path: str | None) -> Progress:
    """The beginning, or where --resume says."""
    if resume_path is None:
        return Progress()
    progress, told = folder.resume(resume_path, learner)
    click.echo(told)
    return progress


def open_budget(phase_run: PhaseRun, folder: CheckpointFolder) -> BudgetTracker:
    """The plan's budget; raises TrainingError when earlier runs have used it up."""
    money, billing = phase_run.params.budget, phase_run.params.runtime.billing
    plan_folder = folder.path.parent / config_hash(phase_run.params, "a")
    ledger = plan_folder / "ledger.json" if billing and not phase_run.dry_run else None
    budget = BudgetTracker(
        money.cost_per_hour, money.max_budget, money.safety_margin, billing=billing, ledger_path=ledger
    )
    status = budget.check()
    if status.should_stop:
        raise TrainingError(
            f"earlier runs of this plan spent ${status.spent:.2f} of ${money.max_budget:.2f}, and training "
            f"stops at {1 - money.safety_margin:.0%}; raise budget.max_budget, or delete {ledger} to forget them"
        )
    return budget


def train(
    phase_run: PhaseRun,
    plan: Plan,
    feeds: Feeds,
    learner: Learner,
    folder: CheckpointFolder,
    progress: Progress,
    run: TrackedRun,
) -> Progress:
    """`fit` with console, CSV log, MLflow and budget around it."""
    params = phase_run.params
    budget = open_budget(phase_run, folder)
    csv = CSVLogger(folder.path / "log.csv")
    for record in progress.history:
        csv.log(dataclasses.asdict(record))
    console = ConsoleLogger(
        plan.phase,
        plan.epochs,
        plan.steps_per_epoch(len(feeds.train)),
        cost_per_hour=params.budget.cost_per_hour,
        first_epoch=progress.epoch + 1,
    )
    report = TrainingReport(run, console, csv, log_every_steps=params.runtime.log_every_steps)

    def on_epoch(record: EpochRecord, details: EpochDetails) -> None:
        report.epoch(record, details)
        if params.runtime.billing:
            fitting = budget.estimate_remaining_epochs(record.epoch_time)
            report.budget(budget.check(), fitting, plan.epochs - record.epoch)

    try:
        with console:
            return fit(learner, feeds, plan, Hooks(report.step, on_epoch, budget.check), folder, progress)
    finally:
        budget.close()
        run.log({"cost_usd": budget.check().spent})


def write_outputs(
    phase_run: PhaseRun, learner: Learner, folder: CheckpointFolder, progress: Progress, outputs: Path
) -> Best:
    """Weights, summary and CSV log below `outputs`, each in one step; returns the epoch that was kept."""
    name, best = f"phase_{phase_run.phase}", progress.best
    if best is None:
        raise TrainingError("training ended without a validated epoch; start again without --resume")
    summary = phase_summary(progress, best, phase_run.params, phase_run.config, phase_run.phase)
    folder.keep_best(learner, best, outputs / f"weights/{name}.pt")
    write_json(outputs / f"metrics/{name}.json", summary)
    write_atomically(outputs / f"metrics/{name}_log.csv", (folder.path / "log.csv").read_bytes())
    return best


def report_outputs(
    phase_run: PhaseRun,
    learner: Learner,
    feeds: Feeds,
    best: Best,
    outputs: Path,
    run: TrackedRun,
) -> None:
    """Ties the weights to the MLflow run, registers them, pictures what they see, and says where they are."""
    name = f"phase_{phase_run.phase}"
    weights = outputs / f"weights/{name}.pt"
    learner.judged.load_state_dict(best.weights)
    run.figure(flicker_figure(learner, feeds), "hll_maps.png")
    run.artifact(outputs / f"metrics/{name}.json")
    run.artifact(outputs / f"metrics/{name}_log.csv")
    run.tie_weights(weights)
    run.register(weights, phase_run.config)
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
    video_BCTHW = torch.cat(videos)
    with torch.no_grad():
        logits_BK = network(video_BCTHW.to(learner.device))["logits"].float()
    maps_BTHW = network.hll_maps(video_BCTHW.to(learner.device)).float().cpu().numpy()
    return hll_figure(video_BCTHW.numpy(), maps_BTHW, titles, logits_BK.softmax(1)[:, 1].tolist())
