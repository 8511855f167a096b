"""Everything that a training step changes, built in one place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from stf.config import STFV8Config, TrainingParams
from stf.io.distributed import ALONE, World
from stf.models.backbone_v73 import STFMambaV73
from stf.models.losses import STFV8Loss
from stf.training.optimizer import build_optimizer, build_schedule


@dataclass
class TrainState:
    """Network, loss (with its margin m), optimizer, schedule, gradient scaler and moving average.

    `amp_dtype` None means float32 throughout. `scaler` works with float16 alone. Every process of `world` has a
    train_state; they start alike and stay so, bit for bit, because each applies the same sum of gradients.
    """

    model: STFMambaV73
    loss: STFV8Loss
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
        """The network that is validated and kept: the moving average where there is one."""
        return cast(STFMambaV73, self.ema.module) if self.ema is not None else self.model

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that is trained: the network's parameters and the margin."""
        yield from self.model.parameters()
        yield from self.loss.parameters()

    def autocast(self) -> torch.autocast:
        """The mixed-precision context of the forward pass; does nothing in float32."""
        return torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None)


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
    """Moves `model` to the device and builds the rest around it. Mixed precision is for CUDA alone."""
    place = torch.device(device)
    model.to(place)
    loss = STFV8Loss(config).to(place)
    optimizer = build_optimizer(model, loss, config, training.backbone_lr_scale)
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": None}
    amp_dtype = dtypes[config.amp_dtype] if place.type == "cuda" else None
    return TrainState(
        model=model,
        loss=loss,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config, epochs, steps_per_epoch),
        scaler=torch.amp.GradScaler(place.type, enabled=amp_dtype == torch.float16),
        ema=ModelEmaV3(model, decay=training.ema_decay) if training.ema_decay > 0 else None,
        device=place,
        amp_dtype=amp_dtype,
        max_grad_norm=config.max_grad_norm,
        world=world,
    )
