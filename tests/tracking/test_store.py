"""One store, wherever it is opened from, and whoever opens it first."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stf.errors import TrackingError
from stf.tracking.store import EXPERIMENT, open_store, repository_root, store_uri


def test_store_lies_in_the_real_repository_not_in_dvcs_copy(root: Path) -> None:
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
    assert repository_root() == tmp_path.resolve()
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


def test_deleted_experiment_is_brought_back(root: Path) -> None:
    store = open_store()
    store.client.delete_experiment(store.experiment_id)
    assert open_store().client.get_experiment_by_name(EXPERIMENT).lifecycle_stage == "active"


@pytest.mark.slow
def test_processes_that_create_the_store_at_once_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    opens = "from stf.tracking.store import open_store as o; s = o(); s.client.create_run(s.experiment_id)"
    command = [sys.executable, "-c", opens]
    here = Path(__file__).resolve().parents[2]
    racers = [subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [racer.communicate(timeout=300)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], errors
    store = open_store()
    assert len(store.client.search_runs([store.experiment_id])) == 3
