"""A forecast's arithmetic against hand calculations and known rates of the default plan."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from pipeline.forecast import works_of
from stf.config import BudgetParams, Params, PhaseName, STFV8Config
from stf.errors import TrainingError
from stf.forecast import measure
from stf.forecast.measure import quick_step_rates, step_rates
from stf.forecast.plan import (
    GPUS,
    CoreSeconds,
    Figure,
    PlanForecast,
    Rates,
    Work,
    gpu_rates,
    needed_clips_per_s,
    phase_forecast,
    plan_forecast,
)
from stf.forecast.report import duration, machine_key, store_forecast, stored_line
from stf.models.size import multiply_adds

BUDGET = BudgetParams(1.39, 5.0, 0.10)
FFPP = {"train": 720, "val": 140, "test": 140}
A100_PROFILE = Path(__file__).parents[2] / "profiles/ffpp_a100.yaml"


def test_the_default_plan_needs_15_to_18_clips_per_second() -> None:
    works = works_of(Params.load(A100_PROFILE), FFPP).values()
    assert needed_clips_per_s(works, BUDGET, with_validation=False) == pytest.approx(14.8, abs=0.05)
    assert needed_clips_per_s(works, BUDGET, with_validation=True) == pytest.approx(17.7, abs=0.05)


def test_a_phase_by_hand() -> None:
    work = Work(epochs=10, train_clips=360, val_clips=72, test_clips=36)
    forecast = phase_forecast(work, Rates(made=10, trained=20, scored=40, read=1))
    assert forecast.training_hours == pytest.approx(10 * 36 / 3600)
    assert forecast.validation_hours == pytest.approx(
        (7.2 + 9 * 1.8) / 3600
    )  # made once at 10/s, scored at 40/s
    assert forecast.evaluation_hours == pytest.approx(36 / 3600)
    assert (forecast.clips_per_s, forecast.bottleneck) == (10, "data")
    shared = phase_forecast(work, Rates(made=10, trained=10, scored=40, read=1, shared=True))
    assert (shared.clips_per_s, shared.bottleneck) == (5, "cores")


def test_faster_is_never_more_expensive() -> None:
    work = Work(5, 100, 20, 50)
    for made, trained, scored, shared in itertools.product((1, 4), (1, 4), (1, 4), (False, True)):
        base = phase_forecast(work, Rates(made, trained, scored, 2, shared)).hours
        for faster in (
            (2 * made, trained, scored, 2, shared),
            (made, 2 * trained, scored, 2, shared),
            (made, trained, 2 * scored, 2, shared),
            (made, trained, scored, 4, shared),
        ):
            assert phase_forecast(work, Rates(*faster)).hours <= base


def test_a_plan_adds_up_and_reports_what_fits() -> None:
    phase = phase_forecast(Work(1, 3600, 0, 0), Rates(1, 2, 2, 2))
    plan = PlanForecast({"a": phase, "b": phase}, cache_hours=1.0, budget=BUDGET)
    assert plan.hours == pytest.approx(3.0)
    assert plan.usd == pytest.approx(3 * 1.39)
    assert plan.holds
    tight = dataclasses.replace(plan, budget=BudgetParams(1.39, 1.39, 0.0))
    assert not tight.holds
    assert tight.share_that_fits == pytest.approx(1 / 3)


def test_more_workers_help_only_up_to_the_cores() -> None:
    params = Params.load(A100_PROFILE)
    works = works_of(params, FFPP)
    costs = CoreSeconds(pair=1.0, read=0.5, cache=8 * 3600.0)
    steps: dict[PhaseName, tuple[float, float]] = {"a": (100.0, 300.0), "b": (100.0, 300.0)}
    four, eight, many = (
        plan_forecast(params, works, costs, steps, cores, shared=False) for cores in (4, 8, 64)
    )
    assert four.phases["a"].clips_per_s == pytest.approx(8)
    assert eight.phases["a"].clips_per_s == many.phases["a"].clips_per_s == pytest.approx(16)
    assert (four.cache_hours, eight.cache_hours) == (2.0, 1.0)


def test_a_gpus_rate_is_its_share_of_the_peak() -> None:
    trained, scored = gpu_rates(10**11, GPUS["A100"], 0.1)
    assert trained * 3 * 2 * 10**11 == pytest.approx(0.1 * 312e12)
    assert scored == pytest.approx(3 * trained)


def test_timing_the_network_leaves_the_random_stream_alone() -> None:
    config, training = STFV8Config.debug(), Params().training
    torch.manual_seed(3)
    before = torch.get_rng_state()
    rates = step_rates(config, training, "cpu", 0.2)
    quick = quick_step_rates(config, training, "cpu", 0.2)
    assert torch.equal(torch.get_rng_state(), before)
    assert min(rates.trained, rates.scored, quick.trained, quick.scored) > 0
    assert rates.scored > rates.trained
    assert rates.peak_gb is None


def test_a_stored_forecast_is_printed_only_for_the_same_plan_and_machine(tmp_path: Path) -> None:
    params = Params()
    phase = phase_forecast(Work(1, 3600, 0, 0), Rates(1, 2, 2, 2))
    plan = PlanForecast({"a": phase, "b": phase}, 0.0, params.budget)
    path, key = tmp_path / "deep/forecast.json", machine_key(params, "cpu", 8)
    assert stored_line(path, key, "a", plan.budget) is None
    store_forecast(path, key, [Figure("pair", 0.1, "s", "measured")], [plan])
    line = stored_line(path, key, "a", plan.budget)
    assert line is not None
    assert line.startswith(
        "projected $1.39 of $5.00: phase A 1.0 h; both phases $2.78 (pipeline.forecast of 2"
    )
    assert len(line) <= 100
    assert stored_line(path, machine_key(params, "cpu", 16), "a", plan.budget) is None
    more_expensive = dataclasses.replace(params, budget=dataclasses.replace(params.budget, cost_per_hour=2.0))
    assert stored_line(path, machine_key(more_expensive, "cpu", 8), "a", plan.budget) is None
    path.write_text("{", encoding="utf-8")
    assert stored_line(path, key, "a", plan.budget) is None


def test_durations_are_readable() -> None:
    assert [duration(h) for h in (2.125, 0.5, 0.004)] == ["2.1 h", "30 min", "14 s"]


def test_timing_the_network_prints_nothing(caplog: pytest.LogCaptureFixture) -> None:
    step_rates(STFV8Config.debug(), Params().training, "cpu", 0.1)
    assert not caplog.records


def test_whole_epochs_that_fit_leave_time_for_phase_as_evaluation() -> None:
    rates = Rates(1, 1, 1, 1)
    a = phase_forecast(Work(10, 360, 0, 180), rates)  # 10 × .1 h, then .05 h
    b = phase_forecast(Work(10, 360, 0, 0), rates)
    plan = PlanForecast({"a": a, "b": b}, cache_hours=0.1, budget=BudgetParams(1.0, 1.47, 0.0))
    epochs: dict[PhaseName, int] = {"a": 10, "b": 10}
    assert plan.epochs_that_fit() == {"a": 10, "b": 3}  # 1.47 − .1 − 1.0 − .05 = .32 h
    poor = dataclasses.replace(plan, budget=BudgetParams(1.0, 0.35, 0.0))
    assert poor.epochs_that_fit() == {"a": 2, "b": 0}
    rich = dataclasses.replace(plan, budget=BudgetParams(1.0, 100.0, 0.0))
    assert rich.epochs_that_fit() == epochs


def test_a_large_network_is_timed_on_small_clips_for_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def fixed_rates(config: STFV8Config, *_: object, **__: object) -> measure.StepRates:
        seen.append((config.num_frames, config.img_size))
        return measure.StepRates(10.0, 30.0, None, 2)

    monkeypatch.setattr(measure, "step_rates", fixed_rates)
    config = STFV8Config.from_params(Params.load(A100_PROFILE), "a")
    rates = quick_step_rates(config, Params().training, "cpu", 1.0)
    ratio = sum(multiply_adds(measure.small(config)).values()) / sum(multiply_adds(config).values())
    assert (rates.trained, rates.scored) == (pytest.approx(10 * ratio), pytest.approx(30 * ratio))
    quick_step_rates(config, Params().training, "cuda", 1.0)
    assert seen == [measure.SMALL, (32, 224)]


def test_a_batch_too_large_for_the_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measure, "_step_s", full)
    with pytest.raises(TrainingError, match="activation_checkpointing"):
        step_rates(STFV8Config.debug(), Params().training, "cpu", 0.1)


def test_a_stored_forecast_is_not_printed_for_another_way_to_train() -> None:
    params = Params()
    key = machine_key(params, "cpu", 8)
    for change in ({"activation_checkpointing": True}, {"compile": True}, {"face_cache": "elsewhere"}):
        other = dataclasses.replace(params, runtime=dataclasses.replace(params.runtime, **change))
        assert machine_key(other, "cpu", 8) != key
