"""Validation on self-blended clips of the val split: the figures by which the best epoch is chosen.

Shapes: B clips, C channels, T frames, H, W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn

from stf.training.records import count_failures
from stf.training.step import Batch, require_finite, to_device
from stf.training.train_state import TrainState


@dataclass(frozen=True)
class ValidationFigures:
    """Means over clips; accuracy and F1 (fake is positive) at a probability of 0.5."""

    loss: float
    accuracy: float
    auc: float
    f1: float
    failures: Counter[str]
    pairs_failed: int
    pairs: int


@dataclass(frozen=True)
class _Scored:
    """A batch: N clips, in the batch's order."""

    loss_sum: float
    score_N: np.ndarray
    label_N: np.ndarray
    failures: Counter[str]
    pairs_failed: int


def validate(train_state: TrainState, batches: Iterable[Batch], where: str) -> ValidationFigures:
    """Scores every clip with the evaluation model. Raises TrainingError when the loss is NaN or infinite.

    With several processes `batches` are this one's shard (World.shard), and each returns the figures of all clips.
    """
    network = train_state.evaluation_model.eval()
    scored = train_state.world.unshard([_scored(train_state, network, batch, where) for batch in batches])
    losses, failures = 0.0, Counter[str]()
    for batch in scored:
        losses += batch.loss_sum
        failures += batch.failures
    score_N = np.concatenate([batch.score_N for batch in scored])
    label_N = np.concatenate([batch.label_N for batch in scored])
    called_N = score_N > 0.5
    return ValidationFigures(
        loss=losses / len(label_N),
        accuracy=float((called_N == label_N).mean()),
        auc=float(roc_auc_score(label_N, score_N)),
        f1=float(f1_score(label_N, called_N)),
        failures=failures,
        pairs_failed=sum(batch.pairs_failed for batch in scored),
        pairs=len(label_N) // 2,
    )


def _scored(train_state: TrainState, network: nn.Module, batch: Batch, where: str) -> _Scored:
    label_N = batch.label.numpy()
    video_BCTHW, labels_B = to_device(batch, train_state.device)
    with torch.no_grad(), train_state.autocast():
        out = network(video_BCTHW)
        loss = train_state.loss(out, labels_B)["total"].item()
    require_finite("the validation loss", loss, where, [batch])
    score_N = out["logits"].float().softmax(1)[:, 1].cpu().numpy()
    return _Scored(loss * len(label_N), score_N, label_N, failures_in(batch), pairs_failed_in(batch))


def failures_in(batch: Batch) -> Counter[str]:
    """Failed draws behind a batch, by cause, and the codec's fallbacks; a pair's two members count once."""
    pairs = list(dict.fromkeys(batch.provenance))
    failures = count_failures(pair.failures for pair in pairs)
    failures.update("H.264 replaced by JPEG" for pair in pairs if pair.codec == "jpeg")
    return failures


def pairs_failed_in(batch: Batch) -> int:
    """How many of a batch's pairs had a failed draw."""
    return sum(bool(pair.failures) for pair in dict.fromkeys(batch.provenance))
