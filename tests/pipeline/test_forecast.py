"""`python -m pipeline.forecast` on the tiny tree, and without data: what it prints, writes and returns."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from click.testing import Result

from pipeline.build_cache import main as build_cache
from pipeline.forecast import main
from pipeline.train_phase_a import main as train_phase_a
from stf.io.cores import usable_cores
from stf.sample import hd
from tests.reference.training_commands import MODEL, run_training


@pytest.fixture
def forecast(training_root: Path) -> Callable[..., Result]:
    """Runs the command for a second with tiny parameters and these changes."""
    return functools.partial(run_training, main, "--seconds", "1", "--cores", "2")


def test_it_measures_prints_and_stores_the_forecast(
    forecast: Callable[..., Result], training_root: Path
) -> None:
    result = forecast("--require", runtime={"num_workers": 2})
    assert result.exit_code == 0, result.output
    assert "the plan fits the budget: projected $" in result.output
    *lines, written_to = result.output.splitlines()
    assert max(map(len, lines)) <= 100
    assert written_to.endswith("checkpoints/forecast.json")
    stored = json.loads((training_root / "checkpoints/forecast.json").read_text())
    sources = {figure["name"]: figure["source"] for figure in stored["inputs"]}
    assert sources["pair of clips, one core"] == sources["training, phase B"] == "measured"
    assert "assumed" not in sources.values() or usable_cores() < 2
    assert sources["H.264 of a pair, one core"] == sources["decoding a frame, one core"] == "measured"
    if usable_cores() >= 2:
        assert sources["pairs of 2 processes"] == "measured"
    (plan,) = stored["forecasts"]
    assert plan["usd"] > 0
    assert set(plan["phases"]) == {"a", "b"}


def test_a_plan_over_budget_suggests_savings_and_fails_on_request(
    forecast: Callable[..., Result],
) -> None:
    expensive = {"cost_per_hour": 1e5, "max_budget": 0.1}
    assert forecast(budget=expensive).exit_code == 0
    result = forecast("--require", budget=expensive)
    assert result.exit_code == 1
    assert "the plan does not fit the budget" in result.output
    assert "What helps: a GPU" in result.output


def test_without_data_it_reports_that_and_assumes_the_official_counts(
    forecast: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = functools.partial(hd.write_tree, height=144, width=160, face=40.0)
    monkeypatch.setattr("stf.sample.hd.write_tree", small)
    data = {"root": "nowhere"}
    result = forecast(
        "--assume-gpu", "A100", "--output", "f.json", data=data, runtime={"face_cache": "faces"}
    )
    assert result.exit_code == 0, result.output
    stored = json.loads(Path("f.json").read_text())
    figures = {figure["name"]: figure for figure in stored["inputs"]}
    assert (figures["training videos"]["value"], figures["training videos"]["source"]) == (720, "assumed")
    assert "made-up" in figures["pair of clips, one core"]["note"]
    assert "from the face cache" in figures["pair of clips, one core"]["note"]
    assert len(stored["forecasts"]) == 3
    assert not Path("faces").exists()
    assert not Path("checkpoints/forecast.json").exists()


def test_an_unknown_gpu_is_a_usage_error(forecast: Callable[..., Result]) -> None:
    result = forecast("--assume-gpu", "T800")
    assert result.exit_code == 2
    assert "a100" in result.output


def test_a_cache_that_is_built_costs_nothing_more(forecast: Callable[..., Result]) -> None:
    cached = {"face_cache": "faces"}

    def frames_and_hours() -> tuple[float, float]:
        result = forecast("--assume-gpu", "A100", runtime=cached)
        assert result.exit_code == 0, result.output
        stored = json.loads(Path("checkpoints/forecast_A100.json").read_text())
        figures = {figure["name"]: figure["value"] for figure in stored["inputs"]}
        return figures["frames to cache"], stored["forecasts"][0]["cache_hours"]

    frames, hours = frames_and_hours()
    assert frames > 0
    assert hours > 0
    assert run_training(build_cache, runtime=cached).exit_code == 0
    assert frames_and_hours() == (0, 0)


def test_nothing_else_is_overwritten(forecast: Callable[..., Result], training_root: Path) -> None:
    own = training_root / "own.yaml"
    own.write_text("seed: 1\n")
    result = forecast("--output", "own.yaml")
    assert result.exit_code == 2
    assert "ends in .json" in result.output
    assert own.read_text() == "seed: 1\n"


def test_a_timm_backbone_with_local_weights_is_projected_and_trained(
    forecast: Callable[..., Result], training_root: Path
) -> None:
    """The estimate times a second network: its random weights must do, as the trained one's come from the file."""
    torch.save(timm.create_model("test_efficientnet").state_dict(), "stem.pth")
    model = MODEL | {"spatial_backbone": "timm:test_efficientnet", "spatial_weights": "stem.pth"}
    trained = run_training(train_phase_a, "--epochs", "1", model=model)
    assert trained.exit_code == 0, trained.output
    assert "tensors from stem.pth" in trained.output
    assert trained.output.count("projected $0.00 of $5.00: phase A") == 1
    assert Path("weights/phase_a.safetensors").exists()
    result = forecast(model=model)
    assert result.exit_code == 0, result.output
    assert "projected $" in result.output
