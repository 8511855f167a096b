"""Where the drill trains: a clone of this repository with a small sample, copied for every chain."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stf.data.ffpp import SAMPLE_ROOT, FFPPTree
from stf.sample.build import SampleSpec, generate_sample

ROOT = Path(__file__).resolve().parents[2]
MARK = "STF_DRILL"  # environment variable of every process that a chain starts
BRANCH = "drill"
SEED = 1  # set by the experiments; the committed params.yaml has 0
EPOCHS = 6
_SPEC = SampleSpec(train=8, val=2, test=2, n_frames=14, height=96, width=112)
STEPS_PER_EPOCH = 4  # 8 videos × 4 pairs × 2 clips in batches of 8, two of which make a step
# Everything that a checkpoint must restore is on: dropout, moving average, gradient accumulation, a loader worker.
_CHANGES: dict[str, dict[str, Any]] = {
    "data": {"num_frames": 8, "img_size": 48, "train_pairs_per_video": 4, "val_pairs_per_video": 2},
    "model": {"dropout": 0.1, "drop_path": 0.1},
    "training": {"batch_size": 8, "grad_accum": 2, "ema_decay": 0.9},
    "runtime": {"device": "cpu", "threads": 1, "num_workers": 1, "checkpoint_minutes": 0.02},
}
_TIMES = {"epoch_time", "cost_usd", "timestamp", "gpu_mem_gb"}
Row = tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """The result of a training: sha256 of the weights, the summary, the CSV log without times.

    Two uninterrupted trainings on one machine have equal outcomes.
    """

    weights: str
    summary: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Clone:
    """A repository to train in, and the environment of its commands."""

    path: Path
    name: str

    def env(self) -> dict[str, str]:
        """This Python's commands first on PATH, a git identity, nothing shared with other repositories."""
        ours = ("DVC_", "MLFLOW_", "GIT_", "PYTHONPATH")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        roles = [f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
        here = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(self.path.with_name(self.path.name + "-site-cache")),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            MARK: str(self.path),
        }
        return kept | dict.fromkeys(roles, "drill@localhost") | here

    def run(self, *command: str) -> str:
        """Runs a short command here and returns its output; raises CalledProcessError."""
        done = subprocess.run(
            command, cwd=self.path, env=self.env(), check=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.stdout

    def outcome(self) -> Outcome:
        """Reads weights/ and metrics/; raises FileNotFoundError."""
        digest = hashlib.sha256((self.path / "weights/phase_a.safetensors").read_bytes()).hexdigest()
        return Outcome(digest, (self.path / "metrics/phase_a.json").read_text(), self.rows())

    def rows(self) -> tuple[Row, ...]:
        """The CSV log of the run in progress without its columns of times; () if there is none."""
        log = next(self.path.glob("checkpoints/*/log.csv"), None)
        if log is None:
            return ()
        with log.open(newline="") as file:
            return tuple(
                tuple(value for name, value in row.items() if name not in _TIMES)
                for row in csv.DictReader(file)
            )

    def trained_steps(self) -> int:
        """The optimizer steps that the run in progress has trained, by its record for MLflow; 0 without a run."""
        steps = [0]
        for record in self.path.glob("checkpoints/*/mlflow/run.jsonl"):
            lines = record.read_text().split("\n")[:-1]  # without one that a kill cut off
            entries = [json.loads(line) for line in lines]
            steps += [entry.get("step", 0) for entry in entries if "step/loss" in entry.get("metrics", {})]
        return max(steps)

    def tracked(self) -> tuple[int, int]:
        """(MLflow runs of phase A, their metric points that were recorded more than once)."""
        store = self.path / "mlruns/mlflow.db"
        if not store.exists():
            return 0, 0
        of_phase_a = "SELECT run_uuid FROM tags WHERE key = 'stage' AND value = 'train_phase_a'"
        per_step = "key LIKE 'step/%' OR key IN ('val/auc', 'lr')"
        points = f"SELECT 1 FROM metrics WHERE ({per_step}) AND run_uuid IN ({of_phase_a})"
        doubled = f"SELECT COUNT(*) FROM ({points} GROUP BY run_uuid, key, step HAVING COUNT(*) > 1)"
        with closing(sqlite3.connect(store, timeout=30)) as db:
            (runs,) = db.execute(f"SELECT COUNT(DISTINCT run_uuid) FROM ({of_phase_a})").fetchone()
            return int(runs), int(db.execute(doubled).fetchone()[0])


def make_template(folder: Path, epochs: int = EPOCHS) -> Clone:
    """A clone of HEAD with a small sample, its parameters and an empty MLflow store, all committed."""
    folder.mkdir(parents=True, exist_ok=True)
    clone = Clone(folder / "template", "template")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone.path)], check=True)
    clone.run("git", "checkout", "--quiet", "-b", BRANCH)
    params = yaml.safe_load((clone.path / "params.yaml").read_text())
    for section, values in _CHANGES.items():
        params[section] |= values
    params["phase_a"]["epochs"] = epochs
    (clone.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    generate_sample(clone.path / SAMPLE_ROOT, spec=_SPEC)
    fingerprint = FFPPTree(clone.path / SAMPLE_ROOT).fingerprint("contents")
    (clone.path / "metrics").mkdir(exist_ok=True)
    (clone.path / "metrics/data.json").write_text(json.dumps({"fingerprint": fingerprint}))
    for name in ("data_details", "leak_audit", "leak_audit_details"):
        (clone.path / f"metrics/{name}.json").write_text("{}")
    _forget_stages(clone.path / "dvc.lock")
    clone.run("dvc", "commit", "-q", "-f", "verify_data")  # its audit takes a minute and is of no use here
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-q", "--no-verify", "-m", "drill")
    clone.run("python", "-c", "from stf.tracking.store import open_store; open_store()")
    return clone


def _forget_stages(lock: Path) -> None:
    """Removes all stages from dvc.lock: their outputs are in no cache here, and `dvc exp apply` needs them all."""
    lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": {}}))


def new_clone(template: Clone, path: Path) -> Clone:
    """A copy of `template`, in which nothing was trained yet."""
    shutil.copytree(template.path, path, symlinks=True)
    return Clone(path, path.name)


def set_seed(clone: Clone) -> None:
    """Edits params.yaml, as a user without experiments would."""
    file = clone.path / "params.yaml"
    params = yaml.safe_load(file.read_text())
    params["seed"] = SEED
    file.write_text(yaml.safe_dump(params, sort_keys=False))
