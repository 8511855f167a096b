"""What identifies a run: a state on disk is resumed only with the same configuration, data and code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from stf.config import Params, PhaseName

_ROOT = Path(__file__).resolve().parents[2]
# The phase's own section is added; budget and runtime do not change a step.
_SECTIONS = ("seed", "data", "sbi", "model", "training")


@dataclass(frozen=True)
class Origin:
    """What must be equal for a run to resume another one."""

    config_hash: str
    fingerprint: str  # of the data
    code: str  # `code_digest`
    starting_weights: str = ""  # sha256 of the file that --resume took weights from


def config_hash(params: Params, phase: PhaseName, starting_weights: str | None = None) -> str:
    """16 hex digits over everything that changes the phase's training; phase A's hash is a budget's plan id.

    `starting_weights` is the sha256 of the checkpoint that phase B starts from: from other weights it is another run.
    """
    values = dataclasses.asdict(params)
    seen = {name: values[name] for name in (*_SECTIONS, f"phase_{phase}")}
    seen["data"].pop("max_failure_share")  # whether training continues, not how
    seen[f"phase_{phase}"].pop("min_phase_a_auc", None)  # whether phase B starts
    if starting_weights is not None:
        seen["starting_weights"] = starting_weights
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


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
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path] * (path.suffix == ".py"):
            digest.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
