"""From parameters and measured figures to a forecast of both phases, and into the file that is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from stf.config import Params, PhaseName
from stf.forecast.forecast import Figure, PlanForecast, Rates, Work, as_json, phase_forecast
from stf.forecast.line import money_of
from stf.io.outputs import write_json

PHASES: tuple[PhaseName, ...] = ("a", "b")


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


def store_forecast(path: Path, key: str, figures: Sequence[Figure], scenarios: Sequence[Scenario]) -> None:
    """Writes what was found, in one step."""
    made = datetime.now().astimezone().isoformat(timespec="minutes")
    plans = [{"assumption": s.assumption, **as_json(s.plan)} for s in scenarios]
    inputs = [dataclasses.asdict(figure) for figure in figures]
    write_json(path, {"made": made, "key": key, "inputs": inputs, "forecasts": plans})
