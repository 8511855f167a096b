"""One optimizer step over one or more batches: forward, backward, finite check, clip, update.

Shapes: B clips, C channels, T frames, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stf.console.training import non_finite
from stf.data.pairs import as_floats
from stf.data.video_sbi_dataset import Provenance
from stf.errors import TrainingError
from stf.training.records import StepFigures
from stf.training.train_state import TrainState

_DIAGNOSTICS = ("e_real", "e_fake", "margin", "active_share")


class Batch(NamedTuple):
    """B clips: real, fake, real, fake, … of whole pairs."""

    video: Tensor  # (B, C, T, H, W), uint8 or float32 in [0, 1]
    label: Tensor  # (B,), int64: 0 real, 1 fake
    provenance: list[Provenance]  # of B clips


def train_step(train_state: TrainState, batches: Sequence[Batch], where: str) -> StepFigures:
    """Updates `train_state` by the mean loss over `batches`, which hold equally many clips (gradient accumulation).

    With several processes `batches` are this one's parts of the global batches, equally many clips in each process;
    DistributedDataParallel averages the gradients during the last backward pass, and the figures are those of all
    clips. `where` ("epoch 3, step 17") is for the message of the TrainingError that a NaN or infinite loss or gradient
    raises, before any weight is changed.
    """
    world, share = train_state.world, 1 / len(batches)
    world.barrier()  # a process whose clips cannot be read raises here, before the others wait for its gradients
    train_state.objective.train()
    train_state.optimizer.zero_grad(set_to_none=True)
    parts: list[dict[str, float]] = []
    with world.synchronized():
        for i, batch in enumerate(batches, 1):
            video_BCTHW, labels_B = to_device(batch, train_state.device)
            with nullcontext() if i == len(batches) else train_state.accumulating():
                with train_state.autocast():
                    losses = train_state.objective(video_BCTHW, labels_B)
                train_state.scaler.scale(share * losses["total"]).backward()
            loss, ce, hll, n_correct = torch.stack(
                [losses["total"].detach(), losses["ce"], losses["hll"], losses["correct"]]
            ).tolist()  # one sync
            diagnostics = train_state.loss.diagnostics()  # NaN where a loss has no such figure
            parts.append(
                {"loss": loss, "ce": ce, "hll": hll, "correct": n_correct}
                | {name: diagnostics.get(name, math.nan) for name in _DIAGNOSTICS}
            )
    for part, batch in zip(parts, batches, strict=True):
        require_finite("the loss", part["loss"], where, [batch])
    parts = [part for parts_of_rank in world.all_gather(parts) for part in parts_of_rank]
    norm = _update(train_state, batches, where)
    if train_state.ema is not None:
        train_state.ema.update(train_state.model)
    means = {
        name: math.fsum(share / world.size * part[name] for part in parts)
        for name in ("loss", "ce", "hll", *_DIAGNOSTICS)
    }
    n_correct = sum(int(part["correct"]) for part in parts)
    n_clips = world.size * sum(len(batch.label) for batch in batches)
    return StepFigures(**means, grad_norm=norm, correct=n_correct, clips=n_clips)


def _update(train_state: TrainState, batches: Sequence[Batch], where: str) -> float:
    """Clips and applies the gradients; returns their norm before."""
    scaler = train_state.scaler
    scaler.unscale_(train_state.optimizer)
    norm = nn.utils.clip_grad_norm_(train_state.objective.parameters(), train_state.max_grad_norm).item()
    if not math.isfinite(norm):  # in every process: the message names all clips of the step
        no_clips = torch.empty(0)
        own = [Batch(no_clips, no_clips, batch.provenance) for batch in batches]
        batches = [
            batch for batches_of_rank in train_state.world.all_gather(own) for batch in batches_of_rank
        ]
    if not scaler.is_enabled():
        require_finite("the gradient's norm", norm, where, batches)
    scaler.step(train_state.optimizer)  # float16: skipped when the norm is infinite, and the scale is halved
    scaler.update()
    if scaler.is_enabled() and scaler.get_scale() < 1.0:
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
