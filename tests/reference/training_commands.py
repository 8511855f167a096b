"""How the tests of the training commands run them: tiny parameters, and what is read back."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import torch
import yaml
from click.testing import CliRunner, Result

MODEL = {
    "stage1_dim": 8,
    "stage2_dim": 16,
    "stage3_dim": 16,
    "stage4_dim": 16,
    "stage3_blocks": 1,
    "num_heads": 2,
}
MODEL |= {"stem_dim": 8, "dwt_channels": 8, "dwt_hidden_dim": 8, "d_state": 4, "stage1_blocks": 1}
MODEL |= {"stage2_blocks": 1, "stage4_blocks": 1}
PARAMS: dict[str, Any] = {
    "data": {"root": "data", "num_frames": 8, "img_size": 32, "val_pairs_per_video": 2},
    "model": MODEL,
    "training": {"batch_size": 4, "grad_accum": 1, "backbone_lr_scale": 1.0},
    "phase_a": {"epochs": 2, "warmup_epochs": 1},
    "phase_b": {"epochs": 2, "warmup_epochs": 1},
    "runtime": {"device": "cpu", "threads": 1, "num_workers": 0, "log_every_steps": 1, "billing": False},
}


def run_training(command: click.Command, *options: str, **sections: dict[str, Any]) -> Result:
    """Runs a training command in the working folder, with PARAMS and the changes in `sections`."""
    params = {name: values | sections.get(name, {}) for name, values in PARAMS.items()}
    params |= {name: values for name, values in sections.items() if name not in PARAMS}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    threads = torch.get_num_threads()
    try:
        return CliRunner().invoke(command, options)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def query(root: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the MLflow store below `root`."""
    with closing(sqlite3.connect(root / "mlruns/mlflow.db")) as store:
        return store.execute(sql).fetchall()
