"""One optimizer step over one or more batches: forward, backward, finite check, clip, update.

Shapes: B clips, C channels, T frames, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stf.console.training import non_finite
from stf.data.pairs import as_floats
from stf.data.video_sbi_dataset import Provenance
from stf.errors import TrainingError
from stf.training.distributed import has_gradient, sum_gradients
from stf.training.records import StepFigures
from stf.training.train_state import TrainState

_DIAGNOSTICS = ("e_real", "e_fake", "margin", "active_share")


class Batch(NamedTuple):
    """B clips: real, fake, real, fake, … of whole pairs. A process's share of a batch may have B = 0."""

    video: Tensor  # (B, C, T, H, W), uint8 or float32 in [0, 1]
    label: Tensor  # (B,), int64: 0 real, 1 fake
    provenance: list[Provenance]  # of B clips


def train_step(train_state: TrainState, batches: Sequence[Batch], where: str) -> StepFigures:
    """Updates the train_state by the mean loss over all clips of `batches` (gradient accumulation).

    Every batch counts by its clips, so a short last one weighs what it should. With several processes `batches` are
    this one's shares, perhaps empty, and the figures are those of all. `where` ("epoch 3, step 17") is for the message
    of the TrainingError that a NaN or infinite loss or gradient raises, before any weight is changed.
    """
    world, parameters = train_state.world, list(train_state.parameters())
    total_clips = sum(world.exchange(sum(len(batch.label) for batch in batches)))
    batches = [batch for batch in batches if len(batch.label)]
    train_state.model.train()
    train_state.optimizer.zero_grad(set_to_none=True)
    parts: list[dict[str, float]] = []
    for batch in batches:
        share = len(batch.label) / total_clips
        video_BCTHW, labels_B = to_device(batch, train_state.device)
        with train_state.autocast():
            out = train_state.model(video_BCTHW)
            losses = train_state.loss(out, labels_B)
        train_state.scaler.scale(share * losses["total"]).backward()
        correct = (out["logits"].argmax(1) == labels_B).sum()
        loss, ce, hll, n_correct = torch.stack(
            [losses["total"].detach(), losses["ce"], losses["hll"], correct]
        ).tolist()  # one sync
        seen = train_state.loss.diagnostics()  # NaN where a loss has no such figure
        parts.append(
            {"share": share, "loss": loss, "ce": ce, "hll": hll, "correct": n_correct}
            | {name: seen.get(name, math.nan) for name in _DIAGNOSTICS}
        )
    for part, batch in zip(parts, batches, strict=True):
        require_finite("the loss", part["loss"], where, [batch])
    gathered = world.exchange((parts, has_gradient(parameters)))
    sum_gradients(parameters, [reached for _, reached in gathered])
    norm = _update(train_state, parameters, batches, where)
    if train_state.ema is not None:
        train_state.ema.update(train_state.model)
    parts = [part for parts, _ in gathered for part in parts]
    means = {
        name: math.fsum(part["share"] * part[name] for part in parts)
        for name in ("loss", "ce", "hll", *_DIAGNOSTICS)
    }
    n_correct = sum(int(part["correct"]) for part in parts)
    return StepFigures(**means, grad_norm=norm, correct=n_correct, clips=total_clips)


def _update(
    train_state: TrainState, parameters: Sequence[nn.Parameter], batches: Sequence[Batch], where: str
) -> float:
    """Clips and applies the gradients; returns their norm before."""
    train_state.scaler.unscale_(train_state.optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, train_state.max_grad_norm).item()
    if not math.isfinite(norm):  # for every process: then all clips of the step are to be named
        nothing = torch.empty(0)
        own = [Batch(nothing, nothing, batch.provenance) for batch in batches]
        batches = [batch for share in train_state.world.exchange(own) for batch in share]
    if not train_state.scaler.is_enabled():
        require_finite("the gradient's norm", norm, where, batches)
    train_state.scaler.step(
        train_state.optimizer
    )  # float16: skipped when the norm is infinite, and the scale is halved
    train_state.scaler.update()
    if train_state.scaler.is_enabled() and train_state.scaler.get_scale() < 1.0:
        require_finite("the gradient's norm (float16, at the smallest scale)", norm, where, batches)
    return norm


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """(video as float32, labels) on the device; from pinned memory the copy overlaps the work before it."""
    video, labels = (part.to(device, non_blocking=True) for part in (batch.video, batch.label))
    return as_floats(video), labels


def require_finite(what: str, value: float, where: str, batches: Iterable[Batch]) -> None:
    """Raises TrainingError with the place, the clips and their seeds when `value` is NaN or infinite."""
    if not math.isfinite(value):
        clips = list(dict.fromkeys(provenance for batch in batches for provenance in batch.provenance))
        raise TrainingError(non_finite(what, value, where, clips))
