"""One optimizer step over one or more batches: forward, backward, finite check, clip, update.

Shapes: B clips, C channels, T frames, H, W pixels. A batch is {'video' (B, C, T, H, W), 'label' (B,),
'provenance' (list of B)}; a process's share of a batch may have B = 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stf.data.pairs import as_floats
from stf.errors import TrainingError
from stf.training.distributed import has_gradient, sum_gradients
from stf.training.learner import Learner
from stf.training.records import StepFigures

Batch = Mapping[str, Any]
_DIAGNOSTICS = ("e_real", "e_fake", "margin", "active_share")


def train_step(learner: Learner, batches: Sequence[Batch], where: str) -> StepFigures:
    """Updates the learner by the mean loss over all clips of `batches` (gradient accumulation).

    Every batch counts by its clips, so a short last one weighs what it should. With several processes `batches` are
    this one's shares, perhaps empty, and the figures are those of all. `where` ("epoch 3, step 17") is for the message
    of the TrainingError that a NaN or infinite loss or gradient raises, before any weight is changed.
    """
    world, parameters = learner.world, list(learner.parameters())
    total_clips = sum(world.exchange(sum(len(batch["label"]) for batch in batches)))
    batches = [batch for batch in batches if len(batch["label"])]
    learner.model.train()
    learner.optimizer.zero_grad(set_to_none=True)
    parts = [_backward(learner, batch, len(batch["label"]) / total_clips) for batch in batches]
    for part, batch in zip(parts, batches, strict=True):
        require_finite("the loss", part["loss"], where, [batch])
    gathered = world.exchange((parts, has_gradient(parameters)))
    sum_gradients(parameters, [reached for _, reached in gathered])
    norm = _update(learner, parameters, batches, where)
    if learner.ema is not None:
        learner.ema.update(learner.model)
    parts = [part for parts, _ in gathered for part in parts]
    means = {
        name: math.fsum(part["share"] * part[name] for part in parts)
        for name in ("loss", "ce", "hll", *_DIAGNOSTICS)
    }
    correct = sum(int(part["correct"]) for part in parts)
    return StepFigures(**means, grad_norm=norm, correct=correct, clips=total_clips)


def _update(
    learner: Learner, parameters: Sequence[nn.Parameter], batches: Sequence[Batch], where: str
) -> float:
    """Clips and applies the gradients; returns their norm before."""
    learner.scaler.unscale_(learner.optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, learner.max_grad_norm).item()
    if not math.isfinite(norm):  # for every process: then it is all clips that are to be named
        batches = [batch for share in learner.world.exchange(_without_clips(batches)) for batch in share]
    if not learner.scaler.is_enabled():
        require_finite("the gradient's norm", norm, where, batches)
    learner.scaler.step(
        learner.optimizer
    )  # float16: skipped when the norm is infinite, and the scale is halved
    learner.scaler.update()
    if learner.scaler.is_enabled() and learner.scaler.get_scale() < 1.0:
        require_finite("the gradient's norm (float16, at the smallest scale)", norm, where, batches)
    return norm


def _without_clips(batches: Sequence[Batch]) -> list[Batch]:
    return [{"provenance": batch["provenance"]} for batch in batches]


def _backward(learner: Learner, batch: Batch, share: float) -> dict[str, float]:
    """Adds share × the batch's gradient; returns share and figures, NaN where a loss has no such figure."""
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
    named = {"share": share} | dict(zip(("loss", "ce", "hll", "correct"), figures, strict=True))
    return named | {name: seen.get(name, math.nan) for name in _DIAGNOSTICS}


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """(video as float32, labels) on the device; from pinned memory the copy overlaps the work before it."""
    video, labels = (batch[name].to(device, non_blocking=True) for name in ("video", "label"))
    return as_floats(video), labels


def require_finite(what: str, value: float, where: str, batches: Iterable[Batch]) -> None:
    """Raises TrainingError with the place, the clips and their seeds when `value` is NaN or infinite."""
    if math.isfinite(value):
        return
    provenances = dict.fromkeys(provenance for batch in batches for provenance in batch["provenance"])
    clips = "; ".join(f"{p.video_id} from frame {p.start_frame}, seed {p.seed}" for p in provenances)
    raise TrainingError(
        f"{what} became {value} at {where}; nothing was overwritten. The clips: {clips}. VideoSBIDataset.pair "
        "makes one again from its seed's epoch and pair (2nd and 3rd number); are they sound, lower lr or max_grad_norm"
    )
