"""The line that a training starts with: the forecast kept of this plan and machine, or an estimate in seconds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from stf.config import Params, PhaseName, STFV8Config
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.forecast.forecast import Money, PhaseForecast, Rates, Work, phase_forecast
from stf.forecast.measure import StepRates, quick_step_rates, seconds_per_pair
from stf.io.cores import usable_cores
from stf.io.files import read_json
from stf.io.paths import repository_root

QUICK_S = 2.0  # for the pairs of an estimate, and half of it for the steps
STORED = "checkpoints/forecast.json"


def money_of(params: Params) -> Money:
    """The budget's three figures."""
    budget = params.budget
    return Money(budget.cost_per_hour, budget.max_budget, budget.safety_margin)


def machine_key(params: Params, device: str, cores: int) -> str:
    """What a kept forecast belongs to: all parameters, and the machine."""
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    told = [dataclasses.asdict(params), gpu, device, cores]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def stored_line(path: Path, key: str, phase: PhaseName, money: Money) -> str | None:
    """The kept forecast in a line, when there is one of this very plan and machine."""
    try:
        stored = read_json(path)
        if stored["key"] != key:
            return None
        plan, made = stored["forecasts"][0], datetime.fromisoformat(stored["made"])
        hours, usd = plan["phases"][phase]["hours"], plan["usd"]
        return (
            f"forecast of {made:%Y-%m-%dT%H:%M} by pipeline.forecast: phase {phase.upper()} "
            f"{duration(hours)}, ${hours * money.cost_per_hour:.2f}; both phases ${usd:.2f} of ${money.max_budget:.2f}"
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # none, or not one of this version: it is only a notice


def forecast_line(
    params: Params, phase: PhaseName, dataset: VideoSBIDataset, device: str, processes: int
) -> str:
    """What the phase will take: as pipeline.forecast found it for this plan and machine, else an estimate."""
    cores = usable_cores()
    kept = None
    if processes == 1:  # pipeline.forecast measures one process
        key = machine_key(params, device, cores)
        kept = stored_line(repository_root() / STORED, key, phase, money_of(params))
    config = STFV8Config.from_params(params, phase)
    return kept or quick_line(params, config, phase, dataset, On(device, cores, processes))


def quick_line(
    params: Params, config: STFV8Config, phase: PhaseName, dataset: VideoSBIDataset, on: On
) -> str:
    """An estimate of this phase's training in a few seconds, from some pairs and steps on this machine."""
    pair_s, _ = seconds_per_pair(dataset, QUICK_S, max_pairs=3)
    checkpointing = params.runtime.activation_checkpointing
    steps = quick_step_rates(config, params.training, on.device, QUICK_S / 2, checkpointing=checkpointing)
    forecast = _training_only(params, phase, dataset, pair_s, steps, on)
    money = money_of(params)
    usd = forecast.training_hours * money.cost_per_hour
    return (
        f"estimate: phase {phase.upper()} trains about {duration(forecast.training_hours)}, ${usd:.2f} of "
        f"${money.max_budget:.2f} ({forecast.clips_per_s:.1f} clips/s, bound by {_bound(forecast)})\n"
        "          python -m pipeline.forecast measures both phases and their evaluation"
    )


@dataclass(frozen=True)
class On:
    """Where a training runs: its device, the cores of this machine, and how many processes share the work."""

    device: str
    cores: int
    processes: int = 1


def _training_only(
    params: Params, phase: PhaseName, dataset: VideoSBIDataset, pair_s: float, steps: StepRates, on: On
) -> PhaseForecast:
    section = params.phase_a if phase == "a" else params.phase_b
    work = Work(section.epochs, len(dataset), val_clips=0, test_clips=0)
    workers = max(1, min(on.cores, params.runtime.num_workers * on.processes))
    network = 1 if on.device == "cpu" else on.processes  # processes on a CPU share its cores
    trained, scored = steps.trained * network, steps.scored * network
    made = 2 * workers / pair_s
    return phase_forecast(work, Rates(made, trained, scored, made, shared=on.device == "cpu"))


def _bound(forecast: PhaseForecast) -> str:
    return {"data": "the loader", "network": "the network", "cores": "the cores"}[forecast.bottleneck]


def duration(hours: float) -> str:
    """'2.1 h', '34 min' or '12 s'."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 2 else f"{hours * 3600:.0f} s"
