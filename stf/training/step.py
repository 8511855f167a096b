"""One optimizer step over one or more batches: forward, backward, finite check, clip, update.

Shapes: B clips, C channels, T frames, H, W pixels. A batch is {'video' (B, C, T, H, W), 'label' (B,),
'provenance' (list of B)}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stf.errors import TrainingError
from stf.training.learner import Learner
from stf.training.records import StepFigures

Batch = Mapping[str, Any]
_DIAGNOSTICS = ("e_real", "e_fake", "margin", "active_share")


def train_step(learner: Learner, batches: Sequence[Batch], where: str) -> StepFigures:
    """Updates the learner by the mean loss over all clips of `batches` (gradient accumulation).

    Every batch counts by its clips, so a short last one weighs what it should. `where` ("epoch 3, step 17")
    is for the message of the TrainingError that a NaN or infinite loss or gradient raises, before any weight
    is changed.
    """
    total_clips = sum(len(batch["label"]) for batch in batches)
    learner.model.train()
    learner.optimizer.zero_grad(set_to_none=True)
    parts = [_backward(learner, batch, len(batch["label"]) / total_clips) for batch in batches]
    for part, batch in zip(parts, batches, strict=True):
        require_finite("the loss", part["loss"], where, [batch])
    learner.scaler.unscale_(learner.optimizer)
    norm = nn.utils.clip_grad_norm_(list(learner.parameters()), learner.max_grad_norm).item()
    if not learner.scaler.is_enabled():
        require_finite("the gradient's norm", norm, where, batches)
    learner.scaler.step(
        learner.optimizer
    )  # float16: skipped when the norm is infinite, and the scale is halved
    learner.scaler.update()
    if learner.scaler.is_enabled() and learner.scaler.get_scale() < 1.0:
        require_finite("the gradient's norm (float16, at the smallest scale)", norm, where, batches)
    if learner.ema is not None:
        learner.ema.update(learner.model)
    shares = [len(batch["label"]) / total_clips for batch in batches]
    means = {
        name: math.fsum(share * part[name] for share, part in zip(shares, parts, strict=True))
        for name in ("loss", "ce", "hll", *_DIAGNOSTICS)
    }
    correct = sum(int(part["correct"]) for part in parts)
    return StepFigures(**means, grad_norm=norm, correct=correct, clips=total_clips)


def _backward(learner: Learner, batch: Batch, share: float) -> dict[str, float]:
    """Adds share × the batch's gradient; returns its figures, NaN where a loss has no such figure."""
    video_BCTHW, labels_B = to_device(batch, learner.device)
    with learner.autocast():
        out = learner.model(video_BCTHW)
        losses = learner.loss(out, labels_B)
    learner.scaler.scale(share * losses["total"]).backward()
    correct = (out["logits"].argmax(1) == labels_B).sum()
    figures = torch.stack(
        [losses["total"].detach(), losses["ce"], losses["hll"], correct]
    ).tolist()  # one sync
    seen = learner.loss.diagnostics()
    return dict(zip(("loss", "ce", "hll", "correct"), figures, strict=True)) | {
        name: seen.get(name, math.nan) for name in _DIAGNOSTICS
    }


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """(video, labels) on the device; from pinned memory the copy overlaps the work before it."""
    return batch["video"].to(device, non_blocking=True), batch["label"].to(device, non_blocking=True)


def require_finite(what: str, value: float, where: str, batches: Iterable[Batch]) -> None:
    """Raises TrainingError with the place, the clips and their seeds when `value` is NaN or infinite."""
    if math.isfinite(value):
        return
    provenances = dict.fromkeys(provenance for batch in batches for provenance in batch["provenance"])
    clips = "; ".join(f"{p.video_id} from frame {p.start_frame}, seed {p.seed}" for p in provenances)
    raise TrainingError(
        f"{what} became {value} at {where}; nothing was overwritten. The clips: {clips}. Look at them with "
        "stf.data.video_sbi_dataset.replay; if they are sound, lower lr or max_grad_norm"
    )
