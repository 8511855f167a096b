"""A real MLflow server that dies in the middle of a run and comes back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from stf.config import Params, STFV8Config
from stf.tracking.run import track
from stf.tracking.store import open_store

_SERVER = """
import logging, sys
from mlflow.server import app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True).serve_forever()
"""


class _Server:
    """MLflow's own, with its artifacts behind it too; `kill` is kill -9."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri, self.artifacts = f"http://127.0.0.1:{self._port}", folder / "served"
        self._env = os.environ | {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/server.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.artifacts),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(self._port)], env=self._env, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except urllib.error.URLError:
            return False
        return True


@pytest.mark.slow
@pytest.mark.xdist_group("kills")
@pytest.mark.parametrize("comes_back", ["during the run", "after the run"])
def test_a_training_outlives_its_server_which_receives_every_point_once(
    comes_back: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr("stf.tracking.delivery.FLUSH_EVERY_S", 0.0)
    monkeypatch.setattr("stf.tracking.delivery.RETRY_EVERY_S", 0.0)
    monkeypatch.setattr("stf.tracking.delivery._RETRY_SHARE", float("inf"))
    server = _Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//ann:sEcret@"))
    (tmp_path / "phase_a.safetensors").write_bytes(b"weights")
    record = tmp_path / "checkpoints" / "0" / "mlflow"
    try:
        with track("train_phase_a", params=Params(), memory=record, identity="1") as run:
            for step in range(30):
                began = time.monotonic()
                run.log({"loss": step / 8}, step=step)
                assert time.monotonic() - began < 15, "a dead server delays a step"
                if step == 10:
                    server.kill()
                    run.register(tmp_path / "phase_a.safetensors", STFV8Config())
                if step == 20 and comes_back == "during the run":
                    server.start()
                    run.log({"back": 1.0}, step=step)
                    assert "the MLflow store answers again" in capsys.readouterr().out
        assert (record / "unsent").exists() == (comes_back == "after the run")
        if comes_back == "after the run":
            assert "the next command that opens the store sends it from" in capsys.readouterr().out
            server.start()
            with track("eval_a", params=Params()):
                pass
            output = capsys.readouterr().out
            assert "MLflow has received the rest of train_phase_a" in output
            assert "sEcret" not in output
            assert not (record / "unsent").exists()
        store = open_store()
        (only,) = store.client.search_runs([store.experiment_id], "tags.stage = 'train_phase_a'")
        history = store.client.get_metric_history(only.info.run_id, "loss")
        assert (only.info.status, only.data.tags["registered_model"]) == ("FINISHED", "stf-mamba v1")
        assert sorted((point.step, point.value) for point in history) == [(n, n / 8) for n in range(30)]
        (stored,) = server.artifacts.rglob("phase_a.safetensors")
        assert stored.read_bytes() == b"weights"
    finally:
        server.kill()
