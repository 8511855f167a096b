"""From parameters and measured figures to a forecast; the forecast that is kept; the line a training starts with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from stf.config import Params, PhaseName, STFV8Config
from stf.data.outputs import write_json
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.training.forecast import (
    Figure,
    Money,
    PhaseForecast,
    PlanForecast,
    Rates,
    Work,
    as_json,
    phase_forecast,
)
from stf.training.forecast_measure import StepRates, quick_step_rates, seconds_per_pair
from stf.training.state import config_hash

PHASES: tuple[PhaseName, ...] = ("a", "b")
QUICK_S = 2.0  # for the pairs of an estimate, and half of it for the steps
STORED = "checkpoints/forecast.json"


@dataclass(frozen=True)
class Scenario:
    """One forecast, and what is assumed in it ("" when all rates are measured)."""

    assumption: str
    plan: PlanForecast


@dataclass(frozen=True)
class CoreSeconds:
    """What one core takes: for a pair, an evaluation clip, and all frames that the face cache still lacks."""

    pair: float
    read: float
    cache: float


def money_of(params: Params) -> Money:
    """The budget's three figures."""
    budget = params.budget
    return Money(budget.cost_per_hour, budget.max_budget, budget.safety_margin)


def works_of(params: Params, videos: Mapping[str, int]) -> dict[PhaseName, Work]:
    """Both phases' clips from the number of real videos in each split; a test video has a fake of every method."""
    data, evaluation = params.data, params.evaluation
    train = 2 * videos["train"] * data.train_pairs_per_video
    val = 2 * videos["val"] * data.val_pairs_per_video
    test = videos["test"] * (1 + len(evaluation.methods)) * evaluation.clips_per_video
    sections = {"a": params.phase_a, "b": params.phase_b}
    return {phase: Work(sections[phase].epochs, train, val, test) for phase in PHASES}


def plan_of(
    params: Params,
    videos: Mapping[str, int],
    costs: CoreSeconds,
    steps: Mapping[PhaseName, tuple[float, float]],
    cores: int,
    *,
    shared: bool,
) -> PlanForecast:
    """Both phases with the loader on as many of `cores` as there are workers; `steps`: (trained, scored) clips/s."""
    workers = max(1, min(cores, params.runtime.num_workers))
    phases = {}
    for phase, work in works_of(params, videos).items():
        trained, scored = steps[phase]
        rates = Rates(2 * workers / costs.pair, trained, scored, workers / costs.read, shared)
        phases[phase] = phase_forecast(work, rates)
    return PlanForecast(phases, costs.cache / workers / 3600, money_of(params))


def machine_key(params: Params, device: str, cores: int) -> str:
    """What a kept forecast belongs to: both configurations, prices, loader and machine."""
    runtime = params.runtime
    told = [config_hash(params, phase) for phase in PHASES]
    told += [dataclasses.asdict(params.budget), dataclasses.asdict(params.evaluation)]
    told += [runtime.num_workers, runtime.threads, runtime.face_cache]
    told += [runtime.compile, runtime.activation_checkpointing]
    if device.startswith("cuda"):
        told.append(torch.cuda.get_device_name(device))
    return hashlib.sha256(json.dumps([*told, device, cores]).encode()).hexdigest()[:16]


def store_forecast(path: Path, key: str, figures: Sequence[Figure], scenarios: Sequence[Scenario]) -> None:
    """Writes what was found, in one step."""
    made = datetime.now().astimezone().isoformat(timespec="minutes")
    plans = [{"assumption": s.assumption, **as_json(s.plan)} for s in scenarios]
    inputs = [dataclasses.asdict(figure) for figure in figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"made": made, "key": key, "inputs": inputs, "forecasts": plans})


def stored_line(path: Path, key: str, phase: PhaseName, money: Money) -> str | None:
    """The kept forecast in a line, when there is one of this very plan and machine."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] != key:
            return None
        plan = stored["forecasts"][0]
        hours, usd = plan["phases"][phase]["hours"], plan["usd"]
        return (
            f"forecast of {stored['made'][:16]} by pipeline.forecast: phase {phase.upper()} "
            f"{duration(hours)}, ${hours * money.cost_per_hour:.2f}; both phases ${usd:.2f} of ${money.max_budget:.2f}"
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # none, or not one of this version: it is only a notice


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
    videos = {"train": len(dataset.videos), "val": 0, "test": 0}
    work = works_of(params, videos)[phase]
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
