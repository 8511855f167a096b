"""The gate of phase B: the verdict of phase A's evaluation that train_phase_b may read (SPEC section 7)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from stf.io.outputs import write_text

TEST_DATA_USE = {
    "a": (
        "The decision threshold comes from self-blended validation clips alone. The gate of phase B is the one "
        "declared use of test data: phase B starts only when the overall AUC on the test videos is above "
        "phase_b.min_phase_a_auc."
    ),
    "b": (
        "The decision threshold comes from self-blended validation clips alone. The gate was the one declared use of "
        "test data: phase B was trained because phase A's overall AUC on the test videos was above "
        "phase_b.min_phase_a_auc. Nothing in phase B was chosen by test videos."
    ),
}


@dataclass(frozen=True)
class Gate:
    """Whether phase B may start, and the overall AUC that phase A had to exceed."""

    passed: bool
    threshold: float

    def write(self, path: Path) -> None:
        """Writes verdict and threshold alone: a further figure would retrain phase B for nothing."""
        write_text(path, json.dumps(asdict(self)) + "\n")


def judge(overall_auc: float, threshold: float) -> Gate:
    """Passed when `overall_auc` (0 to 1) is above `threshold`, not equal to it."""
    return Gate(passed=overall_auc > threshold, threshold=threshold)
