"""Validation on self-blended clips of the val split: the figures by which the best epoch is chosen.

Shapes: B clips, C channels, T frames, H, W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from stf.training.learner import Learner
from stf.training.records import count_failures
from stf.training.step import Batch, require_finite, to_device

_MAX_REMEMBERED_BYTES = 4 << 30  # FF++: 140 videos make 1.3 GiB


@dataclass(frozen=True)
class ValidationFigures:
    """Means over clips; accuracy and F1 (fake is positive) at a probability of 0.5."""

    loss: float
    accuracy: float
    auc: float
    f1: float
    failures: Counter[str]


def validate(learner: Learner, batches: Iterable[Batch], where: str) -> ValidationFigures:
    """Scores every clip with the judged network. Raises TrainingError when the loss is NaN or infinite."""
    network = learner.judged.eval()
    scores: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    losses, failures = 0.0, Counter[str]()
    for batch in batches:
        video_BCTHW, labels_B = to_device(batch, learner.device)
        with torch.no_grad(), learner.autocast():
            out = network(video_BCTHW)
            loss = learner.loss(out, labels_B)["total"].item()
        require_finite("the validation loss", loss, where, [batch])
        losses += loss * len(labels_B)
        scores.append(out["logits"].float().softmax(1)[:, 1].cpu().numpy())
        labels.append(batch["label"].numpy())
        failures += failures_in(batch)
    score_N, label_N = np.concatenate(scores), np.concatenate(labels)
    called_N = score_N > 0.5
    return ValidationFigures(
        loss=losses / len(label_N),
        accuracy=float((called_N == label_N).mean()),
        auc=float(roc_auc_score(label_N, score_N)),
        f1=float(f1_score(label_N, called_N)),
        failures=failures,
    )


def failures_in(batch: Batch) -> Counter[str]:
    """Failed draws behind a batch, by cause, and the codec's fallbacks; a pair's two members count once."""
    pairs = list(dict.fromkeys(batch["provenance"]))
    failures = count_failures(pair.failures for pair in pairs)
    failures.update("H.264 replaced by JPEG" for pair in pairs if pair.codec == "jpeg")
    return failures


class RememberedBatches:
    """Batches that are the same every epoch: the first pass asks `loader`, later ones repeat it.

    Making 24 validation pairs costs as much as an epoch's training steps. Clips are kept as the uint8 they
    were made from, up to `max_bytes`; beyond that the loader is asked every time.
    """

    def __init__(self, loader: Iterable[Batch], max_bytes: int = _MAX_REMEMBERED_BYTES) -> None:
        self._loader: Iterable[Batch] | None = loader
        self._max_bytes = max_bytes
        self._kept: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            yield from ({**batch, "video": _unpacked(batch["video"])} for batch in self._kept)
            return
        kept: list[Batch] = []
        room = self._max_bytes
        for batch in self._loader:
            if room > 0:
                packed = _packed(batch["video"])
                room -= packed.numel() * packed.element_size()
                kept.append({**batch, "video": packed})
            if room <= 0:
                kept.clear()
            yield batch
        if room > 0:
            self._kept, self._loader = kept, None  # lets the loader's workers go


def _packed(video_BCTHW: Tensor) -> Tensor:
    """uint8 when that loses nothing, which holds for clips that were uint8 / 255."""
    bytes_BCTHW = (video_BCTHW * 255).round().to(torch.uint8)
    return bytes_BCTHW if torch.equal(_unpacked(bytes_BCTHW), video_BCTHW) else video_BCTHW.clone()


def _unpacked(video_BCTHW: Tensor) -> Tensor:
    return video_BCTHW.float() * (1 / 255) if video_BCTHW.dtype == torch.uint8 else video_BCTHW
