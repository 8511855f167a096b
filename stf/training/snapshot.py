"""A learner's whole state as plain values and tensors, and back: optimizer, schedule, scaler, average, generators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stf.training.learner import Learner
from stf.training.progress import Progress


def restore_learner(learner: Learner, payload: dict[str, Any], state: dict[str, Any]) -> Progress:
    """Makes `learner` what it was when `payload` was written, with its part `state`; returns how far it was.

    Raises KeyError, TypeError, ValueError or RuntimeError for the state of another network or version.
    """
    progress = Progress.from_dict(payload["epoch"], state)
    for weights in (payload["model"], state["ema"] or {}, progress.best.weights if progress.best else {}):
        _require_finite(weights)
    learner.model.load_state_dict(payload["model"])
    learner.loss.load_state_dict(payload["loss"])
    learner.optimizer.load_state_dict(payload["optimizer"])
    _require_moments_that_fit(learner)
    learner.scaler.load_state_dict(payload["scaler"])
    learner.schedule.step_update(progress.global_step)
    if learner.ema is not None:
        learner.ema.module.load_state_dict(state["ema"])
    if learner.world.rank < len(state["rng"]):
        _set_random_state(state["rng"][learner.world.rank], learner.device)
    return progress


def _require_finite(weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite numbers")


def _require_moments_that_fit(learner: Learner) -> None:
    for parameter, moments in learner.optimizer.state.items():
        for moment in moments.values():
            if isinstance(moment, Tensor) and moment.dim() > 0 and moment.shape != parameter.shape:
                raise ValueError("the optimizer's moments are of another network")


def setting_of(learner: Learner) -> dict[str, Any]:
    """On what the bits of a result depend beside parameters, data and code."""
    return {
        "device": learner.device.type,
        "threads": torch.get_num_threads(),
        "processes": learner.world.size,
        "torch": str(torch.__version__),
    }


def random_state_of(device: torch.device) -> dict[str, Tensor]:
    """The states of this process's two streams: dropout draws from the device's."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
