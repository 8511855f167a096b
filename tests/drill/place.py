"""Where the drill kills: a clone of this repository with small data, and what a training leaves there."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
TIMED = ("epoch_time", "cost_usd", "timestamp")
MARK = "STF_DRILL"  # in the environment of every process of a place
TRAINER = "pipeline.train_phase_a"
Params = dict[str, dict[str, Any]]
# Every source of randomness and every part of the state is in play, and a state is kept every other second.
DRILLED: Params = {
    "model": {"dropout": 0.2, "drop_path": 0.1},
    "training": {"batch_size": 4, "grad_accum": 2, "ema_decay": 0.5},
    "runtime": {
        "device": "cpu",
        "threads": 1,
        "num_workers": 1,
        "checkpoint_minutes": 0.03,
        "log_every_steps": 1,
    },
}


@dataclass(frozen=True)
class Results:
    """What a training leaves, without what the clock wrote into it."""

    weights: str  # sha256
    rows: tuple[str, ...]  # of the CSV log


class Place:
    """A clone in `folder`, in which `dvc` and the training run as a user would run them, on the data set in `data`."""

    def __init__(self, folder: Path, data: Path, params: Params) -> None:
        self.folder = folder
        who = {"NAME": "drill", "EMAIL": "drill@localhost"}
        git = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, **git, "PATH": path, MARK: str(folder), "OMP_NUM_THREADS": "1"}
        for inherited in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_STAGE", "PYTHONPATH"):
            self.environment.pop(inherited, None)
        subprocess.run(("git", "clone", "--quiet", ROOT, folder), check=True)
        shutil.copytree(data, folder / "data" / "sample")
        file = folder / "params.yaml"
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        for changes in (DRILLED, params):
            for section, values_of in changes.items():
                values[section] |= values_of
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        self.run("python", "-c", _VERIFY)
        # what `dvc repro verify_data` would end with, without its audit; --temp takes the data from the cache
        self.run("dvc", "commit", "--quiet", "--force", "verify_data")
        self.run("git", "commit", "--quiet", "--all", "--message", "Small data for a drill")

    def run(self, *command: str) -> None:
        """Runs a command in the place; raises CalledProcessError."""
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """A shell command line as the leader of a process group of its own, as a terminal starts it."""
        log = (self.folder / "drill.log").open("ab")
        with log:
            return subprocess.Popen(
                ("bash", "-c", command), cwd=self.folder, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        """All that run on behalf of this place, whoever their parents are."""
        return [process for process in psutil.process_iter() if _marked(process) == str(self.folder)]

    def trainers(self) -> list[psutil.Process]:
        """The training processes without their loader workers."""
        here = {process.pid: _command(process) for process in self.processes()}
        found = [pid for pid, command in here.items() if TRAINER in command and "bash -c" not in command]
        alive = [psutil.Process(pid) for pid in found if psutil.pid_exists(pid)]
        return [process for process in alive if _parent(process) not in found]

    def writing(self) -> bool:
        """Whether a checkpoint is being written at this moment."""
        return any(self.folder.glob("checkpoints/*/.*.pt.*"))

    def state(self) -> Path | None:
        """The folder of the one training that runs here."""
        return next(self.folder.glob("checkpoints/*/"), None)

    def results(self) -> Results | None:
        """What the training has left in its folder; None without weights."""
        state = self.state()
        if state is None or not (state / "best.pt").exists():
            return None
        weights = hashlib.sha256((state / "best.pt").read_bytes()).hexdigest()
        with (state / "log.csv").open(encoding="utf-8", newline="") as file:
            rows = tuple(str([v for k, v in row.items() if k not in TIMED]) for row in csv.DictReader(file))
        return Results(weights, rows)

    def steps_logged(self) -> Counter[int]:
        """How often each optimizer step stands in the MLflow store."""
        return Counter(step for (step,) in self.query("SELECT step FROM metrics WHERE key = 'step/loss'"))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the place's MLflow store; none while there is no store."""
        database = self.folder / "mlruns" / "mlflow.db"
        if not database.exists():
            return []
        with closing(sqlite3.connect(database, timeout=30)) as store:
            return store.execute(sql).fetchall()

    def clear(self) -> None:
        """Back to before the first training: no state, no runs, no outputs, nothing in DVC's run cache."""
        for process in self.processes():
            process.kill()
        psutil.wait_procs(self.processes(), timeout=10)
        for gone in ("checkpoints", "weights", ".dvc/cache/runs", ".dvc/tmp/exps", "drill.log"):
            path = self.folder / gone
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for kept in (self.folder / "mlruns").iterdir():
            if kept.name != ".gitkeep":
                shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        self.run("git", "checkout", "--quiet", "--force", "-B", "drill", "HEAD")
        self.run("git", "reset", "--quiet", "--hard", "drill")


_VERIFY = """
import json, pathlib
from stf.data.ffpp import fingerprint_of
path = pathlib.Path("metrics/data.json")
path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": fingerprint_of("data/sample")}))
"""


def _marked(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:  # it has gone, or is somebody else's
        return None


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None
