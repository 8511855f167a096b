"""params.yaml → dataclasses: every wrong value is refused in one line: where, the value, what it must be."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stf.config import FLAGS, PHASE_A_FLAGS, Params, STFV8Config
from stf.errors import ConfigError


def test_defaults():
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
        "A",
        "B",
    ]


def test_every_flag_combination_has_its_own_variant_name():
    names = set()
    for values in itertools.product((False, True), repeat=len(FLAGS)):
        config = STFV8Config(**dict(zip(FLAGS, values, strict=True)))
        config.validate()
        names.add(config.variant())
    assert len(names) == 256


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ((), "V7.3"),
        (("use_contrastive_hll",), "V7.3+contrastive_hll"),
        (("use_wss", "use_hydra"), "V7.3+hydra+wss"),
        (PHASE_A_FLAGS[:2], "V7.3+contrastive_hll+compression_aug"),  # as near to A: the first base counts
        (PHASE_A_FLAGS[:3], "A-hll_normalization"),
        (PHASE_A_FLAGS, "A"),
        ((*PHASE_A_FLAGS, "use_wss"), "A+wss"),
        ((*PHASE_A_FLAGS[1:], "use_wss"), "A-contrastive_hll+wss"),
        (tuple(flag for flag in FLAGS if flag != "use_mamer"), "B-mamer"),
        (FLAGS, "B"),
    ],
)
def test_a_variant_is_named_by_its_nearest_base_and_the_differences(flags, name):
    assert STFV8Config(**dict.fromkeys(flags, True)).variant() == name


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("num_frames", 31, "multiple of 2"),
        ("num_frames", 6, "greater than or equal to 8"),
        ("img_size", 100, "multiple of 16"),
        ("batch_size", 3, "a multiple of 2 (clips; real and fake of a pair stay together)"),
        ("dropout", 1.0, "less than 1"),
        ("dcconv_kernel_length", 8, "odd"),
        ("stage3_dim", 381, "multiple of num_heads"),
        ("lr", float("nan"), "finite"),
        ("lr", "1e-4", "1.0e-4"),
        ("lr", 1e-9, "above lr"),
        ("use_wss", 1, "a valid boolean"),
        ("d_state", True, "a valid integer"),
        ("amp_dtype", "bf16", "bfloat16"),
        ("max_budget", 0, "greater than 0 (US dollars)"),
    ],
)
def test_a_wrong_field_is_reported_when_validated_again(field, value, expected):
    config = STFV8Config()
    setattr(config, field, value)
    with pytest.raises(ConfigError, match=field) as caught:
        config.validate()
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"phase_a": {"use_hydr": True}}, 'did you mean "use_hydra"'),
        ({"dat": {}}, 'did you mean "data"'),
        ({"data": 3}, "section"),
        ({"data": {"quality": "c24"}}, "'raw', 'c23' or 'c40'"),
        ({"phase_a": {"lr": "1e-4"}}, "1.0e-4"),
        ({"sbi": {"drift_step_range": [5.0, 0.5]}}, "low <= high"),
        ({"sbi": {"drift_step_range": 2.0}}, "list"),
        ({"sbi": {"compression_qp_range": [23, 60]}}, r"compression_qp_range\[1\] is 60.*0 to 51"),
        ({"evaluation": {"methods": ["Deepfake"]}}, "Deepfakes"),
        ({"evaluation": {"methods": []}}, "at least one"),
        ({"audit": {"pairs": 10}}, "fewer than 200"),
        ({"phase_b": {"lr": 1.0e-8}}, r"training\.min_lr .* is above phase_b\.lr"),
        ({"seed": 1.5}, "a valid integer"),
    ],
)
def test_a_wrong_params_file_is_refused(values, expected):
    with pytest.raises(ConfigError, match=expected):
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


def test_the_error_for_a_missing_file_says_what_to_do(tmp_path):
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


NUMBERS = [
    (section, key)
    for section, kind in (
        (field.name, type(getattr(Params(), field.name))) for field in dataclasses.fields(Params)
    )
    if dataclasses.is_dataclass(kind)
    for key, field in kind.__pydantic_fields__.items()
    if field.annotation in (int, float)
]


@pytest.mark.parametrize(("section", "key"), NUMBERS)
def test_every_number_has_a_range_and_is_refused_beyond_it(section: str, key: str) -> None:
    field = type(getattr(Params(), section)).__pydantic_fields__[key]
    ends = [
        getattr(bound, end)
        for bound in field.metadata
        for end in ("ge", "gt", "le", "lt")
        if hasattr(bound, end)
    ]
    low, high = sorted(ends)[0], sorted(ends)[-1]
    assert low < high
    for wrong in (low - 16, high * 2 + 16):  # multiples of 2 and of 16 where low and high are
        with pytest.raises(
            ConfigError, match=rf"{section}\.{key} is .*; it must be (greater|less) than"
        ) as caught:
            Params.load({section: {key: field.annotation(wrong)}})
        assert "\n" not in str(caught.value)


def test_every_number_is_covered() -> None:
    assert len(NUMBERS) > 50
    assert ("model", "stem_dim") in NUMBERS


def test_both_ends_of_a_range_are_allowed() -> None:
    for end in (0.0, 1.0):
        assert Params.load({"sbi": {"tps_probability": end}}).sbi.tps_probability == end
    assert Params.load({"seed": 2**63 - 1}).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"training": {"batch_size": 10**9}}, "training.batch_size is 1000000000; it must be less than or equal to"),
        ({"training": {"batch_size": 0}}, "training.batch_size is 0"),
        ({"runtime": {"num_workers": -1}}, "runtime.num_workers is -1"),
        ({"runtime": {"threads": -1}}, "runtime.threads is -1"),
        ({"runtime": {"log_every_steps": 0}}, "runtime.log_every_steps is 0"),
        ({"runtime": {"checkpoint_minutes": 0.0}}, "runtime.checkpoint_minutes is 0"),
        ({"runtime": {"device": "gpu"}}, "runtime.device is 'gpu'; it must be one of auto, cpu, cuda or cuda:N"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be less than"),
        ({"seed": 10**5000}, "seed is a number of"),
        ({"model": {"d_state": 10**400}}, "model.d_state is a number of"),
        ({"phase_a": {"epochs": 10**9}}, "phase_a.epochs is 1000000000"),
        ({"phase_a": {"epochs": 3, "warmup_epochs": 4}}, "phase_a.warmup_epochs is 4, more than phase_a.epochs (3)"),
        ({"training": {"min_lr": 0.1}}, "training.min_lr (0.1) is above phase_a.lr (0.0005)"),
        ({"model": {"stage3_dim": 100}}, "model.stage3_dim is 100; it must be a multiple of model.num_heads (8)"),
        ({"data": {"num_frames": 4096}}, "data.num_frames is 4096"),
        ({"data": {"root": ""}}, "data.root is ''; it must not be empty (the folder that holds FaceForensics++/)"),
        ({"data": {"root": "a\0b"}}, "data.root is 'a\\x00b'; it must have at most 1000 characters and no control"),
        ({"data": {"root": "x" * 5000}}, "at most 1000 characters"),
        ({"data": {"quality": "c32"}}, """it must be 'raw', 'c23' or 'c40' (did you mean "c23"?)"""),
        ({"data": {"root": "d"}, "runtime": {"face_cache": "d/FaceForensics++/faces"}}, "runtime.face_cache"),
        ({"sbi": {"drift_step_range": [9.0, 9.5]}}, "sbi.drift_step_range begins at 9.0, beyond drift_max"),
        ({"budget": {"cost_per_hour": 0.0}}, "budget.cost_per_hour is 0.0; it must be greater than 0 (US dollars)"),
        ({"budget": {"cost_per_hour": float("nan")}}, "budget.cost_per_hour is nan"),
        ({"evaluation": {"methods": ["FaceSwap", "FaceSwap"]}}, "not name one twice"),
        ({"model": {"spatial_backbone": "timm:hf-hub:a/b"}}, "model.spatial_backbone is 'timm:hf-hub:a/b'"),
        ({"model": {"spatial_backbone": "timm:local-dir:/x"}}, "model.spatial_backbone"),
        ({"data": [list(range(10**5))] * 100}, "data is [[...]"),
    ],
)  # fmt: skip
def test_a_wrong_or_contradicting_value_is_reported_with_its_section(
    values: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Params.load(values)
    message = str(caught.value)
    assert expected in message or expected.replace("[[...]", "[[") in message
    assert "\n" not in message
    assert len(message) < 300


def test_options_that_shorten_a_run_do_not_contradict_its_warm_up() -> None:
    params = Params()
    short = dataclasses.replace(params, phase_a=dataclasses.replace(params.phase_a, epochs=1))
    STFV8Config.from_params(short, "a")


def test_a_cache_beside_the_tree_is_no_contradiction() -> None:
    Params.load({"data": {"root": "."}, "runtime": {"face_cache": "cache"}})


@pytest.mark.parametrize("value", [[1.0], [1.0, 2.0, 3.0], [1.0, "2"], [1.0, True], {"low": 1.0}, "1 2"])
def test_a_pair_takes_two_numbers(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"sbi\.drift_step_range"):
        Params.load({"sbi": {"drift_step_range": value}})


def test_an_attribute_that_is_no_field_is_reported_when_validated_again() -> None:
    config = STFV8Config()
    config.use_hydr = True
    with pytest.raises(ConfigError, match='unknown key "use_hydr" in STFV8Config.*use_hydra'):
        config.validate()


def test_sections_are_frozen_and_the_network_configuration_is_not() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Params().model.stem_dim = 3
    config = STFV8Config()
    config.lr = 1  # a whole number is taken for a float, as in YAML
    config.validate()
    assert (config.lr, type(config.lr)) == (1.0, float)


def test_a_field_keeps_its_value_where_validation_fails() -> None:
    config = STFV8Config()
    config.num_frames, config.lr = 31, 1
    with pytest.raises(ConfigError):
        config.validate()
    assert (config.num_frames, type(config.lr)) == (31, int)


def test_fields_of_both_are_declared_once() -> None:
    """The sections and STFV8Config inherit their common fields, but for the defaults of the phases."""
    fields = STFV8Config.__pydantic_fields__
    sections = {field.name: type(getattr(Params(), field.name)) for field in dataclasses.fields(Params)}
    del sections["seed"]
    own = set(inspect.get_annotations(STFV8Config))
    shared = {key for kind in sections.values() for key in kind.__pydantic_fields__} & set(fields)
    assert len(shared) == len(fields) - 3
    assert own == {"in_channels", "num_classes", "data_root"}
