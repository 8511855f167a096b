"""params.yaml: ranges, contradictions, and what YAML could hide; each refusal names section and key in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from stf.config import Params, STFV8Config
from stf.errors import ConfigError
from stf.io.limits import RANGES, out_of_range


def numbers() -> list[tuple[str, str]]:
    """(section, key) of every number of params.yaml."""
    sections = {f.name: getattr(Params(), f.name) for f in dataclasses.fields(Params) if f.name != "seed"}
    return [
        (section, key)
        for section, values in sections.items()
        for key, value in dataclasses.asdict(values).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


@pytest.mark.parametrize(("section", "key"), numbers())
def test_every_number_has_a_range_and_is_named_beyond_it(section: str, key: str) -> None:
    low, high = RANGES[key]
    for wrong in (low - 1, high * 2 + 1):
        kind = type(getattr(getattr(Params(), section), key))
        with pytest.raises(ConfigError, match=key) as caught:
            Params.load({section: {key: kind(wrong)}})
        assert "\n" not in str(caught.value)


def test_ends_of_a_range_belong_to_it() -> None:
    assert [bool(out_of_range("tps_probability", value)) for value in (0, 1, 1.1, -0.1)] == [
        False,
        False,
        True,
        True,
    ]
    assert Params.load({"seed": 2**63 - 1}).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"training": {"batch_size": 10**9}}, "training.batch_size is 1e+09; it must be between 2 and 65536"),
        ({"training": {"batch_size": 0}}, "training.batch_size is 0"),
        ({"runtime": {"num_workers": -1}}, "runtime.num_workers is -1"),
        ({"runtime": {"threads": -1}}, "runtime.threads is -1"),
        ({"runtime": {"log_every_steps": 0}}, "runtime.log_every_steps is 0"),
        ({"runtime": {"checkpoint_minutes": 0.0}}, "runtime.checkpoint_minutes is 0"),
        ({"runtime": {"device": "gpu"}}, "runtime.device is 'gpu'; it must be one of auto, cpu, cuda or cuda:N"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is a number of 64 bits"),
        ({"seed": 10**5000}, "seed is a number of"),
        ({"model": {"d_state": 10**400}}, "model.d_state is a number of"),
        ({"phase_a": {"epochs": 10**9}}, "phase_a.epochs is 1e+09"),
        ({"phase_a": {"epochs": 3, "warmup_epochs": 4}}, "phase_a.warmup_epochs is 4, more than phase_a.epochs (3)"),
        ({"training": {"min_lr": 0.1}}, "training.min_lr (0.1) is above phase_a.lr (0.0005)"),
        ({"model": {"stage3_dim": 100}}, "model.stage3_dim is 100; it must be a multiple of model.num_heads (8)"),
        ({"model": {f"stage{i}_dim": 8192 for i in (1, 2, 3, 4)}, "data": {}}, "parameters"),
        ({"data": {"num_frames": 4096}}, "data.num_frames is 4096"),
        ({"data": {"root": ""}}, "data.root is empty"),
        ({"data": {"root": "a\0b"}}, "data.root is 'a\\x00b'; control characters"),
        ({"data": {"root": "x" * 5000}}, "long texts"),
        ({"data": {"quality": "c32"}}, 'one of raw, c23, c40 (did you mean "c23"?)'),
        ({"data": {"root": "d"}, "runtime": {"face_cache": "d/FaceForensics++/faces"}}, "runtime.face_cache"),
        ({"sbi": {"drift_step_range": [9.0, 9.5]}}, "beyond sbi.drift_max_cumulative"),
        ({"budget": {"cost_per_hour": 0.0}}, "budget.cost_per_hour is 0.0"),
        ({"budget": {"cost_per_hour": float("nan")}}, "budget.cost_per_hour is nan"),
        ({"evaluation": {"methods": ["FaceSwap", "FaceSwap"]}}, "names one twice"),
        ({"model": {"spatial_backbone": "timm:hf-hub:a/b"}}, "model.spatial_backbone is 'timm:hf-hub:a/b'"),
        ({"model": {"spatial_backbone": "timm:local-dir:/x"}}, "model.spatial_backbone"),
        ({"data": [list(range(10**5))] * 100}, "data is [[...]"),
    ],
)  # fmt: skip
def test_a_wrong_or_contradicting_value_is_named_with_its_section(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Params.load(values)
    message = str(caught.value)
    assert says in message or says.replace("[[...]", "[[") in message
    assert "\n" not in message
    assert len(message) < 300


def test_options_that_shorten_a_run_do_not_contradict_its_warm_up() -> None:
    params = Params()
    short = dataclasses.replace(params, phase_a=dataclasses.replace(params.phase_a, epochs=1))
    STFV8Config.from_params(short, "a")


def test_a_cache_beside_the_tree_is_no_contradiction() -> None:
    Params.load({"data": {"root": "."}, "runtime": {"face_cache": "cache"}})


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "anchors and aliases are not read"),
        ("data: &d {root: a}\nsbi: *d\n", "anchors and aliases"),
        ("data:\n  <<: [{root: a}]\n", "merge keys"),
        ("seed: 1\ndata: {root: a}\nseed: 2\n", """the key 'seed' stands twice in "params.yaml", line 3"""),
        ("data:\n  root: a\n  root: b\n", "the key 'root' stands twice"),
        ("seed: !!python/object/apply:os.mkdir [x]\n", "tags (!) are not read"),
        ("seed: !!int x\n", "tags (!) are not read"),
        ("seed: 2001-99-99\n", "not valid YAML"),
        (f"seed: {'9' * 5000}\n", "not valid YAML"),
        (f"seed: 0x{'f' * 5000}\n", "write plain digits"),
        ("seed: 010\n", "the number '010' is one thing to YAML 1.1 and another to YAML 1.2"),
        ("budget:\n  max_budget: 1:30\n", "write plain digits"),
        ("seed: 1_000\n", "write plain digits"),
        ("phase_a:\n  lr: 00.1\n", "write plain digits"),
        ("a: " + "[" * 5000, "nests too deep"),
        ("{a: " * 5000, "nests too deep"),
        ("seed: 1\n# " + "x" * 300_000, "more than 200000 are not read"),
        ("? [a, b]\n: 1\n", "not valid YAML|unknown key"),
        ("1: 2\n", 'unknown key "1"'),
        ("data:\n\troot: a\n", "not valid YAML"),
    ],
)
def test_yaml_that_hides_something_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Params.load(path)
    message = str(caught.value)
    assert any(part in message for part in says.split("|"))
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize("start", ["\ufeff", "# as Windows writes it\r\n"])
def test_yaml_as_windows_writes_it_is_read(tmp_path: Path, start: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes((start + "seed: 3\r\ndata:\r\n  quality: c40\r\n").encode())
    params = Params.load(path)
    assert (params.seed, params.data.quality) == (3, "c40")


def test_a_file_that_is_none_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("data: {root: m\xfcnchen}".encode("latin-1"))
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        Params.load(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Params.load(tmp_path)
