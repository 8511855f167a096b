"""params.yaml → dataclasses: every wrong value is named, with its place and what to do."""

import itertools
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stf.config import FLAGS, PHASE_A_FLAGS, Params, STFV8Config
from stf.errors import ConfigError


def test_defaults_are_the_designs_numbers():
    config = STFV8Config()
    assert (config.num_frames, config.img_size, config.batch_size, config.num_workers) == (32, 224, 16, 8)
    assert (config.lr, config.min_lr, config.weight_decay) == (5e-4, 1e-6, 0.05)
    assert (config.cost_per_hour, config.max_budget) == (1.39, 5.0)
    assert config.active_flags() == ()


def test_presets():
    assert STFV8Config.phase_a().active_flags() == PHASE_A_FLAGS
    assert STFV8Config.phase_b().active_flags() == FLAGS
    assert STFV8Config.phase_b().lr == 1e-4
    assert [c.variant() for c in (STFV8Config(), STFV8Config.phase_a(), STFV8Config.phase_b())] == [
        "V7.3",
        "V8.0-A",
        "V8.0-B",
    ]


def test_every_flag_combination_has_its_own_variant_name():
    names = set()
    for values in itertools.product((False, True), repeat=len(FLAGS)):
        config = STFV8Config()
        for flag, value in zip(FLAGS, values, strict=True):
            setattr(config, flag, value)
        config.validate()
        names.add(config.variant())
    assert len(names) == 256


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_frames", 31, "even"),
        ("num_frames", 6, "at least 8"),
        ("img_size", 100, "multiple of 16"),
        ("batch_size", 3, "even"),
        ("dropout", 1.0, "[0, 1)"),
        ("dcconv_kernel_length", 8, "odd"),
        ("stage3_dim", 381, "multiple of num_heads"),
        ("lr", float("nan"), "finite"),
        ("lr", "1e-4", "1.0e-4"),
        ("lr", 1e-9, "above lr"),
        ("use_wss", 1, "type bool"),
        ("d_state", True, "type int"),
        ("amp_dtype", "bf16", "bfloat16"),
        ("max_budget", 0, "above 0"),
    ],
)
def test_a_bad_field_is_named_when_validated_again(field, value, says):
    config = STFV8Config()
    setattr(config, field, value)
    with pytest.raises(ConfigError, match=field) as caught:
        config.validate()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"phase_a": {"use_hydr": True}}, 'did you mean "use_hydra"'),
        ({"dat": {}}, 'did you mean "data"'),
        ({"data": 3}, "section"),
        ({"data": {"quality": "c24"}}, "raw, c23, c40"),
        ({"phase_a": {"lr": "1e-4"}}, "1.0e-4"),
        ({"sbi": {"drift_step_range": [5.0, 0.5]}}, "low <= high"),
        ({"sbi": {"drift_step_range": 2.0}}, "list"),
        ({"sbi": {"compression_qp_range": [23, 60]}}, "0 to 51"),
        ({"evaluation": {"methods": ["Deepfake"]}}, "Deepfakes"),
        ({"evaluation": {"methods": []}}, "at least one"),
        ({"audit": {"pairs": 10}}, "at least 200|fewer than 200"),
        ({"phase_b": {"lr": 1.0e-8}}, r"training\.min_lr .* is above phase_b\.lr"),
        ({"seed": 1.5}, "type int"),
    ],
)
def test_a_bad_params_file_is_named(values, says):
    with pytest.raises(ConfigError, match=says):
        Params.load(values)


def test_from_params_takes_each_phases_section(tmp_path):
    path = tmp_path / "params.yaml"
    values = {
        "data": {"num_frames": 16, "root": "elsewhere"},
        "phase_b": {"lr": 2e-4},
        "training": {"batch_size": 4},
    }
    path.write_text(yaml.safe_dump(values))
    a, b = (STFV8Config.from_params(path, phase) for phase in ("a", "b"))
    assert (a.num_frames, a.data_root, a.batch_size, a.lr) == (16, "elsewhere", 4, 5e-4)
    assert (b.lr, b.active_flags()) == (2e-4, FLAGS)


@pytest.mark.parametrize("text", ["", "- a\n- b", "a: [", "\x00", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_parameter_file_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="params.yaml"):
        Params.load(path)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="--params"):
        Params.load(tmp_path / "none.yaml")


def test_flat_has_one_entry_per_leaf():
    flat = Params().flat()
    assert flat["seed"] == 0
    assert flat["phase_b.min_phase_a_auc"] == 0.70
    assert all(not isinstance(value, dict) for value in flat.values())


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers())
)


@given(st.sampled_from(["data", "sbi", "model", "training", "phase_a", "runtime"]), st.data())
def test_any_value_is_either_taken_or_refused_as_a_config_error(section, data):
    keys = [k.split(".")[1] for k in Params().flat() if k.startswith(f"{section}.")]
    key = data.draw(st.sampled_from(keys))
    try:
        Params.load({section: {key: data.draw(SCALARS)}})
    except ConfigError as error:
        assert key in str(error) or section in str(error)


@pytest.mark.parametrize("written", ["1e-05", "1.0e-5", "1E-5", "0.00001", "1.e-5"])
def test_file_may_write_a_number_as_dvc_does(written: str, tmp_path: Path) -> None:
    """`dvc exp run -S phase_a.lr=1.0e-5` writes 1e-05, which YAML 1.1 takes for a text."""
    (tmp_path / "params.yaml").write_text(f"phase_a:\n  lr: {written}\n")
    assert Params.load(tmp_path / "params.yaml").phase_a.lr == 1e-5
