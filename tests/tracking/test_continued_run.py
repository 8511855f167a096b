"""A run that was killed, stopped or failed goes on as the same MLflow run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stf.config import Params, STFV8Config
from stf.errors import DataError, Interrupted, StfError
from stf.tracking import delivery
from stf.tracking.operations import MODEL_NAME
from stf.tracking.run import track
from stf.tracking.store import open_store, shown_address
from tests.reference.forks import forked

PARAMS = Params()
Runs = Callable[[], list]


def _part(memory: Path, steps: range, error: StfError | None = None, params: Params = PARAMS) -> None:
    with track("train_phase_a", params=params, memory=memory, identity="plan 1") as run:
        for step in steps:
            run.log({"step/loss": step / 10}, step=step)
        if error is not None:
            raise error


def _kill_one(memory: Path, flush_every_s: float = 0.0) -> None:
    """A run of another process that is killed by force after five steps."""

    def run_and_die() -> None:
        delivery.FLUSH_EVERY_S = flush_every_s
        with track("train_phase_a", params=PARAMS, memory=memory, identity="plan 1") as run:
            for step in range(1, 6):
                run.log({"step/loss": step / 10}, step=step)
            if flush_every_s == 0.0:
                run.text("of the first part", "first.txt")
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(run_and_die) == (-signal.SIGKILL, None)


def _points(run_id: str, key: str = "step/loss") -> list[tuple[int, float]]:
    history = open_store().client.get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in history)


@pytest.fixture
def memory(root: Path) -> Path:
    return root / "checkpoints" / "0" / "mlflow_run.json"


@pytest.mark.parametrize("flush_every_s", [0.0, 1e9], ids=["points in the store", "points on their way"])
def test_a_run_killed_by_force_goes_on(memory: Path, runs: Runs, flush_every_s: float) -> None:
    _kill_one(memory, flush_every_s)
    assert runs()[0].info.status == "RUNNING"
    start = 6 if flush_every_s else 4  # from a checkpoint after step 5, or after step 3
    _part(memory, range(start, 9))
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.data.tags["resumed"] == "1"
    assert _points(run.info.run_id) == [(step, step / 10) for step in range(1, 9)]


@pytest.mark.parametrize(
    ("error", "status"),
    [(Interrupted("stopped by SIGTERM", 143), "KILLED"), (DataError("no frames"), "FAILED")],
)
def test_a_run_that_was_stopped_or_failed_goes_on(
    memory: Path, runs: Runs, error: StfError, status: str
) -> None:
    for part in range(3):
        with pytest.raises(type(error)):
            _part(memory, range(part * 2, part * 2 + 3), error)
        (run,) = runs()
        assert run.info.status == status
        assert ("error" in run.data.tags) == (status == "FAILED")
    _part(memory, range(6, 9))
    (run,) = runs()
    assert (run.info.status, run.data.tags["resumed"]) == ("FINISHED", "3")
    assert "error" not in run.data.tags
    assert _points(run.info.run_id) == [(step, step / 10) for step in range(9)]


def test_other_runtime_parameters_are_noted_and_never_refused(memory: Path, runs: Runs) -> None:
    _part(memory, range(2))
    slower = dataclasses.replace(PARAMS, runtime=dataclasses.replace(PARAMS.runtime, log_every_steps=123))
    _part(memory, range(2, 4), params=slower)
    (run,) = runs()
    assert run.data.params["runtime.log_every_steps"] == str(PARAMS.runtime.log_every_steps)
    assert run.data.tags["resumed.runtime.log_every_steps"] == "123"


def test_figures_of_the_whole_run_are_recorded_by_every_part(memory: Path, runs: Runs) -> None:
    for cost in (0.5, 0.75):
        with track("train_phase_a", params=PARAMS, memory=memory, identity="plan 1") as run:
            run.log({"cost_usd": cost})
    assert runs()[0].data.metrics["cost_usd"] == 0.75


def test_another_identity_is_another_run(memory: Path, runs: Runs) -> None:
    for identity in ("plan 1", "plan 2", "plan 2"):
        with track("train_phase_a", params=PARAMS, memory=memory, identity=identity):
            pass
    assert len(runs()) == 2


def test_without_a_memory_every_call_is_a_run_and_nothing_is_left_out(runs: Runs) -> None:
    for _ in range(2):
        with track("train_phase_a", params=PARAMS) as run:
            for step in (2, 1, 2):
                run.log({"loss": float(step)}, step=step)
    assert len(runs()) == 2
    assert {step for step, _ in _points(runs()[0].info.run_id, "loss")} == {1, 2}


def test_a_deleted_run_is_replaced_by_a_new_one(
    memory: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    _part(memory, range(5))
    open_store().client.delete_run(runs()[0].info.run_id)
    _part(memory, range(3, 5))
    (run,) = runs()
    assert [step for step, _ in _points(run.info.run_id)] == [3, 4], "steps of the deleted run do not count"
    assert capsys.readouterr().out.count("a new MLflow run is started\n") == 1


def test_another_store_gets_a_new_run(
    memory: Path,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _part(memory, range(5))
    shutil.copy(memory.parents[2] / "mlruns" / "mlflow.db", tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    _part(memory, range(5))
    assert len(runs()) == 2
    assert (
        "another store ('sqlite:///mlruns/mlflow.db'): a new MLflow run is started" in capsys.readouterr().out
    )


def test_a_moved_repository_goes_on_with_its_run(
    memory: Path, root: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_one(memory)
    moved = root.with_name("moved")
    root.rename(moved)
    monkeypatch.setenv("DVC_ROOT", str(moved))
    again = moved / memory.relative_to(root)
    with track("train_phase_a", params=PARAMS, memory=again, identity="plan 1") as run:
        run.text("of the second part", "second.txt")
    (only,) = runs()
    kept = moved / "mlruns" / "artifacts" / only.info.run_id / "artifacts"
    assert sorted(path.name for path in kept.iterdir()) == ["first.txt", "second.txt"]
    assert Path(open_store().client.download_artifacts(only.info.run_id, "first.txt")).read_text()
    assert not root.exists()


def _forged(**values: object) -> bytes:
    """A memory that would be used but for these values."""
    fair = {"identity": "plan 1", "store": "sqlite:///mlruns/mlflow.db", "token": "0" * 32, "part": 1}
    return json.dumps({**fair, "run_id": "1" * 32, "steps": {}, **values}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"null",
        b'{"identity": "plan 1"}',
        b" " * (2 << 20),
        _forged(run_id="../../etc"),
        _forged(run_id=7),
        _forged(token="../../etc"),
        _forged(token="/" * 32),
        _forged(part=1.5),
        _forged(steps={"a": float("inf")}),
        _forged(steps={"a": True}),
        _forged(steps={"a": 10**400}),
        _forged(steps=[1]),
        _forged(surplus=1),
    ],
    ids=itertools.count(),
)
def test_a_damaged_memory_is_named_and_a_new_run_is_started(
    content: bytes, memory: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.parent.mkdir(parents=True)
    memory.write_bytes(content)
    _part(memory, range(2))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "mlflow_run.json" in line]
    assert line.endswith(": a new MLflow run is started")
    assert json.loads(memory.read_text())["run_id"] == runs()[0].info.run_id


def test_equal_weights_are_registered_once_in_a_run(memory: Path, tmp_path: Path, runs: Runs) -> None:
    weights = tmp_path / "phase_a.pt"
    for content, versions in ((b"weights", 1), (b"weights", 1), (b"better weights", 2)):
        weights.write_bytes(content)
        with track("train_phase_a", params=PARAMS, memory=memory, identity="1") as run:
            run.register(weights, STFV8Config())
        assert len(open_store().client.search_model_versions(f"name = '{MODEL_NAME}'")) == versions


def test_the_address_that_is_kept_has_no_password_and_no_place_of_the_repository(root: Path) -> None:
    assert shown_address("https://ann:secret@mlflow.lab:5000/x") == "https://mlflow.lab:5000/x"
    assert shown_address("https://mlflow.lab") == "https://mlflow.lab"
    assert shown_address(f"sqlite:///{root}/mlruns/mlflow.db") == "sqlite:///mlruns/mlflow.db"
    assert shown_address("sqlite:////elsewhere/mlflow.db") == "sqlite:////elsewhere/mlflow.db"


def test_a_killed_run_repeats_no_point_however_often_it_is_killed(memory: Path, runs: Runs) -> None:
    for start in (0, 3, 2, 9, 5):
        with pytest.raises(Interrupted):
            _part(memory, range(start, start + 6), Interrupted("again", 143))
    counted = Counter(step for step, _ in _points(runs()[0].info.run_id))
    assert counted == Counter(range(15))
