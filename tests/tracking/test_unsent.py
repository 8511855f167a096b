"""A store that fails stops no run, loses nothing and holds nothing up; what is left is sent later."""

from __future__ import annotations

import http.server
import json
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
from click.testing import CliRunner, Result
from matplotlib.figure import Figure

from pipeline.send_runs import main
from stf.config import Params, STFV8Config
from stf.errors import DataError, Interrupted, TrackingError
from stf.tracking import delivery
from stf.tracking.journal import homes
from stf.tracking.operations import MODEL_NAME
from stf.tracking.run import TrackedRun, track
from stf.tracking.store import open_store
from tests.reference.forks import forked

PARAMS = Params()
Runs = Callable[[], list]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the seconds of real life: for an answer, between two batches, between two attempts."""
    monkeypatch.setattr("stf.tracking.delivery.ANSWER_WAIT_S", 0.2)
    monkeypatch.setattr("stf.tracking.delivery._RETRY_WAIT_S", 0.2)
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
    """In the middle of a run: MLflow itself waits 20 s for a lock, so it is told at once that there is one."""

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


def _say_everything(run: TrackedRun, folder: Path) -> None:
    """Every kind of operation once, metrics of three steps around them."""
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables" / "a.csv").write_text("1")
    (folder / "phase_a.pt").write_bytes(b"weights")
    run.log({"loss": 0.5, "auc": float("nan")}, step=1)
    run.tag("stopped_by_budget", "false")
    run.artifact(folder / "tables" / "a.csv", "tables")
    run.artifact(folder / "tables")
    run.log({"loss": 0.25, "auc": 0.75}, step=2)
    run.figure(Figure(), "plots/roc.png")
    run.text("loaded 3\n", "notes/transfer.txt")
    run.tie_weights(folder / "phase_a.pt")
    run.register(folder / "phase_a.pt", STFV8Config())
    run.log({"loss": 0.125}, step=3)
    run.log({"cost_usd": 2.5})
    (folder / "phase_a.pt").write_bytes(b"what a later run wrote there")


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
    kept = {entry.path for folder in folders for entry in client.list_artifacts(run_id, folder)}
    expected = {"a.csv", "tables/a.csv", "plots/roc.png", "notes/transfer.txt", "model/phase_a.pt"}
    assert expected <= kept
    (version,) = client.search_model_versions(f"name = '{MODEL_NAME}'")
    model = Path(client.get_model_version_download_uri(MODEL_NAME, version.version))
    assert (model / "phase_a.pt").read_bytes() == b"weights", "the file as it was when the run kept it"


def _left() -> list[Path]:
    return [path for home in homes() if home.exists() for path in home.iterdir()]


def _send(*options: str) -> Result:
    return CliRunner().invoke(main, options)


def test_a_run_whose_store_answers_leaves_nothing_behind(root: Path, runs: Runs, tmp_path: Path) -> None:
    with track("train_phase_a", params=PARAMS) as run:
        _say_everything(run, tmp_path)
    _require_everything(runs()[0].info.run_id)
    assert _left() == []


def test_a_database_locked_for_the_whole_run(
    root: Path, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _locked(root):
        began = time.monotonic()
        with track("train_phase_a", params=PARAMS) as run:
            _say_everything(run, tmp_path)
        assert time.monotonic() - began < 60
    told = capsys.readouterr().out.splitlines()
    assert len([line for line in told if "database is locked" in line]) == 1
    assert told[-1].endswith("python -m pipeline.send_runs")
    assert runs() == []
    sent = _send()
    assert (sent.exit_code, sent.output.count("sent: train_phase_a")) == (0, 1)
    (run,) = runs()
    _require_everything(run.info.run_id)
    assert run.info.run_id in sent.output.replace("\n", "")
    assert _left() == []
    assert _send().output.strip() == "nothing is unsent"


def test_a_lock_that_goes_away_in_the_middle(
    root: Path, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with track("train_phase_a", params=PARAMS) as first:
        first.log({"loss": 1.0}, step=1)
    lock = _locked(root)
    lock.__enter__()
    with track("train_phase_a", params=PARAMS) as run:
        run.log({"loss": 0.5, "auc": float("nan")}, step=1)
        lock.__exit__(None, None, None)
        run.log({"loss": 0.5}, step=0)
        assert "the MLflow store answers again" in capsys.readouterr().out
    history = open_store().client.get_metric_history(runs()[0].info.run_id, "loss")
    assert sorted(point.step for point in history) == [0, 1]
    assert _left() == []


def test_a_store_that_fails_in_the_middle_is_told_everything_in_the_end(
    root: Path,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with track("train_phase_a", params=PARAMS) as run:
        run.log({"lr": 0.1}, step=1)
        with _failing(monkeypatch):
            _say_everything(run, tmp_path)
    _require_everything(runs()[0].info.run_id)
    told = capsys.readouterr().out
    assert told.count("The run goes on") == 1
    assert told.count("the MLflow store answers again") == 1
    assert _left() == []


def test_a_store_that_fails_now_and_then_gets_everything_once(
    root: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    answer, calls = MlflowClient.log_batch, iter(range(10_000))

    def flaky(client: MlflowClient, *args: object, **keywords: object) -> None:
        """Every third call fails, every other of those after it was done: its answer is lost."""
        call = next(calls)
        if call % 6 != 2:
            answer(client, *args, **keywords)
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


def test_an_unreachable_server(
    root: Path,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with track("train_phase_a", params=PARAMS) as run:
        _say_everything(run, tmp_path)
    assert "no MLflow server answers at http://127.0.0.1:9" in capsys.readouterr().out
    refused = _send()
    assert refused.exit_code == 1
    assert "1 of 1 runs are still unsent: no MLflow server answers" in refused.output
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert _send("--here").exit_code == 0
    _require_everything(runs()[0].info.run_id)


class _Dying(http.server.BaseHTTPRequestHandler):
    """Says that it is well, and knows nothing else."""

    asked: ClassVar[list[str]] = []

    def _answer(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_answers_nothing_but_its_health(
    root: Path, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Dying)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("stf.tracking.delivery.RETRY_EVERY_S", 60.0)
    with track("train_phase_a", params=PARAMS) as run:
        _say_everything(run, tmp_path)
        server.shutdown()
        server.server_close()
    assert len(_Dying.asked) >= 2
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert _send("--here").exit_code == 0
    _require_everything(runs()[0].info.run_id)


def test_a_damaged_database(
    root: Path, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = root / "mlruns" / "mlflow.db"
    whole = database.read_bytes()
    database.write_bytes(b"this is no database " * 100)
    with track("train_phase_a", params=PARAMS) as run:
        _say_everything(run, tmp_path)
    assert "file is not a database. The run goes on" in capsys.readouterr().out
    assert "Traceback" not in _send().output
    database.write_bytes(whole)
    assert _send().exit_code == 0
    _require_everything(runs()[0].info.run_id)


def test_a_place_for_mlruns_that_cannot_be_written(root: Path, runs: Runs, tmp_path: Path) -> None:
    (root / "mlruns").rename(root / "aside")
    (root / "mlruns").write_text("a file where the folder should be")
    with track("train_phase_a", params=PARAMS) as run:
        _say_everything(run, tmp_path)
    assert _left()[0].parent == root / "checkpoints" / "unsent"
    (root / "mlruns").unlink()
    (root / "aside").rename(root / "mlruns")
    assert _send().exit_code == 0
    _require_everything(runs()[0].info.run_id)


def test_nowhere_to_write_is_one_clear_error(root: Path) -> None:
    for name in ("mlruns", "checkpoints"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).write_text("a file where the folder should be")
    with pytest.raises(TrackingError, match=r"there is no place for it: .*mlruns.*checkpoints.*[Mm]ake room"):
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
        code, told = forked(fill)
    assert (code, "cannot be written: " in told) == (0, True), told
    assert len(told.splitlines()) == 1
    assert _send().exit_code == 0
    (run,) = runs()
    history = open_store().client.get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == list(range(len(history)))
    assert len(history) > 100


def test_killed_in_the_middle_of_a_line_the_rest_is_sent(
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
    (folder,) = _left()
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert _send().exit_code == 0
    (run,) = runs()
    assert run.info.status == "KILLED"
    history = open_store().client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, step / 8) for step in range(49)]


def test_a_run_that_was_never_answered_goes_on_as_one_run(root: Path, runs: Runs) -> None:
    memory = root / "checkpoints" / "0" / "mlflow_run.json"
    with (
        _locked(root),
        pytest.raises(Interrupted),
        track("train", params=PARAMS, memory=memory, identity="1") as run,
    ):
        run.log({"loss": 1.0}, step=1)
        raise Interrupted("stopped by SIGTERM", 143)
    with track("train", params=PARAMS, memory=memory, identity="1") as run:
        run.log({"loss": 1.0}, step=1)
        run.log({"loss": 0.5}, step=2)
    (only,) = runs()
    assert (only.info.status, only.data.tags["resumed"]) == ("FINISHED", "1")
    history = open_store().client.get_metric_history(only.info.run_id, "loss")
    assert [point.step for point in history] == [1, 2]
    assert _left() == []


def test_a_run_sent_by_the_command_goes_on_as_one_run(root: Path, runs: Runs) -> None:
    memory = root / "checkpoints" / "0" / "mlflow_run.json"
    for part, sends in ((1, True), (2, True), (3, False)):
        with _locked(root), track("train", params=PARAMS, memory=memory, identity="1") as run:
            run.log({"loss": 1.0}, step=part)
            run.log({"loss": 1.0}, step=part + 1)
        if sends:
            assert _send().exit_code == 0
    with track("train", params=PARAMS, memory=memory, identity="1"):
        pass
    (only,) = runs()
    history = open_store().client.get_metric_history(only.info.run_id, "loss")
    assert [point.step for point in history] == [1, 2, 3, 4]


def test_a_run_that_failed_says_so_later(root: Path, runs: Runs) -> None:
    with _locked(root), pytest.raises(DataError), track("train", params=PARAMS):
        raise DataError("no frames")
    assert _send().exit_code == 0
    (run,) = runs()
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "DataError: no frames")


def test_a_running_run_is_left_alone(root: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "RETRY_EVERY_S", 60.0)
    with _locked(root):
        opened = track("train", params=PARAMS)
        run = opened.__enter__()
    code, (exit_code, output) = forked(lambda: ((sent := _send()).exit_code, sent.output))
    assert (code, exit_code, "is in use by its run" in output) == (0, 0, True), output
    assert runs() == []
    run.log({"loss": 1.0}, step=1)
    opened.__exit__(None, None, None)
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_the_start_of_a_run_waits_no_longer_for_its_store_than_it_may(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stf.tracking.delivery.ANSWER_WAIT_S", 1.0)
    began = time.monotonic()
    with _locked(root), track("train", params=PARAMS):
        assert 0.5 < time.monotonic() - began < 60  # MLflow alone would repeat for minutes


def test_attempts_take_a_small_share_of_a_run_however_slow_the_store_is_to_fail(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, attempts_s = 0.0, []

    def slow(wait_s: float) -> None:
        nonlocal now_s
        attempts_s.append(now_s)
        now_s += 0.5
        raise TrackingError("no answer")

    monkeypatch.setattr(delivery, "open_store", slow)
    monkeypatch.setattr(delivery, "_RETRY_SHARE", 0.25)
    monkeypatch.setattr("stf.tracking.delivery.time.monotonic", lambda: now_s)
    with track("train", params=PARAMS) as run:
        while now_s < 20.0:
            run.log({"loss": 1.0})
            now_s += 0.125
        assert attempts_s == [2.5 * attempt for attempt in range(8)]  # 0.5 s of trying, then 2 s without


@pytest.fixture(scope="module")
def unsent(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run left in mlruns/unsent of a store that was locked; copy it."""
    root = Path(shutil.copytree(empty_store, tmp_path_factory.mktemp("unsent") / "root"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr("stf.tracking.delivery.ANSWER_WAIT_S", 0.2)
        patch.setattr("stf.tracking.delivery._RETRY_WAIT_S", 0.2)
        with _locked(root), track("train", params=PARAMS) as run:
            run.log({"loss": 1.0}, step=1)
            run.text("kept", "note.txt")
    return root / "mlruns" / "unsent"


@pytest.fixture
def journal(unsent: Path, root: Path) -> Path:
    """A run's journal, unsent; the folder that it lies in has a secret beside it."""
    (root / "secret.txt").write_text("secret")
    shutil.copytree(unsent, root / "mlruns" / "unsent", dirs_exist_ok=True)
    (folder,) = _left()
    return folder / "journal.jsonl"


@pytest.mark.parametrize(
    "line",
    [
        b"null",
        b"[1",
        b"[" * 100_000,
        b"\xff",
        b'{"kind": "shell", "command": "rm"}',
        b'{"kind": "tag", "key": "a"}',
        b'{"kind": "tag", "key": "a", "value": 1}',
        b'{"kind": "tag", "key": "a", "value": "\\ud800"}',
        b'{"kind": "tag", "key": "a", "value": "b", "more": 1}',
        b'{"kind": ["tag"]}',
        b'{"kind": "keep", "path": "../../../secret.txt", "folder": ""}',
        b'{"kind": "keep", "path": "files/../../../../secret.txt", "folder": ""}',
        b'{"kind": "keep", "path": "/etc/passwd", "folder": ""}',
        b'{"kind": "keep", "path": "journal.jsonl", "folder": ""}',
        b'{"kind": "keep", "path": "files/9/none.txt", "folder": ""}',
        b'{"kind": "keep", "path": "files/1/note.txt", "folder": "../../x"}',
        b'{"kind": "keep", "path": "files/1/note.txt", "folder": "/x"}',
        b'{"kind": "keep", "path": "files/1/\\u0000", "folder": ""}',
        b'{"kind": "points", "points": [["a", 1.0, 1]]}',
        b'{"kind": "points", "points": [["a", "1.0", 1, 1]]}',
        b'{"kind": "points", "points": [["a", 1.0, 1, 1' + b"0" * 30 + b"]]}",
        b'{"kind": "points", "points": {"a": 1}}',
        b'{"kind": "link", "weights_sha256": "\' OR 1=1", "keys": []}',
        b'{"kind": "end", "status": "RUNNING", "ms": 1}',
        b'{"kind": "start", "token": "../x", "part": 1, "name": "", "ms": 1, "params": {}, "tags": {}}',
        b'{"kind": "start", "token": "%032d", "part": 1, "name": "\\u001b[2J", "ms": 1, "params": {}, "tags": {}}'
        % 0,
    ],
    ids=range(26),
)
def test_a_damaged_journal_is_named_and_nothing_of_it_is_used(line: bytes, journal: Path, runs: Runs) -> None:
    whole = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([*whole[:2], line, *whole[2:]]) + b"\n")
    refused = _send()
    assert refused.exit_code == 1
    assert "journal.jsonl is damaged in line 3 (" in refused.output
    assert len(refused.output.strip().splitlines()) == 1
    assert runs() == []
    assert journal.exists()


def test_links_in_a_journal_are_not_followed(journal: Path, runs: Runs, root: Path) -> None:
    (note,) = journal.parent.glob("files/1/note.txt")
    note.unlink()
    note.symlink_to(root / "secret.txt")
    assert "a link" in _send().output
    note.unlink()
    shutil.move(journal.parent / "files", root / "elsewhere")
    (root / "elsewhere" / "1" / "note.txt").write_text("secret")
    (journal.parent / "files").symlink_to(root / "elsewhere")
    assert "is a link, which no run makes" in _send().output
    (journal.parent / "files").unlink()
    (root / "victim.txt").write_text("precious, no line end")
    journal.unlink()
    journal.symlink_to(root / "victim.txt")
    assert "is a link, which no run makes" in _send().output
    assert (root / "victim.txt").read_text() == "precious, no line end"
    assert runs() == []


def test_a_journal_under_another_runs_name_is_refused(journal: Path, runs: Runs) -> None:
    journal.parent.rename(journal.parent.with_name("0" * 32))
    refused = _send()
    assert (refused.exit_code, runs()) == (1, [])
    assert "the journal of another run" in refused.output


def test_a_run_does_not_go_on_with_a_damaged_journal(
    root: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = root / "mlflow_run.json"
    with _locked(root), track("train", params=PARAMS, memory=memory, identity="1"):
        pass
    (folder,) = _left()
    (folder / "journal.jsonl").write_bytes(b"null\n")
    with track("train", params=PARAMS, memory=memory, identity="1"):
        pass
    assert ": a new MLflow run is started" in capsys.readouterr().out
    assert [run.info.status for run in runs()] == ["FINISHED"]
    assert json.loads(memory.read_text())["run_id"] == runs()[0].info.run_id
    assert _left() == [folder]


def test_what_the_store_refuses_stays_with_what_comes_after_it(journal: Path, runs: Runs) -> None:
    whole = journal.read_bytes().splitlines()
    refused_by_mlflow = b'{"kind": "tag", "key": "a:b:\\n;", "value": "x"}'
    journal.write_bytes(b"\n".join([*whole[:2], refused_by_mlflow, *whole[2:]]) + b"\n")
    assert _send().exit_code == 1
    kinds = [json.loads(line)["kind"] for line in journal.read_bytes().splitlines()]
    assert kinds == ["start", "tag", "keep", "points", "end"], "the points before it were sent"
    assert os.listdir(journal.parent / "files") == ["1"]
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([lines[0], *lines[2:]]) + b"\n")
    assert _send().exit_code == 0
    (run,) = runs()
    assert run.data.metrics["loss"] == 1.0
    assert open_store().client.list_artifacts(run.info.run_id)[0].path == "note.txt"
