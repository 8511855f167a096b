"""One store, wherever it is opened from, and whoever opens it first."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stf.config import Params
from stf.errors import TrackingError
from stf.io.paths import repository_root
from stf.tracking.run import track
from stf.tracking.store import EXPERIMENT, open_store, store_uri


def test_the_store_is_in_the_real_repository_not_in_dvcs_copy(root: Path) -> None:
    store = open_store()
    assert store.experiment_id == "1"  # the link that `make ui` prints names it
    assert Path.cwd() != root
    assert not any(Path.cwd().iterdir())
    assert (root / "mlruns" / "mlflow.db").exists()


def test_without_dvc_the_working_folder_is_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(tmp_path)
    assert repository_root().resolve() == tmp_path.resolve()
    assert store_uri() == f"sqlite:///{tmp_path.resolve()}/mlruns/mlflow.db"


def test_environment_overrides_the_store(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(root / "mlruns" / "mlflow.db", tmp_path / "elsewhere.db")
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert open_store().uri == uri


def test_unreachable_server_is_one_clear_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(
        TrackingError, match=r"no MLflow server answers at http://127\.0\.0\.1:9 .*unset MLFLOW"
    ):
        open_store()


def test_broken_database_is_one_clear_error(root: Path) -> None:
    (root / "mlruns" / "mlflow.db").write_bytes(b"this is no database " * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db.*failed: file is not a database"):
        open_store()


def test_artifacts_follow_the_folder_when_it_moves(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    old_run = store.client.create_run(store.experiment_id)
    moved = root.with_name("moved")
    root.rename(moved)
    monkeypatch.setenv("DVC_ROOT", str(moved))

    store = open_store()
    new_run = store.client.create_run(store.experiment_id)
    for run_id in (old_run.info.run_id, new_run.info.run_id):
        store.client.log_text(run_id, "kept", "note.txt")
        assert (moved / "mlruns" / "artifacts" / run_id / "artifacts" / "note.txt").read_text() == "kept"
    assert not root.exists()


def test_a_deleted_experiment_is_restored(root: Path) -> None:
    store = open_store()
    store.client.delete_experiment(store.experiment_id)
    assert open_store().client.get_experiment_by_name(EXPERIMENT).lifecycle_stage == "active"


@pytest.mark.parametrize("n_racers", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_runs_that_start_at_once_from_nothing_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_racers: int
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    fork = multiprocessing.get_context("fork")
    at_once = fork.Barrier(n_racers)

    def race(number: int) -> None:
        at_once.wait()
        with track("train_phase_a", params=Params()) as run:
            run.tag("racer", str(number))
            for step in range(100):
                run.log({"loss": float(number + step)}, step=step)
                if step % 10 == 0:
                    run.tag("step", str(step))

    racers = [fork.Process(target=race, args=(number,)) for number in range(n_racers)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * n_racers
    store = open_store()
    runs = store.client.search_runs([store.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * n_racers
    assert sorted(run.data.tags["racer"] for run in runs) == [str(number) for number in range(n_racers)]
    for run in runs:
        history = store.client.get_metric_history(run.info.run_id, "loss")
        numbers = [(point.step, point.value) for point in history]
        assert numbers == [(step, float(run.data.tags["racer"]) + step) for step in range(100)]
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert not any((tmp_path / "checkpoints" / "unsent").iterdir())
