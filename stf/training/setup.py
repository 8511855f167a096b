"""What a training command decides before the first clip: configuration, device, starting weights, folder, money."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import nn

from stf.config import Params, PhaseName, STFV8Config
from stf.data.ffpp import require_fingerprint
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.errors import TrainingError
from stf.forecast.line import STORED, On, machine_key, money_of, quick_line, stored_line
from stf.io.cores import usable_cores
from stf.io.distributed import ALONE, World
from stf.io.hashing import sha256_of
from stf.io.paths import DATA_JSON, repository_root
from stf.io.processes import set_up_process
from stf.models.backbone_v73 import STFMambaV73
from stf.models.checkpointing import use_checkpointing
from stf.models.compilation import compile_blocks
from stf.models.scan_backends import unusable_because
from stf.models.spatial_weights import load_spatial_weights
from stf.models.weights import LoadReport, load_checkpoint_flexible
from stf.training.budget_tracker import BudgetStatus, BudgetTracker
from stf.training.code import code_digest
from stf.training.face_cache import training_reader
from stf.training.feeds import build_feeds
from stf.training.learner import Learner, build_learner
from stf.training.ledger import ledger_usd, process_age_s
from stf.training.loop import Feeds, Plan
from stf.training.progress import Progress, config_hash
from stf.training.state import CheckpointFolder, Origin

DRY_RUN_EPOCHS = 2
DRY_RUN_PAIRS = 4


@dataclass(frozen=True)
class Start:
    """The checkpoint that phase B starts from, and how it fitted."""

    path: str
    sha256: str
    report: LoadReport


@dataclass(frozen=True)
class PhaseRun:
    """One training of one phase: what it was asked to do, on what, and from what."""

    phase: PhaseName
    params: Params
    config: STFV8Config
    device: str
    fingerprint: str  # of the data
    plan: str  # whose budget this is: the hash of phase A's configuration
    dry_run: bool
    world: World = ALONE
    start: Start | None = None


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
    runtime = params.runtime
    if dry_run:  # its few clips are sooner read from the PNGs
        runtime = dataclasses.replace(runtime, face_cache="")
    return dataclasses.replace(
        params, **{f"phase_{phase}": section, "training": training, "runtime": runtime}
    )


def prepared(phase: PhaseName, params: Params, world: World, *, plan: str, dry_run: bool) -> PhaseRun:
    """The phase's configuration, the device, and the data's fingerprint; seeds torch.

    `plan` is phase A's hash as the parameter file has it: an option of a command opens no budget of its own. Raises
    ConfigError for what this machine cannot do, DataError for data that nobody verified.
    """
    config = STFV8Config.from_params(params, phase)
    device = set_up_process(params.runtime, world)
    torch.manual_seed(params.seed)  # first weights and dropout; clips have generators of their own
    fingerprint = require_fingerprint(params.data.root, DATA_JSON)
    world.require_same("params.yaml (the hash of what changes training)", config_hash(params, phase))
    world.require_same("the data's fingerprint", fingerprint)
    return PhaseRun(phase, params, config, device, fingerprint, plan, dry_run, world)


def tell_forecast(phase_run: PhaseRun, dataset: VideoSBIDataset) -> None:
    """Prints what the phase will take: as pipeline.forecast found it for this plan and machine, else an estimate."""
    params, cores = phase_run.params, usable_cores()
    key = machine_key(params, phase_run.device, cores)
    alone = phase_run.world.size == 1  # pipeline.forecast measures one process
    told = stored_line(repository_root() / STORED, key, phase_run.phase, money_of(params)) if alone else None
    on = On(phase_run.device, cores, phase_run.world.size)
    click.echo(told or quick_line(params, phase_run.config, phase_run.phase, dataset, on))


def tell_backend(config: STFV8Config, chosen: str, device: str) -> None:
    """Says on the console which scan backend runs, and why."""
    why = ""
    if config.ssm_backend == "auto":
        why = " (auto)" if chosen == "mamba_ssm" else f" (auto: not mamba_ssm, {unusable_because(device)})"
    click.echo(f"scan backend: {chosen}{why}")


def from_scratch(phase_run: PhaseRun, model: nn.Module) -> None:
    """Says where the weights of a pretrained spatial backbone come from; nothing to do for the built-in one.

    Raises CheckpointError or ConfigError when they cannot be had: never random weights in silence.
    """
    told = load_spatial_weights(model, phase_run.config)
    if told:
        click.echo(told)


def start_from(phase_run: PhaseRun, model: nn.Module, path: str) -> PhaseRun:
    """Loads what `path` has in common with `model` and remembers what that was; raises CheckpointError."""
    report = load_checkpoint_flexible(path, model)
    digest = sha256_of(path)
    return dataclasses.replace(phase_run, start=Start(path, digest, report))


def checkpoint_folder(phase_run: PhaseRun) -> CheckpointFolder:
    """checkpoints/<hash of configuration and starting weights>."""
    start = phase_run.start
    digest = config_hash(phase_run.params, phase_run.phase, start.sha256 if start else None)
    origin = Origin(digest, phase_run.fingerprint, code_digest(f"train_phase_{phase_run.phase}"))
    return CheckpointFolder(_checkpoints() / digest, phase_run.config, origin)


def _checkpoints() -> Path:
    """In the real repository: under `dvc exp run --temp` the working folder is a copy that DVC throws away."""
    return repository_root() / "checkpoints"


def open_budget(phase_run: PhaseRun) -> BudgetTracker:
    """The plan's budget, from this process's first moment."""
    params, ledger, other_usd = phase_run.params, None, 0.0
    if params.runtime.billing and not phase_run.dry_run:
        ledger, other_usd = _ledgers(params, phase_run.phase, phase_run.plan)
    money = params.budget
    budget = BudgetTracker(
        money.cost_per_hour,
        money.max_budget,
        money.safety_margin,
        billing=params.runtime.billing,
        ledger_path=ledger,
        other_usd=other_usd,
    )
    budget.backdate(process_age_s())
    return budget


def ends_without_money(
    phase_run: PhaseRun, progress: Progress, planned_epochs: int, spent: BudgetStatus
) -> bool:
    """Whether the budget ends the run where it starts, because it has a best epoch to show already.

    A finished run needs no money. One that has no validated epoch yet takes another step and gets one from the safety
    margin. Raises TrainingError when there is nothing to show and the margin is used up, or nothing was trained.
    """
    if not spent.should_stop or progress.epoch >= planned_epochs:
        return False
    if progress.best is None and (progress.global_step == 0 or spent.remaining == 0):
        money, ledger = phase_run.params.budget, _checkpoints() / phase_run.plan / "ledger"
        raise TrainingError(
            f"no budget is left: earlier runs of this plan spent ${spent.spent:.2f} of ${money.max_budget:.2f}, and "
            f"training stops at {1 - money.safety_margin:.0%}; raise budget.max_budget, or delete {ledger} to "
            "forget what they spent"
        )
    return progress.best is not None


def money_text(params: Params, phase: PhaseName, plan: str) -> str:
    """A sentence on what the plan has spent and may still spend."""
    if not params.runtime.billing:
        return "Billing is off, so no money is counted."
    own, other_usd = _ledgers(params, phase, plan)
    money, spent = params.budget, other_usd + ledger_usd(own)
    left = max(money.max_budget * (1 - money.safety_margin) - spent, 0.0)
    return f"The plan has spent ${spent:.2f} of ${money.max_budget:.2f}, with ${left:.2f} left before training stops."


def _ledgers(params: Params, phase: PhaseName, plan: str) -> tuple[Path, float]:
    """(ledger of this phase, what the plan's other phase has cost); stf.training.ledger says what a ledger is.

    A plan is one phase A and a phase B from it. Phase A's cost counts for every phase B from it; each configuration
    of phase B has a ledger of its own, so that ablations of it can be trained, at the same time too. To phase A
    counts the dearest of them.
    """
    folder = _checkpoints() / plan / "ledger"
    if phase == "a":
        return folder / "a", max(map(ledger_usd, folder.glob("b_*")), default=0.0)
    return folder / f"b_{config_hash(params, 'b')}", ledger_usd(folder / "a")


def set_up_training(phase_run: PhaseRun, model: STFMambaV73, outputs: Path) -> Training:
    """Clips, optimizer and checkpoint folder of a phase."""
    params, config = phase_run.params, phase_run.config
    max_pairs = DRY_RUN_PAIRS if phase_run.dry_run else None
    use_checkpointing(model, params.runtime.activation_checkpointing)
    if params.runtime.compile:
        compile_blocks(model, phase_run.device)
    reader = training_reader(params, phase_run.fingerprint)
    feeds, dataset = build_feeds(config, params, max_pairs, phase_run.world, reader)
    section = params.phase_a if phase_run.phase == "a" else params.phase_b
    runtime = params.runtime
    keep_every_s = 60 * runtime.checkpoint_minutes
    plan = Plan(
        phase_run.phase,
        section.epochs,
        config.grad_accum,
        runtime.empty_cache_every,
        keep_every_s,
        params.data.max_failure_share,
    )
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
