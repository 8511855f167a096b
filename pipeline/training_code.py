"""Which code a training runs: a state on disk is gone on from by the same code only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

_ROOT = Path(__file__).resolve().parents[1]


def code_digest(stage: str) -> str:
    """sha256 over the sources that dvc.yaml lists as the stage's: its import closure without tracking.

    Without a dvc.yaml (an installed package) over all of stf and pipeline.
    """
    listed = _ROOT / "dvc.yaml"
    if listed.exists():
        stages = yaml.safe_load(listed.read_text(encoding="utf-8"))["stages"]
        files = [_ROOT / dep for dep in stages[stage]["deps"] if dep.endswith(".py")]
    else:
        files = sorted(path for package in ("stf", "pipeline") for path in (_ROOT / package).rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
