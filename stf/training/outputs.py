"""What a training leaves behind: weights, metrics and log on disk; numbers and pictures in its MLflow run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from stf.config import Params, PhaseName, STFV8Config
from stf.data.pairs import as_floats
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.io.atomic import sweep
from stf.io.hashing import sha256_of
from stf.io.outputs import write_bytes, write_json
from stf.models.load_report import LoadReport
from stf.models.size import multiply_adds
from stf.tracking.pictures import hll_figure, pairs_figure
from stf.tracking.run import TrackedRun
from stf.training.checkpoint_folder import CheckpointFolder
from stf.training.progress import Best, Progress
from stf.training.step import Batch
from stf.training.train_state import TrainState

PICTURED_PAIRS = 4
_AT_BEST = ("val_auc", "val_acc", "val_f1", "val_loss", "train_acc", "train_loss")
_DIGITS = 6


def phase_metrics(
    progress: Progress, best: Best, params: Params, config: STFV8Config, phase: PhaseName
) -> dict[str, str | int | float | bool]:
    """metrics/phase_{phase}.json: the best epoch's figures and how far training went, keys 'a_…' or 'b_…'.

    Validation is on self-blended clips of the val split, not on deepfakes. No time and no cost, which differ from run
    to run; the losses' parts, epoch by epoch, are in the log.
    """
    record = next(record for record in progress.history if record.epoch == best.epoch)
    planned = params.phase_a.epochs if phase == "a" else params.phase_b.epochs
    metrics = {
        "variant": config.variant(),
        "best_epoch": best.epoch,
        **{name: round(getattr(record, name), _DIGITS) for name in _AT_BEST},
        "epochs": len(progress.history),
        "planned_epochs": planned,
        "optimizer_steps": progress.global_step,
        "stopped_by_budget": progress.stopped_by_budget,
    }
    return {f"{phase}_{name}": value for name, value in metrics.items()}


def write_outputs(
    root: Path,
    phase: PhaseName,
    train_state: TrainState,
    folder: CheckpointFolder,
    best: Best,
    metrics: Mapping[str, object],
) -> tuple[Path, Path, Path]:
    """Weights, metrics and CSV log below `root`, each in one step; returns their paths."""
    name = f"phase_{phase}"
    weights, metrics_json = root / f"weights/{name}.safetensors", root / f"metrics/{name}.json"
    log = root / f"metrics/{name}_log.csv"
    for directory in ("weights", "metrics"):
        sweep(root / directory, f"{name}*")
    folder.keep_best(train_state, best, weights)
    write_json(metrics_json, metrics)
    write_bytes(log, (folder.path / "log.csv").read_bytes())
    return weights, metrics_json, log


def log_setup(
    run: TrackedRun,
    network: nn.Module,
    config: STFV8Config,
    dataset: VideoSBIDataset,
    transfer: LoadReport | None,
    starting_sha256: str | None,
) -> None:
    """The network's size and backend, where its weights come from, and some of its clips, into the MLflow run."""
    run.tag("ssm_backend", getattr(network, "ssm_backend", ""))
    run.log(_size_figures(network, config))
    if transfer is not None and starting_sha256 is not None:
        run.starts_from(starting_sha256)
        run.log({f"transfer/{name}": float(n) for name, n in transfer.counts().items()})
        run.text(transfer.table() + "\n", "transfer/table.txt")
        run.text(json.dumps(transfer.as_rows(), indent=1) + "\n", "transfer/modules.json")
    run.figure(pairs_figure([dataset.pair(0, pair) for pair in _pictured(dataset)]), "sample_pairs.png")


def log_outputs(
    run: TrackedRun,
    paths: tuple[Path, Path, Path],
    train_state: TrainState,
    val_batches: Iterable[Batch],
    best: Best,
    config: STFV8Config,
) -> None:
    """Ties the weights to the MLflow run, registers them, and pictures what they see."""
    weights, metrics_json, log = paths
    train_state.evaluation_model.load_state_dict(best.weights)
    run.figure(_flicker_figure(train_state, val_batches), "hll_maps.png")
    run.artifact(metrics_json)
    run.artifact(log)
    run.tie_weights(sha256_of(weights))
    run.register(weights, config)


def _size_figures(network: nn.Module, config: STFV8Config) -> dict[str, float]:
    """Parameters of the network as it stands, and its multiply-adds for one clip in units of 1e9."""
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    gmacs = sum(multiply_adds(config).values()) / 1e9
    return {"model/parameters": float(n_parameters), "model/gmacs_per_clip": gmacs}


def _pictured(dataset: VideoSBIDataset) -> list[int]:
    """Pairs spread over the training videos."""
    n = min(PICTURED_PAIRS, dataset.n_pairs)
    return [i * dataset.n_pairs // n for i in range(n)]


def _flicker_figure(train_state: TrainState, val_batches: Iterable[Batch]) -> Figure:
    """|HLL| of the first pair of some validation batches, as the best epoch's weights see them."""
    network, videos, titles = train_state.evaluation_model.eval(), [], []
    for batch in itertools.islice(val_batches, PICTURED_PAIRS):
        videos.append(batch.video[:2])
        titles += [f"{name} {batch.provenance[0].video_id}" for name in ("real", "fake")]
    video_BCTHW = as_floats(torch.cat(videos))
    with torch.no_grad():
        logits_BK = network(video_BCTHW.to(train_state.device))["logits"].float()
    maps_BTHW = network.hll_maps(video_BCTHW.to(train_state.device)).float().cpu().numpy()
    return hll_figure(video_BCTHW.numpy(), maps_BTHW, titles, logits_BK.softmax(1)[:, 1].tolist())
