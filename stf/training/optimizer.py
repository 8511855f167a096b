"""AdamW's parameter groups, and its learning rate over optimizer steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim._param_groups import param_groups_weight_decay
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from stf.config import STFV8Config
from stf.models.backbone_v73 import STFMambaV73

# Some biases are matrices (a row per scan direction) or are called conv_bias: timm's own rule misses these.
_BIASES = "*bias"


def parameter_groups(
    model: STFMambaV73, loss: nn.Module, *, weight_decay: float, backbone_lr_scale: float
) -> list[dict[str, Any]]:
    """AdamW groups: {early stages × backbone_lr_scale, the rest × 1} × {decayed, not}, and the loss's margin.

    Norms, biases and what `model.no_weight_decay()` names (A, D, Δ bias of the SSM) do not decay, by timm's
    grouping; neither does the margin m, which decay would pull to 0. Frozen parameters are in no group.
    `lr_scale` is timm's key: its schedulers multiply a group's whole curve by it, floor min_lr included.
    """
    backbone = {id(parameter) for _, parameter in model.backbone_parameters()}
    exempt = (*model.no_weight_decay(), _BIASES)
    groups: list[dict[str, Any]] = []
    for decayed in param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt):
        for name, lr_scale in (("backbone", backbone_lr_scale), ("temporal", 1.0)):
            members = [p for p in decayed["params"] if (id(p) in backbone) == (name == "backbone")]
            if members:
                groups.append({**decayed, "params": members, "lr_scale": lr_scale, "name": name})
    margin = list(loss.parameters())
    if margin:
        groups.append({"params": margin, "weight_decay": 0.0, "lr_scale": 1.0, "name": "loss"})
    return groups


def build_optimizer(
    model: STFMambaV73, loss: nn.Module, config: STFV8Config, backbone_lr_scale: float
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, at config.lr."""
    groups = parameter_groups(
        model, loss, weight_decay=config.weight_decay, backbone_lr_scale=backbone_lr_scale
    )
    return torch.optim.AdamW(groups, lr=config.lr)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: STFV8Config, epochs: int, steps_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up over config.warmup_epochs, then one cosine that reaches config.min_lr as the run ends.

    Call `step_update(n)` after the n-th optimizer step. The warm-up takes at most half of the run (a short
    trial with --epochs would otherwise never leave it) and starts at lr / its steps: at 0 the first step
    would do nothing.
    """
    total = epochs * steps_per_epoch
    warmup = min(config.warmup_epochs * steps_per_epoch, total // 2)
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=max(total - warmup, 1),
        lr_min=config.min_lr,
        warmup_t=warmup,
        warmup_lr_init=config.lr / warmup if warmup else 0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    schedule.step_update(0)  # timm starts a run without warm-up at the unscaled rate
    return schedule


def learning_rates(optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """(of the temporal modules and head, of the early stages, NaN when frozen), as the next step will use them."""
    by_name = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
    return by_name.get("temporal", math.nan), by_name.get("backbone", math.nan)
