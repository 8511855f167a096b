"""Which code a training runs: a state on disk is resumed by the same code only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

_ROOT = Path(__file__).resolve().parents[2]


def code_digest(stage: str) -> str:
    """16 hex digits over the sources that dvc.yaml lists for the stage, which leaves tracking and console out.

    Without a dvc.yaml (an installed package) over all of stf and pipeline.
    """
    listed = _ROOT / "dvc.yaml"
    deps = ["stf", "pipeline"]
    if listed.exists():
        deps = yaml.safe_load(listed.read_text(encoding="utf-8"))["stages"][stage]["deps"]
    digest = hashlib.sha256()
    for dep in deps:
        path = _ROOT / dep
        for file in [path] if path.suffix == ".py" else sorted(path.rglob("*.py")):
            digest.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
