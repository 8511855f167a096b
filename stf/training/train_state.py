"""Everything that a training step changes, built in one place.

Shapes: B clips, C channels, T frames, H, W pixels.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stf.config import STFV8Config, TrainingParams
from stf.io.distributed import ALONE, World
from stf.models.backbone_v73 import STFMambaV73
from stf.models.losses import STFV8Loss
from stf.training.optimizer import build_optimizer, build_schedule


class Objective(nn.Module):
    """Network and loss as one module: DistributedDataParallel has to see the learned margin too."""

    def __init__(self, model: STFMambaV73, loss: STFV8Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, video_BCTHW: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
        """{"total", "ce", "hll"} of STFV8Loss and "correct", the number of clips classified correctly."""
        out = self.model(video_BCTHW)
        correct = (out["logits"].argmax(1) == labels_B).sum()
        return self.loss(out, labels_B) | {"correct": correct}


@dataclass
class TrainState:
    """Network, loss (with its margin m), optimizer, schedule, gradient scaler and moving average.

    `objective` is network and loss as one module, which DistributedDataParallel wraps when there are several processes;
    `model` and `loss` are never wrapped, so names of parameters do not depend on the number of processes. `amp_dtype`
    None means float32 throughout. `scaler` works with float16 only. Every process of `world` has a train state; they
    stay the same, bit for bit, because each applies the same averaged gradients.
    """

    model: STFMambaV73
    loss: STFV8Loss
    objective: Objective | DistributedDataParallel
    optimizer: torch.optim.Optimizer
    schedule: CosineLRScheduler
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None
    device: torch.device
    amp_dtype: torch.dtype | None
    max_grad_norm: float
    world: World = ALONE

    @property
    def evaluation_model(self) -> STFMambaV73:
        """The network that is validated and saved: the moving average where there is one."""
        return cast(STFMambaV73, self.ema.module) if self.ema is not None else self.model

    def autocast(self) -> torch.autocast:
        """The mixed-precision context of the forward pass; does nothing in float32."""
        return torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None)

    def accumulating(self) -> AbstractContextManager[None]:
        """The context of every batch of a step but the last: its gradients stay in this process."""
        return (
            self.objective.no_sync() if isinstance(self.objective, DistributedDataParallel) else nullcontext()
        )


def build_train_state(
    model: STFMambaV73,
    config: STFV8Config,
    training: TrainingParams,
    *,
    epochs: int,
    steps_per_epoch: int,
    device: str,
    world: World = ALONE,
) -> TrainState:
    """Moves `model` to the device and builds the rest around it. Mixed precision is for CUDA only.

    With several processes all start from rank 0's weights and buffers; raises UsageError when their networks differ.
    """
    place = torch.device(device)
    model.to(place)
    loss = STFV8Loss(config).to(place)
    objective = Objective(model, loss)
    if world.size > 1:
        world.require_same("the number of parameters", sum(p.numel() for p in objective.parameters()))
        # backward() lays out the gradients of convolutions with an axis of length 1 differently: torch copies them then
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with world.synchronized():
            objective = DistributedDataParallel(objective)
    optimizer = build_optimizer(model, loss, config, training.backbone_lr_scale)
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": None}
    amp_dtype = dtypes[config.amp_dtype] if place.type == "cuda" else None
    return TrainState(
        model=model,
        loss=loss,
        objective=objective,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config, epochs, steps_per_epoch),
        scaler=torch.amp.GradScaler(place.type, enabled=amp_dtype == torch.float16),
        ema=ModelEmaV3(model, decay=training.ema_decay) if training.ema_decay > 0 else None,
        device=place,
        amp_dtype=amp_dtype,
        max_grad_norm=config.max_grad_norm,
        world=world,
    )
