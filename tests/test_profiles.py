"""profiles/: each loads, the sample is the default, and the baseline differs from it in flags alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from stf.config import FLAGS, Params, STFV8Config

ROOT = Path(__file__).resolve().parents[1]
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


def test_the_three_profiles_are_there() -> None:
    assert {"sample", "ffpp_a100", "v73_baseline"} <= {path.stem for path in PROFILES}


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profile_loads_and_is_complete(path: Path) -> None:
    assert set(Params.load(path).flat()) == set(Params().flat())
    # A key left out would silently take the class's default when somebody copies the file and edits around it.
    written = {line.strip().partition(":")[0] for line in path.read_text(encoding="utf-8").splitlines()}
    assert {key.rpartition(".")[2] for key in Params().flat()} <= written


def test_sample_is_the_default() -> None:
    same = "fix: cp params.yaml profiles/sample.yaml"
    assert Params.load(ROOT / "profiles/sample.yaml") == Params.load(ROOT / "params.yaml"), same


def test_baseline_is_the_default_with_every_flag_off() -> None:
    baseline, default = (
        Params.load(ROOT / name).flat() for name in ("profiles/v73_baseline.yaml", "params.yaml")
    )
    flags = {f"{phase}.{flag}" for phase in ("phase_a", "phase_b") for flag in FLAGS}
    assert {key for key in default if default[key] != baseline[key]} <= flags
    assert not any(baseline[key] for key in flags)
    assert STFV8Config.from_params(ROOT / "profiles/v73_baseline.yaml").variant() == "V7.3"


def test_ffpp_profile_holds_the_published_plan() -> None:
    params = Params.load(ROOT / "profiles/ffpp_a100.yaml")
    config = STFV8Config.from_params(params)
    preset = STFV8Config.phase_a()
    preset.data_root = params.data.root
    assert config == preset  # widths, rates, loss and batch size are STFV8Config's defaults
    assert (params.phase_a.epochs, params.phase_b.epochs, params.runtime.billing) == (70, 50, True)
    assert (params.budget.cost_per_hour, params.budget.max_budget) == (1.39, 5.0)
    assert params.training.backbone_lr_scale == 0.01
