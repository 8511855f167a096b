"""One training of one phase, from the parameter file to the files it leaves: build → resume → fit → outputs."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

import click
import torch

from stf.config import Params, PhaseName, STFV8Config
from stf.console.hints import explained
from stf.console.training import print_best, print_network, print_resumed, print_transfer, warn
from stf.data.ffpp import require_fingerprint
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.errors import TrainingError
from stf.io.paths import DATA_JSON, repository_root
from stf.io.processes import open_processes, set_up_process
from stf.models.checkpoint import read_checkpoint
from stf.models.checkpointing import use_checkpointing
from stf.models.compilation import compile_blocks
from stf.models.network import build_network
from stf.models.scan_backends import unusable_because
from stf.models.spatial_weights import load_spatial_weights
from stf.tracking.run import track
from stf.tracking.training_report import open_report
from stf.training.budget import ends_without_money, open_budget, spent_and_left
from stf.training.checkpoint_folder import CheckpointFolder
from stf.training.face_cache import prepare_face_cache, training_reader
from stf.training.gate import require_open_gate
from stf.training.identity import Origin, code_digest, config_hash
from stf.training.loaders import build_loaders, require_whole_pairs
from stf.training.loop import Plan, fit
from stf.training.options import TrainingOptions
from stf.training.outputs import log_outputs, log_setup, phase_metrics, write_outputs
from stf.training.preemption import watch_for_preemption
from stf.training.progress import Progress
from stf.training.train_state import TrainState, build_train_state

DRY_RUN_EPOCHS = 2
DRY_RUN_PAIRS = 4
PHASE_A_WEIGHTS = "weights/phase_a.safetensors"  # what phase B starts from
GATE = "metrics/gate_a.json"
MLFLOW_RECORD = "mlflow"  # in the checkpoint folder: what this training has logged, and its MLflow run
PHASE_A_REPORT = "metrics/eval_a.json"  # its AUC is shown when the gate is closed

Forecast = Callable[[Params, PhaseName, VideoSBIDataset, str, int], str]


def train_phase(  # noqa: C901, PLR0915  # one training, top to bottom
    phase: PhaseName, params_path: str, options: TrainingOptions, forecast: Forecast
) -> None:
    """Trains a phase and writes its outputs, the weights first; a run that fails leaves the old ones.

    `forecast(params, phase, training set, device, processes)` gives the line on hours and dollars that is printed
    before anything is spent. Of several processes only rank 0 has the checkpoint folder, the budget, MLflow, the
    console and the outputs. Raises ConfigError for parameters that do not work on this machine, DataError for data that
    verify_data has not seen, TrainingError when the gate is closed or the budget is spent, Interrupted after a
    preemption; the state is then saved.
    """
    with open_processes() as world, watch_for_preemption() as preemption, ExitStack() as stack:
        # ------------------------------------------------------------------------------ build
        file_params = Params.load(params_path)
        params, dry_run = _overridden(file_params, phase, options), options.dry_run
        plan_id = config_hash(file_params, "a")  # options of the command do not open another budget
        config, plan = STFV8Config.from_params(params, phase), Plan.of(params, phase)
        require_whole_pairs(config.batch_size, world.size)
        if phase == "b" and not dry_run:
            threshold, money = params.phase_b.min_phase_a_auc, spent_and_left(params, phase, plan_id)
            require_open_gate(GATE, threshold, PHASE_A_REPORT, money, params.budget.max_budget)
        elif phase == "b":
            click.echo(f"dry run: phase B starts without a check of {GATE}")
        device = set_up_process(params.runtime, world)
        torch.manual_seed(params.seed)  # first weights and dropout; clips have generators of their own
        fingerprint = require_fingerprint(params.data.root, DATA_JSON)
        world.require_same("params.yaml (the hash of what changes training)", config_hash(params, phase))
        world.require_same("the data's fingerprint", fingerprint)

        network, transfer, starting_sha256 = build_network(config, device), None, None
        if phase == "b" and not (dry_run and not Path(PHASE_A_WEIGHTS).exists()):
            phase_a = read_checkpoint(PHASE_A_WEIGHTS)
            transfer, starting_sha256 = phase_a.load_into(network), phase_a.sha256
            world.require_same(f"{PHASE_A_WEIGHTS} (sha256)", starting_sha256)
        else:
            if phase == "b":
                click.echo(f"dry run: {PHASE_A_WEIGHTS} does not exist, so the network starts from scratch")
            if pretrained := load_spatial_weights(network, config):
                click.echo(pretrained)
        use_checkpointing(network, params.runtime.activation_checkpointing)
        if params.runtime.compile:
            compile_blocks(network, device)

        root = _dry_run_folder() if dry_run and world.is_main else Path()
        reader = training_reader(params, fingerprint)
        max_pairs = max(DRY_RUN_PAIRS, config.batch_size // 2) if dry_run else None
        train_loader, val_batches, train_set = build_loaders(config, params, max_pairs, world, reader)
        if dropped := train_loader.dropped_clips:
            click.echo(
                f"each epoch drops its last {dropped} training clips, which do not fill a batch of "
                f"{config.batch_size}; the order is new in every epoch, so the clips are too"
            )
        steps = plan.steps_per_epoch(len(train_loader))
        train_state = build_train_state(
            network,
            config,
            params.training,
            epochs=plan.epochs,
            steps_per_epoch=steps,
            device=device,
            world=world,
        )
        origin = Origin(
            config_hash(params, phase, starting_sha256), fingerprint, code_digest(f"train_phase_{phase}")
        )
        folder = CheckpointFolder(repository_root() / "checkpoints" / origin.config_hash, config, origin)

        # ------------------------------------------------------------------------------ resume
        budget = None
        if world.is_main:
            if not dry_run:
                click.echo(forecast(params, phase, train_set, device, world.size))
            print_network(config, network.ssm_backend, unusable_because(device))
            if transfer is not None:
                print_transfer(PHASE_A_WEIGHTS, transfer.epoch, transfer.counts())
            stack.enter_context(folder.locked(click.echo))
            budget = stack.enter_context(open_budget(params, phase, plan_id, dry_run=dry_run))
            preemption.check()  # dvc may have ended during the imports or the wait for the lock
            if options.fresh:  # refused without budget before the state is moved aside
                ends_without_money(params, plan_id, Progress(), plan.epochs, budget.check())
        progress = _starting_point(train_state, folder, plan, steps, options, params.seed)
        if options.fresh:
            preemption.option_to_omit = "--fresh"
        elif options.resume_path is not None and not folder.starts_from_weights:
            preemption.option_to_omit = (
                "--resume"  # with the same weights file the run would resume, with a state it would not
            )
        if budget is not None and not params.runtime.billing:  # without a ledger of earlier runs
            budget.backdate(sum(record.epoch_time for record in progress.history) + progress.epoch_s)
        progress.stopped_by_budget = world.broadcast(
            lambda: (
                budget is not None
                and ends_without_money(params, plan_id, progress, plan.epochs, budget.check())
            )
        )
        if progress.epoch < plan.epochs and not progress.stopped_by_budget:
            prepare_face_cache(params, fingerprint)  # its time counts in the budget

        # ------------------------------------------------------------------------------ fit
        run = report = None
        if budget is not None:
            stage, memory = f"train_phase_{phase}", folder.path / MLFLOW_RECORD
            tracked = track(
                stage,
                params=params,
                config=config,
                fingerprint=fingerprint,
                device=device,
                memory=memory,
                identity=folder.identity,
                resume=not options.fresh,  # a new training is a new MLflow run
            )
            run = stack.enter_context(tracked)
            run.tag("dry_run", str(dry_run).lower())
            run.tag("processes", world.size)
            log_setup(run, network, config, train_set, transfer, starting_sha256)
            report = open_report(run, folder.path / "log.csv", params, plan, steps, progress.history, budget)

        try:
            with (
                report or nullcontext(),
                preemption.deferred(),
                explained(params, folder.path, lambda: progress.place(steps)),
            ):
                fit(
                    train_state,
                    train_loader,
                    val_batches,
                    plan,
                    folder,
                    progress,
                    on_step=report and report.step,
                    on_epoch=report and report.epoch,
                    check_budget=budget and budget.check,
                    stop_request=preemption.request,
                )
        finally:
            if run is not None and budget is not None:
                run.log({"cost_usd": budget.check().spent})

        # ------------------------------------------------------------------------------ outputs
        if run is None:  # a rank above 0
            return
        best = progress.best
        if best is None:
            raise TrainingError("training ended without a validated epoch; start again without --resume")
        metrics = phase_metrics(progress, best, params, config, phase)
        paths = write_outputs(root, phase, train_state, folder, best, metrics)
        log_outputs(run, paths, train_state, val_batches, best, config)
        run.tag("stopped_by_budget", str(progress.stopped_by_budget).lower())
        print_best(best.epoch, best.val_auc, *paths[:2])
        if progress.stopped_by_budget:
            warn(f"the budget stopped training in epoch {progress.epoch} of {plan.epochs}")


def _overridden(params: Params, phase: PhaseName, options: TrainingOptions) -> Params:
    """`params` changed by the command line's options, which are then validated and recorded like the file's values."""
    section, training, runtime = (
        params.phase_a if phase == "a" else params.phase_b,
        params.training,
        params.runtime,
    )
    epochs = DRY_RUN_EPOCHS if options.dry_run else options.epochs
    if epochs is not None:
        section = dataclasses.replace(section, epochs=epochs)
    if options.batch_size is not None:
        training = dataclasses.replace(training, batch_size=options.batch_size)
    if options.dry_run:  # its few clips are read from the PNGs faster
        runtime = dataclasses.replace(runtime, face_cache="")
    return dataclasses.replace(
        params, **{f"phase_{phase}": section, "training": training, "runtime": runtime}
    )


def _dry_run_folder() -> Path:
    """A new temporary folder in place of the repository's root, for everything that a dry run writes."""
    root = Path(tempfile.mkdtemp(prefix="stf-dry-run-"))
    os.environ["DVC_ROOT"] = str(root)  # checkpoints and the MLflow store follow it
    click.echo(f"dry run: everything it writes goes to {root}; the outputs of the pipeline stay as they are")
    return root


def _starting_point(
    train_state: TrainState,
    folder: CheckpointFolder,
    plan: Plan,
    steps_per_epoch: int,
    options: TrainingOptions,
    seed: int,
) -> Progress:
    """Where the run starts: at --resume's file, at epoch 1 (--fresh), else at the state on rank 0's disk.

    The same for every process, except for the random numbers.
    """
    world, path, progress, note = train_state.world, None, Progress(), ""
    if world.rank > 0:  # each process draws its own dropout
        torch.manual_seed(seed + world.rank)
    if options.resume_path is not None:
        given = read_checkpoint(options.resume_path)
        world.require_same(f"{options.resume_path} (sha256)", given.sha256)
        path, progress, note = folder.resume(given, train_state, warn)
    elif options.fresh and world.is_main:
        click.echo(folder.move_aside("is not resumed (--fresh)", "before_fresh"))
    elif not options.fresh:
        state, messages = world.broadcast(folder.find)
        for message in messages:
            warn(message)
        if state is not None:
            path = state.path
            progress, note = folder.restore(state, train_state)
    if path is None:
        click.echo("starting at epoch 1")
    elif options.resume_path is not None and progress.global_step == 0:  # from the weights of a file
        click.echo(note)
    else:
        finished = progress.epoch >= plan.epochs
        print_resumed(path, progress.place(steps_per_epoch), finished=finished, note=note)
    return progress
