"""Hours and dollars of both phases from rates and counts. Pure arithmetic; measure.py takes the rates.

A clip is one real or fake member; a pair is two clips.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from stf.config import BudgetParams, Params, PhaseName

PHASES: tuple[PhaseName, ...] = ("a", "b")
# Multiply-adds of a training step per multiply-add of a forward pass: forward, and twice as much backward.
STEP_FACTOR = 3


@dataclass(frozen=True)
class Gpu:
    """From the maker's data sheet: dense bfloat16 tensor-core TFLOP/s, GB of memory."""

    tflops: float
    memory_gb: int


GPUS = {
    "A100": Gpu(312, 80),
    "H100": Gpu(989, 80),
    "H200": Gpu(989, 141),
    "L40S": Gpu(362, 48),
    "RTX4090": Gpu(165, 24),
}
# Share of a GPU's peak that a step reaches. Assumed: small channel counts, gathers and scans keep this network far from
# the 30-50 % of large transformers. No GPU was at hand where this was written.
UTILISATION = {"pessimistic": 0.04, "middle": 0.10, "optimistic": 0.20}


@dataclass(frozen=True)
class Figure:
    """One input of a forecast, and where it is from."""

    name: str
    value: float
    unit: str
    source: Literal["measured", "computed", "given", "assumed"]
    note: str = ""


@dataclass(frozen=True)
class Work:
    """What a phase has to do, in clips: training and validation per epoch, evaluation once."""

    epochs: int
    train_clips: int
    val_clips: int = 0
    test_clips: int = 0


@dataclass(frozen=True)
class Rates:
    """Clips per second: made by all loader workers, trained on, scored, and read for evaluation.

    `shared`: the network runs on the cores that also make the clips, so that the two take turns.
    """

    made: float
    trained: float
    scored: float
    read: float
    shared: bool = False

    def together(self, data: float, network: float) -> float:
        """Clips per second of loader and network in step."""
        return 1 / (1 / data + 1 / network) if self.shared else min(data, network)


@dataclass(frozen=True)
class PhaseForecast:
    """Hours of one phase; validation clips are made once and then remembered."""

    epochs: int
    training_hours: float
    validation_hours: float
    evaluation_hours: float
    clips_per_s: float  # of training
    bottleneck: Literal["data", "network", "cores"]

    @property
    def hours(self) -> float:
        """All three."""
        return self.training_hours + self.validation_hours + self.evaluation_hours


def phase_forecast(work: Work, rates: Rates) -> PhaseForecast:
    """One phase at these rates."""
    clips_per_s = rates.together(rates.made, rates.trained)
    first = work.val_clips / rates.together(rates.made, rates.scored)
    later = (work.epochs - 1) * work.val_clips / rates.scored
    slower = "data" if rates.made < rates.trained else "network"
    return PhaseForecast(
        epochs=work.epochs,
        training_hours=work.epochs * work.train_clips / clips_per_s / 3600,
        validation_hours=(first + later) / 3600,
        evaluation_hours=work.test_clips / rates.together(rates.read, rates.scored) / 3600,
        clips_per_s=clips_per_s,
        bottleneck="cores" if rates.shared else slower,
    )


def stop_usd(budget: BudgetParams) -> float:
    """Dollars that may be spent: training stops at (1 − safety_margin) of max_budget."""
    return budget.max_budget * (1 - budget.safety_margin)


def stop_hours(budget: BudgetParams) -> float:
    """How long they last."""
    return stop_usd(budget) / budget.cost_per_hour


@dataclass(frozen=True)
class PlanForecast:
    """Both phases and what comes before them; `assumption` is "" when all rates are measured."""

    phases: dict[PhaseName, PhaseForecast]
    cache_hours: float
    budget: BudgetParams
    assumption: str = ""

    @property
    def hours(self) -> float:
        """Of everything."""
        return self.cache_hours + sum(phase.hours for phase in self.phases.values())

    @property
    def usd(self) -> float:
        """Of everything."""
        return self.hours * self.budget.cost_per_hour

    @property
    def holds(self) -> bool:
        """Whether all of it ends before the budget stops it."""
        return self.usd <= stop_usd(self.budget)

    @property
    def share_that_fits(self) -> float:
        """Of the plan's hours, 0 … 1."""
        return min(1.0, stop_hours(self.budget) / self.hours)

    def epochs_that_fit(self) -> dict[PhaseName, int]:
        """Of each phase's epochs, those before the budget stops; a phase is evaluated before the next begins."""
        left, fitting = stop_hours(self.budget) - self.cache_hours, {}
        for name, phase in self.phases.items():
            per_epoch = (phase.training_hours + phase.validation_hours) / phase.epochs
            fitting[name] = min(phase.epochs, max(0, math.floor(left / per_epoch + 1e-9)))
            left -= fitting[name] * per_epoch + phase.evaluation_hours
        return fitting


def loader_cores(params: Params, cores: int, processes: int = 1) -> int:
    """How many of `cores` make clips: one each for the workers of all `processes`, and at least one."""
    return max(1, min(cores, params.runtime.num_workers * processes))


@dataclass(frozen=True)
class CoreSeconds:
    """Seconds of one core: for a pair, for an evaluation clip, and for all frames that the face cache still lacks."""

    pair: float
    read: float
    cache: float


def plan_forecast(
    params: Params,
    works: Mapping[PhaseName, Work],
    costs: CoreSeconds,
    steps: Mapping[PhaseName, tuple[float, float]],
    cores: int,
    *,
    shared: bool,
    assumption: str = "",
) -> PlanForecast:
    """Both phases; `steps` holds each network's (trained, scored) clips per second."""
    workers = loader_cores(params, cores)
    phases = {}
    for phase, work in works.items():
        trained, scored = steps[phase]
        rates = Rates(2 * workers / costs.pair, trained, scored, workers / costs.read, shared)
        phases[phase] = phase_forecast(work, rates)
    return PlanForecast(phases, costs.cache / workers / 3600, params.budget, assumption)


def needed_clips_per_s(works: Iterable[Work], budget: BudgetParams, *, with_validation: bool) -> float:
    """Clips per second at which all epochs end where the budget stops; validation clips counted or not."""
    clips = sum(w.epochs * (w.train_clips + (w.val_clips if with_validation else 0)) for w in works)
    return clips / (3600 * stop_hours(budget))


def gpu_rates(multiply_adds: int, gpu: Gpu, utilisation: float) -> tuple[float, float]:
    """(trained, scored) clips per second of a network with so many multiply-adds a clip; 2 FLOP each."""
    per_second = 1e12 * gpu.tflops * utilisation / (2 * multiply_adds)
    return per_second / STEP_FACTOR, per_second
