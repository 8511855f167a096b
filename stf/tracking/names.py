"""The names of a training run's metrics in MLflow: the one table, so that runs stay comparable from version to version.

                     epochs (x axis: epoch)             optimizer steps (x axis: global step)
loss                 loss/train loss/val loss/ce …      step/loss step/ce step/hll
HLL energies         hll/e_real hll/margin …            step/e_real step/margin …
times in seconds     time_s/epoch time_s/data …         step/data_s step/step_s
validation           val/auc val/best_auc …
whole run            cost_usd model/parameters model/gmacs_per_clip transfer/… failures/<cause>

Evaluations log <measure>/<method> (auc/Deepfakes, auc/overall, n_real/overall, …), and <measure>_<quality>/<method> for
another quality than the headline's (auc_raw/Deepfakes): stf/evaluation/outputs.py, tracked_metrics.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

OVERALL_AUC = "auc/overall"
EPOCH = {  # field of EpochRecord or EpochDetails → metric
    "train_loss": "loss/train",
    "val_loss": "loss/val",
    "ce_loss": "loss/ce",
    "hll_loss": "loss/hll",
    "e_real": "hll/e_real",
    "e_fake": "hll/e_fake",
    "margin": "hll/margin",
    "active_share": "hll/active_share",
    "epoch_time": "time_s/epoch",
    "data_s": "time_s/data",
    "step_s": "time_s/step",
    "validation_s": "time_s/validation",
    "train_acc": "train/acc",
    "val_acc": "val/acc",
    "val_auc": "val/auc",
    "val_f1": "val/f1",
    "best_auc": "val/best_auc",
}  # the others under their own names: lr, clips_per_s, gpu_mem_gb, cost_usd, complete
_PLACE = ("epoch", "step", "global_step")  # is the x axis
_REFUSED = re.compile(r"[^\w\-./ ]", re.ASCII)  # by MLflow, in a metric's name


def epoch_metrics(record: Any, details: Any) -> dict[str, float]:
    """The numbers of one epoch (EpochRecord, EpochDetails); failures/<cause> counts failed draws."""
    figures = {EPOCH.get(name, name): value for name, value in (_numbers(record) | _numbers(details)).items()}
    causes = {f"failures/{_REFUSED.sub('_', cause)}": float(n) for cause, n in details.failures.items()}
    return figures | causes


def step_metrics(record: Any) -> dict[str, float]:
    """The numbers of one optimizer step (StepRecord)."""
    return {f"step/{name}": value for name, value in _numbers(record).items()}


def _numbers(record: Any) -> dict[str, float]:
    """The numeric fields that have a value; a loss without a margin reports NaN for it."""
    values = {name: value for name, value in dataclasses.asdict(record).items() if name not in _PLACE}
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if not math.isnan(value)}
