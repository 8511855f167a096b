"""A store that fails stops no run, loses nothing and delays nothing; what is missing is sent later."""

from __future__ import annotations

import http.server
import os
import resource
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from matplotlib.figure import Figure

from stf.config import Params, STFV8Config
from stf.errors import DataError, TrackingError
from stf.io.hashing import sha256_of
from stf.tracking import delivery
from stf.tracking.delivery import send_unsent
from stf.tracking.mlflow_run import MODEL_NAME
from stf.tracking.run import TrackedRun, track
from stf.tracking.store import open_store
from tests.reference.forks import forked

PARAMS = Params()
Runs = Callable[[], list]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For an answer, between two batches, between two attempts."""
    monkeypatch.setattr("stf.tracking.delivery.WAIT_S", 0.2)
    monkeypatch.setattr("stf.tracking.delivery.FLUSH_EVERY_S", 0.0)
    monkeypatch.setattr("stf.tracking.delivery.RETRY_EVERY_S", 0.0)
    monkeypatch.setattr("stf.tracking.delivery._RETRY_SHARE", float("inf"))


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Another program holds the whole database."""
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.rollback()


@contextmanager
def _failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the middle of a run: MLflow itself waits 20 s for a lock, so every call fails at once."""

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        for name in (
            "log_batch",
            "set_tag",
            "log_artifact",
            "log_artifacts",
            "set_terminated",
            "search_runs",
        ):
            patch.setattr(f"mlflow.MlflowClient.{name}", refuse)
        yield


def _log_everything(run: TrackedRun, folder: Path) -> None:
    """Every kind of report once, metrics of three steps around them."""
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables" / "a.csv").write_text("1")
    (folder / "phase_a.safetensors").write_bytes(b"weights")
    run.log({"loss": 0.5, "auc": float("nan")}, step=1)
    run.tag("stopped_by_budget", "false")
    run.artifact(folder / "tables" / "a.csv", "tables")
    run.artifact(folder / "tables")
    run.log({"loss": 0.25, "auc": 0.75}, step=2)
    run.figure(Figure(), "plots/roc.png")
    run.text("loaded 3\n", "notes/transfer.txt")
    run.tie_weights(sha256_of(folder / "phase_a.safetensors"))
    run.register(folder / "phase_a.safetensors", STFV8Config())
    run.log({"loss": 0.125}, step=3)
    run.log({"cost_usd": 2.5})
    (folder / "phase_a.safetensors").write_bytes(b"what a later run wrote there")


def _require_everything(run_id: str) -> None:
    client = open_store().client
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run_id, "loss")
    assert sorted((point.step, point.value) for point in points) == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert len(client.get_metric_history(run_id, "auc")) == 2
    assert [point.value for point in client.get_metric_history(run_id, "cost_usd")] == [2.5]
    assert run.data.tags["stopped_by_budget"] == "false"
    assert run.data.tags["registered_model"] == f"{MODEL_NAME} v1"
    assert len(run.data.params) == len(PARAMS.flat())
    folders = ("", "tables", "plots", "notes", "model")
    stored = {entry.path for folder in folders for entry in client.list_artifacts(run_id, folder)}
    expected = {"a.csv", "tables/a.csv", "plots/roc.png", "notes/transfer.txt", "model/phase_a.safetensors"}
    assert expected <= stored
    (version,) = client.search_model_versions(f"name = '{MODEL_NAME}'")
    model = Path(client.get_model_version_download_uri(MODEL_NAME, version.version))
    assert (model / "phase_a.safetensors").read_bytes() == b"weights", (
        "the file as it was when the run kept it"
    )


def _unsent(root: Path) -> list[Path]:
    return sorted(mark.parent for mark in root.glob("checkpoints/*/mlflow*/unsent"))


def _steps(run_id: str, key: str = "loss") -> list[int]:
    return [point.step for point in open_store().client.get_metric_history(run_id, key)]


def test_a_run_whose_store_responds_leaves_no_unsent_record(root: Path, runs: Runs, tmp_path: Path) -> None:
    with track("train_phase_a", params=PARAMS) as run:
        _log_everything(run, tmp_path)
    _require_everything(runs()[0].info.run_id)
    assert list((root / "checkpoints" / "unsent").iterdir()) == []


def test_a_database_locked_for_the_whole_run(
    root: Path, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _locked(root):
        began = time.monotonic()
        with track("train_phase_a", params=PARAMS) as run:
            _log_everything(run, tmp_path)
        assert time.monotonic() - began < 60
    output = capsys.readouterr().out.splitlines()
    assert len([line for line in output if "database is locked" in line]) == 1
    assert output[-1].startswith("the MLflow store at sqlite:///mlruns/mlflow.db lacks part of this run")
    assert runs() == []
    with track("verify_data", params=PARAMS):
        pass
    assert "MLflow has received the rest of train_phase_a" in capsys.readouterr().out
    (training,) = [run for run in runs() if run.data.tags["stage"] == "train_phase_a"]
    _require_everything(training.info.run_id)
    assert _unsent(root) == []


def test_a_lock_that_is_released_during_the_run(
    root: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = _locked(root)
    lock.__enter__()
    with track("train_phase_a", params=PARAMS) as run:
        run.log({"loss": 0.5, "auc": float("nan")}, step=1)
        lock.__exit__(None, None, None)
        run.log({"loss": 0.5}, step=2)
        assert "the MLflow store answers again" in capsys.readouterr().out
        assert _steps(runs()[0].info.run_id) == [1, 2]


def test_a_store_that_fails_during_the_run(
    root: Path,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with track("train_phase_a", params=PARAMS) as run:
        run.log({"lr": 0.1}, step=1)
        with _failing(monkeypatch):
            _log_everything(run, tmp_path)
    _require_everything(runs()[0].info.run_id)
    output = capsys.readouterr().out
    assert output.count("The run continues") == 1
    assert output.count("the MLflow store answers again") == 1
    assert _unsent(root) == []


def test_a_store_that_fails_now_and_then_gets_every_point_once(
    root: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    log_batch, calls = MlflowClient.log_batch, iter(range(10_000))

    def flaky(client: MlflowClient, *args: object, **keywords: object) -> None:
        """Every third call fails, every other of those after it was done: its answer is lost."""
        call = next(calls)
        if call % 6 != 2:
            log_batch(client, *args, **keywords)
        if call % 3 == 2:
            raise ConnectionError("reset by peer")

    with monkeypatch.context() as patch, track("train_phase_a", params=PARAMS) as run:
        patch.setattr(MlflowClient, "log_batch", flaky)
        for step in range(40):
            run.log({"loss": step / 8}, step=step)
    history = open_store().client.get_metric_history(runs()[0].info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, step / 8) for step in range(40)]
    assert len(runs()) == 1
    assert next(calls) > 40


class _UnavailableServer(http.server.BaseHTTPRequestHandler):
    """Answers health checks only."""

    requests: ClassVar[list[str]] = []

    def _answer(self) -> None:
        self.requests.append(self.path)
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_answers_only_health_checks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _UnavailableServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(delivery, "RETRY_EVERY_S", 60.0)
    with track("train_phase_a", params=PARAMS) as run:
        _log_everything(run, tmp_path)
        server.shutdown()
        server.server_close()
    assert len(_UnavailableServer.requests) >= 2
    assert capsys.readouterr().out.count("The run continues") == 1
    assert len(_unsent(root)) == 1


def test_a_damaged_database(
    root: Path, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = root / "mlruns" / "mlflow.db"
    intact = database.read_bytes()
    database.write_bytes(b"this is no database " * 100)
    with track("train_phase_a", params=PARAMS) as run:
        _log_everything(run, tmp_path)
    assert "file is not a database. The run continues" in capsys.readouterr().out
    database.write_bytes(intact)
    send_unsent()
    _require_everything(runs()[0].info.run_id)


def test_an_mlruns_folder_that_cannot_be_created(root: Path, runs: Runs, tmp_path: Path) -> None:
    (root / "mlruns").rename(root / "moved")
    (root / "mlruns").write_text("a file where the folder should be")
    with track("train_phase_a", params=PARAMS) as run:
        _log_everything(run, tmp_path)
    (root / "mlruns").unlink()
    (root / "moved").rename(root / "mlruns")
    send_unsent()
    _require_everything(runs()[0].info.run_id)


def test_an_unwritable_record_is_one_clear_error(root: Path) -> None:
    shutil.rmtree(root / "checkpoints", ignore_errors=True)
    (root / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(TrackingError, match=r"checkpoints.* cannot be written: .*; free some space"):
        track("train_phase_a", params=PARAMS).__enter__()


def test_a_disk_that_gets_full_is_one_clear_error_and_leaves_whole_lines(
    root: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "RETRY_EVERY_S", 60.0)

    def fill() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with track("train_phase_a", params=PARAMS) as run:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
                for step in range(10_000):
                    run.log({"loss": step / 8}, step=step)
        except TrackingError as error:
            return str(error)
        return "nothing"

    with _locked(root):
        code, message = forked(fill)
    assert (code, "cannot be written: " in message) == (0, True), message
    assert len(message.splitlines()) == 1
    send_unsent()
    steps = _steps(runs()[0].info.run_id)
    assert steps == list(range(len(steps)))
    assert len(steps) > 100


def test_of_a_run_killed_in_the_middle_of_a_line_the_rest_is_sent(
    root: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "RETRY_EVERY_S", 60.0)

    def run_and_die() -> None:
        with track("train_phase_a", params=PARAMS) as run:
            for step in range(50):
                run.log({"loss": step / 8}, step=step)
            os.kill(os.getpid(), signal.SIGKILL)

    with _locked(root):
        assert forked(run_and_die) == (-signal.SIGKILL, None)
    [folder] = _unsent(root)
    log = folder / "run.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    send_unsent()
    (run,) = runs()
    assert run.info.status == "KILLED"
    assert _steps(run.info.run_id) == list(range(49))


def test_a_run_killed_before_its_first_report_leaves_nothing(root: Path, runs: Runs) -> None:
    folder = root / "checkpoints/unsent/mlflow-0"
    folder.mkdir(parents=True)
    for name in ("unsent", "run.jsonl"):
        (folder / name).touch()
    send_unsent()
    assert not folder.exists()
    assert runs() == []


@pytest.mark.parametrize("is_sent_between", [True, False])
def test_a_training_that_the_store_never_received_is_resumed_as_one_run(
    root: Path, runs: Runs, is_sent_between: bool
) -> None:
    """Whether or not another command sends it between its parts."""
    memory = root / "checkpoints" / "0" / "mlflow"
    for part in (1, 2, 3):
        with _locked(root), track("train", params=PARAMS, memory=memory, identity="1") as run:
            run.log({"loss": 1.0}, step=part)
            run.log({"loss": 1.0}, step=part + 1)
        if is_sent_between:
            send_unsent()
    with track("train", params=PARAMS, memory=memory, identity="1"):
        pass
    (only,) = runs()
    assert _steps(only.info.run_id) == [1, 2, 3, 4]
    assert (only.info.status, only.data.tags["resumed"]) == ("FINISHED", "3")
    assert _unsent(root) == []


def test_a_failed_training_that_was_resumed_shows_no_error(root: Path, runs: Runs) -> None:
    memory = root / "checkpoints" / "0" / "mlflow"
    with (
        _locked(root),
        pytest.raises(DataError),
        track("train", params=PARAMS, memory=memory, identity="1"),
    ):
        raise DataError("no frames")
    with _locked(root), track("train", params=PARAMS, memory=memory, identity="1"):
        pass
    send_unsent()
    (run,) = runs()
    assert (run.info.status, run.data.tags.get("error")) == ("FINISHED", None)


def test_the_failure_of_an_unsent_run_is_reported_later(root: Path, runs: Runs) -> None:
    with _locked(root), pytest.raises(DataError), track("train", params=PARAMS):
        raise DataError("no frames")
    send_unsent()
    (run,) = runs()
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "DataError: no frames")


def test_an_evaluation_is_nested_under_a_training_that_is_sent_with_it(
    root: Path, runs: Runs, tmp_path: Path
) -> None:
    (tmp_path / "phase_a.safetensors").write_bytes(b"weights")
    memory = root / "checkpoints" / "0" / "mlflow"
    with _locked(root):
        with track("train_phase_a", params=PARAMS, memory=memory) as run:
            run.tie_weights(sha256_of(tmp_path / "phase_a.safetensors"))
        with track("eval_a", params=PARAMS) as run:
            digest = sha256_of(tmp_path / "phase_a.safetensors")
            run.tie_weights(digest)
            run.log_evaluation({"auc/overall": 0.75}, digest)
    send_unsent()
    by_stage = {run.data.tags["stage"]: run for run in runs()}
    parent = by_stage["eval_a"].data.tags["mlflow.parentRunId"]
    assert parent == by_stage["train_phase_a"].info.run_id
    assert "mlflow.parentRunId" not in by_stage["train_phase_a"].data.tags
    assert [run.data.metrics["auc/overall"] for run in by_stage.values()] == [0.75, 0.75]


def test_a_running_run_is_left_alone(root: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "RETRY_EVERY_S", 60.0)
    with _locked(root):
        opened = track("train", params=PARAMS)
        run = opened.__enter__()
    assert forked(send_unsent) == (0, None)
    assert runs() == []
    run.log({"loss": 1.0}, step=1)
    opened.__exit__(None, None, None)
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_attempts_take_a_small_share_of_a_run_however_slow_the_store_is_to_fail(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, attempts_s = 0.0, []

    def slow(_: float) -> None:
        nonlocal now_s
        attempts_s.append(now_s)
        now_s += 0.5
        raise TrackingError("no answer")

    monkeypatch.setattr(delivery, "require_answer", slow)
    monkeypatch.setattr(delivery, "_RETRY_SHARE", 0.25)
    monkeypatch.setattr("stf.tracking.delivery.time.monotonic", lambda: now_s)
    with track("train", params=PARAMS) as run:
        while now_s < 20.0:
            run.log({"loss": 1.0})
            now_s += 0.125
        assert attempts_s == [2.5 * attempt for attempt in range(8)]  # 0.5 s of trying, then 2 s without


def test_a_link_among_a_records_files_is_not_sent(
    root: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "secret.txt").write_text("secret")
    with _locked(root), track("train", params=PARAMS) as run:
        run.text("note", "notes/note.txt")
    [folder] = _unsent(root)
    note = folder / "files/notes/note.txt"
    note.unlink()
    note.symlink_to(root / "secret.txt")
    send_unsent()
    assert "note.txt is a link or a device, which no run creates; remove it" in capsys.readouterr().out
    assert runs() == []
    note.unlink()
    send_unsent()
    assert len(runs()) == 1


def test_a_damaged_record_is_reported_by_every_command_and_kept(
    root: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    with _locked(root), track("train", params=PARAMS):
        pass
    [folder] = _unsent(root)
    (folder / "run.jsonl").write_bytes(b"null\n")
    for _ in range(2):
        send_unsent()
        assert "run.jsonl is damaged (" in capsys.readouterr().out
    assert _unsent(root) == [folder]
    assert runs() == []
