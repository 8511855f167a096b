"""Fuzzes parameter files, split files, and the JSON and CSV files that commands exchange."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import yaml

from stf.config import BudgetParams, Params, STFV8Config
from stf.data.ffpp import FFPPTree, recorded_fingerprint, split_file
from stf.data.splits import ID_PATTERN, read_split
from stf.evaluation.compare import Contestant, Costs, compare
from stf.evaluation.outputs import read_evaluation
from stf.forecast.report import stored_line
from stf.training.gate import require_open_gate
from stf.training.ledger import ledger_usd
from tests.fuzz.kinds import Kind, Place, Rng
from tests.fuzz.mutations import odd_value, pick, spoil_bytes, spoil_value, spoiled_json

_LINES = (
    "x: !!python/object/apply:os.system ['touch {canary}']", "x: !!python/name:os.system", "a: &a [*a]", "seed: *seed",
    "lol: &l0 [x,x]\nl1: &l1 [*l0,*l0]\nl2: &l2 [*l1,*l1]", "<<: {{seed: 1}}", "seed: 1\nseed: 2", "data: {{root: a}}",
    "seed: 2001-99-99", "seed: 1:2:3", "seed: 0o17", "%YAML 9.9", "---", "...", "? [a, b]\n: 1", "\tseed: 1",
    "seed: |\n  x", "data:\n  root: a\n  root: b", "seed: !!int x", "seed: !!timestamp x", "seed: !!binary x",
    "seed: !!set {{a}}",
)  # fmt: skip
_PAIRS = [["000", "003"], ["001", "002"], ["004", "005"]]
_IDS = (
    "000",
    "../../x",
    "a/b",
    "",
    ".",
    "..",
    "\u0661",
    "a" * 65,
    "000\n",
    "-",
    "a\0",
    7,
    None,
    True,
    ["000"],
    {"a": 1},
)


def _plain(params: Params) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(params)))


def _yaml_text(rng: Rng, values: Any, place: Place) -> bytes:
    text = yaml.safe_dump(values, sort_keys=False)
    action = rng.random()
    lines = text.split("\n")
    at = int(rng.integers(len(lines)))
    if action < 0.15:
        lines.insert(at, pick(rng, _LINES).format(canary=place.canary))
    elif action < 0.2:
        huge = (
            "[" * 3000,
            "{a: " * 500,
            "9" * 5000,
            f"0x{'f' * 5000}",
            "&a " * 300,
            "x" * 10_000,
            "- " * 2000,
        )
        lines[at] = f"seed: {pick(rng, huge)}"
    elif action < 0.3:
        lines[at] = lines[at].replace(":", pick(rng, ("", "::", " :", ": :", ": !!str", ": -", ": 1e")))
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return spoil_bytes(rng, data) if action > 0.8 else data


def _make_params(rng: Rng, place: Place) -> None:
    values = {name: part for name, part in _plain(Params()).items() if rng.random() < 0.5}
    if rng.random() < 0.7 and values:
        section = pick(rng, list(values))
        if isinstance(values[section], dict):
            key = pick(rng, list(values[section]))
            values[section][key] = odd_value(rng, values[section][key])
        else:
            values[section] = odd_value(rng, values[section])
    else:
        values = spoil_value(rng, values)
    try:
        content = _yaml_text(rng, values, place)
    except yaml.YAMLError:  # mixed key types cannot be written
        content = str(values).encode("utf-8", "surrogatepass")
    (place.case / "params.yaml").write_bytes(content)


def _read_params(place: Place) -> None:
    params = Params.load(place.case / "params.yaml")
    assert Params.load(_plain(params)) == params, "parameters differ after a round trip"
    for phase in ("a", "b"):
        STFV8Config.from_params(params, phase).describe()
    assert len(params.flat()) > 50


def _make_split(rng: Rng, place: Place) -> None:
    pairs: list[Any] = [list(pair) for pair in _PAIRS]
    if rng.random() < 0.5:
        pairs[int(rng.integers(3))] = pick(
            rng, ([pick(rng, _IDS)] * 2, [pick(rng, _IDS), "009"], pick(rng, _IDS))
        )
    tree = split_file(place.case, "train").parent
    tree.mkdir(parents=True)
    for split, own in (("train", [["010", "011"]]), ("val", _PAIRS[1:2]), ("test", pairs)):
        split_file(place.case, split).write_text(json.dumps(own), encoding="utf-8")
    path = split_file(place.case, "test")
    path.write_bytes(spoiled_json(rng, pairs) if rng.random() < 0.7 else path.read_bytes())


def _read_split(place: Place) -> None:
    pairs = read_split(split_file(place.case, "test"))
    assert pairs
    assert all(ID_PATTERN.fullmatch(each) for pair in pairs for each in pair)
    tree = FFPPTree(place.case)
    tree.overlap()
    tree.expected_fake_ids("test")


_DOCUMENTS: dict[str, Any] = {
    "data.json": {"fingerprint": "f" * 64, "ready": True, "videos": 3},
    "gate_a.json": {"passed": True, "threshold": 0.7},
    "eval_a.json": {"a_auc_overall": 0.6},
    "ledger/a.json": {"started": "2026-01-01T00:00:00", "pid": 7, "usd_per_hour": 1.39, "seconds": 60.0},
    "forecast.json": {
        "key": "k", "made": "2026-01-01T10:11:12",
        "forecasts": [{"usd": 3.1, "phases": {"a": {"hours": 2.0}, "b": {"hours": 1.0}}}],
    },
}  # fmt: skip


def _make_json(rng: Rng, place: Place) -> None:
    (place.case / "ledger").mkdir()
    for name, document in _DOCUMENTS.items():
        (place.case / name).write_text(json.dumps(document), encoding="utf-8")
    name = pick(rng, list(_DOCUMENTS))
    other = json.dumps(pick(rng, list(_DOCUMENTS.values()))).encode()
    (place.case / name).write_bytes(spoiled_json(rng, _DOCUMENTS[name], other))


def _read_json(place: Place) -> None:
    line = stored_line(place.case / "forecast.json", "k", "a", BudgetParams(1.39, 5.0, 0.1))
    assert line is None or len(line) < 300
    assert isinstance(recorded_fingerprint(place.case / "data.json"), str)
    assert ledger_usd(place.case / "ledger") >= 0
    require_open_gate(place.case / "gate_a.json", 0.7, place.case / "eval_a.json", None, 5.0)


_WORDS = (
    "",
    "nan",
    "inf",
    "-1",
    "2",
    "0.5",
    "1e999",
    "x" * 300,
    '"',
    "a,b",
    "000",
    "real",
    "\x1b[31m",
    "../x",
    "\0",
    "é",
)


def _make_evaluation(rng: Rng, place: Place) -> None:
    for name in ("e_details.json", "e_scores.csv"):
        (place.case / name).write_bytes((place.good / name).read_bytes())
    if rng.random() < 0.5:
        document = json.loads((place.good / "e_details.json").read_text(encoding="utf-8"))
        (place.case / "e_details.json").write_bytes(spoiled_json(rng, document))
        return
    scores = place.case / "e_scores.csv"
    lines = scores.read_text(encoding="utf-8").split("\n")
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(lines) - 1))
        cells = lines[at].split(",")
        cells[int(rng.integers(len(cells)))] = pick(rng, _WORDS)
        lines[at] = ",".join(cells)
    data = "\n".join(lines).encode("utf-8")
    scores.write_bytes(spoil_bytes(rng, data) if rng.random() < 0.3 else data)


def _read_evaluation(place: Place) -> None:
    evaluation = read_evaluation(place.case / "e.json")
    assert set(evaluation.table["label"]) <= {0, 1}
    assert evaluation.table["score"].dropna().between(0, 1).all()
    good = read_evaluation(place.good / "e.json")
    compare(
        [Contestant(letter, letter, None, None, e, Costs()) for letter, e in (("A", good), ("B", evaluation))]
    )


KINDS = (
    Kind("params.yaml", _make_params, _read_params),
    Kind("split JSON", _make_split, _read_split),
    Kind("other JSON", _make_json, _read_json),
    Kind("evaluation", _make_evaluation, _read_evaluation),
)
