"""What a finished phase leaves in metrics/: figures that are the same on every run of the same commit and machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stf.config import Params, PhaseName, STFV8Config
from stf.data.ffpp import is_sample
from stf.models.checkpoint_file import write_atomically
from stf.training.progress import Best, Progress

_AT_BEST = ("val_auc", "val_acc", "val_f1", "val_loss", "train_acc", "train_loss", "ce_loss", "hll_loss")
_DIGITS = 6


def phase_summary(
    progress: Progress, kept: Best, params: Params, config: STFV8Config, phase: PhaseName
) -> dict[str, Any]:
    """The kept epoch's figures and how far training went; no time and no cost, which differ from run to run."""
    best = next(record for record in progress.history if record.epoch == kept.epoch)
    planned = params.phase_a.epochs if phase == "a" else params.phase_b.epochs
    return {
        "phase": phase,
        "variant": config.variant(),
        "validation": "self-blended clips of the val split, not deepfakes",
        "data": "built-in synthetic sample" if is_sample(params.data.root) else params.data.root,
        "best_epoch": best.epoch,
        **{name: round(getattr(best, name), _DIGITS) for name in _AT_BEST},
        "epochs": len(progress.history),
        "planned_epochs": planned,
        "optimizer_steps": progress.global_step,
        "batch_size": config.batch_size,
        "stopped_by_budget": progress.stopped_by_budget,
    }


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """`values` as JSON, in one step."""
    write_atomically(Path(path), (json.dumps(values, indent=2) + "\n").encode())
