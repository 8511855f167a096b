"""A simulated landmark detector with errors below a pixel. T frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def detect(landmarks_T: NDArray[np.floating[Any]], rng: np.random.Generator) -> NDArray[np.floating[Any]]:
    """Adds detection errors to (T, 81, 2) landmarks: below a pixel, correlated over time."""
    error = np.zeros_like(landmarks_T)
    drawn = rng.normal(size=landmarks_T.shape) * 0.28 + rng.normal(size=(len(landmarks_T), 1, 2)) * 0.12
    error[0] = drawn[0]
    for t in range(1, len(error)):
        error[t] = 0.6 * error[t - 1] + 0.8 * drawn[t]
    return landmarks_T + np.clip(error, -0.9, 0.9)
