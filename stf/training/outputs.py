"""What a training leaves behind: figures and pictures in its MLflow run, weights, summary and log on disk."""

from __future__ import annotations

import itertools
import json

import click
import torch
from matplotlib.figure import Figure
from torch import nn

from stf.config import DCCONV
from stf.data.pairs import as_floats
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.errors import TrainingError
from stf.io.atomic import sweep
from stf.model_size import multiply_adds
from stf.models.checkpoint_file import write_atomically
from stf.tracking.pictures import hll_figure, pairs_figure
from stf.tracking.run import TrackedRun
from stf.training.learner import Learner
from stf.training.loop import Feeds
from stf.training.progress import Best, Progress
from stf.training.setup import PhaseRun, Training
from stf.training.summary import phase_summary, write_json

PICTURED_PAIRS = 4


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


def write_outputs(training: Training, progress: Progress) -> Best:
    """Weights, summary and CSV log, each in one step; returns the epoch that was kept."""
    phase_run, folder, best = training.phase_run, training.folder, progress.best
    name, outputs = f"phase_{phase_run.phase}", training.outputs
    if best is None:
        raise TrainingError("training ended without a validated epoch; start again without --resume")
    for folder_of in ("weights", "metrics"):
        sweep(outputs / folder_of, f"{name}*")
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
