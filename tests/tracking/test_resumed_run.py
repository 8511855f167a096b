"""A run that was killed, stopped or failed is resumed as the same MLflow run."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stf.config import Params, STFV8Config
from stf.errors import DataError, Interrupted, StfError, TrackingError
from stf.tracking import delivery
from stf.tracking.mlflow_run import MODEL_NAME
from stf.tracking.run import track
from stf.tracking.store import open_store
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
    return root / "checkpoints" / "0" / "mlflow"


@pytest.mark.parametrize("flush_every_s", [0.0, 1e9], ids=["points sent", "points pending"])
def test_a_run_killed_by_force_is_resumed(memory: Path, runs: Runs, flush_every_s: float) -> None:
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
def test_a_run_that_was_stopped_or_failed_is_resumed(
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


def test_without_a_memory_file_every_call_is_a_new_run(runs: Runs) -> None:
    for _ in range(2):
        with track("train_phase_a", params=PARAMS) as run:
            for step in (2, 1, 3):
                run.log({"loss": float(step)}, step=step)
    assert len(runs()) == 2
    assert {step for step, _ in _points(runs()[0].info.run_id, "loss")} == {1, 2, 3}


def test_a_deleted_run_is_replaced_by_a_new_one(
    memory: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    _part(memory, range(5))
    open_store().client.delete_run(runs()[0].info.run_id)
    _part(memory, range(3, 5))
    (run,) = runs()
    assert [step for step, _ in _points(run.info.run_id)] == [0, 1, 2, 3, 4], "the new one has it all"
    assert "is not in sqlite:///mlruns/mlflow.db: it is created from its record" in capsys.readouterr().out


def test_another_store_gets_a_new_run(
    memory: Path,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(memory.parents[2] / "mlruns" / "mlflow.db", tmp_path / "other.db")
    _part(memory, range(5))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    _part(memory, range(3, 7))
    (run,) = [run for run in runs() if run.info.status == "FINISHED" and "resumed" in run.data.tags]
    assert _points(run.info.run_id) == [(step, step / 10) for step in range(7)], (
        "also what the first part logged"
    )
    assert "it is created from its record" in capsys.readouterr().out


def test_a_moved_repository_resumes_its_run(
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
    artifacts = moved / "mlruns" / "artifacts" / only.info.run_id / "artifacts"
    assert sorted(path.name for path in artifacts.iterdir()) == ["first.txt", "second.txt"]
    assert Path(open_store().client.download_artifacts(only.info.run_id, "first.txt")).read_text()
    assert not root.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"null\n",
        b"[1\n",
        b"[" * 100_000 + b"\n",
        b"\xff\n",
        b'{"ms": 1}\n',
        b'{"ms": 1, "tags": {"a": 1}}\n',
        b'{"ms": 1, "tags": {"a": "\\ud800"}}\n',
        b'{"ms": 1, "surplus": 1}\n',
        b'{"ms": 1%s}\n' % (b"0" * 30),
        b'{"ms": true}\n',
        b'{"ms": 1, "metrics": {"a": "1.0"}}\n',
        b'{"ms": 1, "links": ["a"], "linked_weights": "\' OR 1=1"}\n',
        b'{"ms": 1, "status": "RUNNING"}\n',
    ],
    ids=range(13),
)
def test_a_damaged_record_is_reported_and_a_new_run_is_started(
    content: bytes, memory: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    _part(memory, range(2))
    log = memory / "run.jsonl"
    log.write_bytes(content + log.read_bytes())
    _part(memory, range(2))
    assert f"this training is a new MLflow run: {log} " in capsys.readouterr().out
    assert len(runs()) == 2
    assert _points(runs()[0].info.run_id) == [(0, 0.0), (1, 0.1)]


def test_links_in_a_record_are_not_followed(memory: Path, root: Path) -> None:
    _part(memory, range(2))
    victim = root / "victim.txt"
    victim.write_text("precious")
    for name in ("run.jsonl", "lock", "files", "unsent"):
        shutil.rmtree(memory)
        memory.mkdir()
        (memory / name).symlink_to(victim)
        with pytest.raises(TrackingError, match=f"{name} is a link or a device"):
            _part(memory, range(2))
    assert victim.read_text() == "precious"


def test_a_pipe_in_place_of_the_record_is_refused_unopened(memory: Path) -> None:
    memory.mkdir(parents=True)
    os.mkfifo(memory / "run.jsonl")
    with pytest.raises(TrackingError, match=r"run\.jsonl is a link or a device"):
        _part(memory, range(2))


def test_a_training_that_is_started_again_is_another_run(memory: Path, runs: Runs) -> None:
    _part(memory, range(3))
    with track("train_phase_a", params=PARAMS, memory=memory, identity="plan 1", resume=False) as run:
        run.log({"step/loss": 0.0}, step=0)
    assert len(runs()) == 2


def test_the_later_value_of_a_provisional_step_counts(memory: Path, runs: Runs) -> None:
    """An epoch that the budget cut short is logged again when a larger budget lets it end."""
    for value, provisional in ((0.4, True), (0.6, False), (0.9, False)):
        with track("train_phase_a", params=PARAMS, memory=memory, identity="i") as run:
            run.log({"val/auc": value}, step=3, provisional=provisional)
    [run] = runs()
    assert _points(run.info.run_id, "val/auc") == [(3, 0.4), (3, 0.6)]
    assert run.data.metrics["val/auc"] == 0.6


def test_the_last_cost_is_the_cost_of_the_run(memory: Path, runs: Runs) -> None:
    """MLflow takes the value of the highest step for the last one, so a figure of the whole run needs that step."""
    with track("train_phase_a", params=PARAMS, memory=memory, identity="i") as run:
        for epoch in (1, 2):
            run.log({"cost_usd": epoch / 4}, step=epoch)
        run.log({"cost_usd": 0.625})
    assert runs()[0].data.metrics["cost_usd"] == 0.625


def test_equal_weights_are_registered_once_in_a_run(memory: Path, tmp_path: Path, runs: Runs) -> None:
    weights = tmp_path / "phase_a.safetensors"
    for content, versions in ((b"weights", 1), (b"weights", 1), (b"better weights", 2)):
        weights.write_bytes(content)
        with track("train_phase_a", params=PARAMS, memory=memory, identity="1") as run:
            run.register(weights, STFV8Config())
        assert len(open_store().client.search_model_versions(f"name = '{MODEL_NAME}'")) == versions


def test_a_killed_run_repeats_no_point_however_often_it_is_killed(memory: Path, runs: Runs) -> None:
    for start in (0, 3, 2, 9, 5):
        with pytest.raises(Interrupted):
            _part(memory, range(start, start + 6), Interrupted("again", 143))
    counted = Counter(step for step, _ in _points(runs()[0].info.run_id))
    assert counted == Counter(range(15))
