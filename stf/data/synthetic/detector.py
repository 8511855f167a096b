"""What a face detector would say about a frame: landmarks within a pixel, and a RetinaFace-like box. T frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def detect(landmarks_T: NDArray[np.floating[Any]], rng: np.random.Generator) -> NDArray[np.floating[Any]]:
    """(T, 81, 2) landmarks as a detector would give them: within a pixel, with errors that fade over frames."""
    error = np.zeros_like(landmarks_T)
    drawn = rng.normal(size=landmarks_T.shape) * 0.28 + rng.normal(size=(len(landmarks_T), 1, 2)) * 0.12
    error[0] = drawn[0]
    for t in range(1, len(error)):
        error[t] = 0.6 * error[t - 1] + 0.8 * drawn[t]
    return landmarks_T + np.clip(error, -0.9, 0.9)


def face_box(landmarks_81: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """(7, 2) as a RetinaFace file holds: [x0 y0], [x1 y1], eyes, nose tip, corners of the mouth."""
    jaw, brows, forehead = landmarks_81[:17], landmarks_81[17:27], landmarks_81[68:]
    x0, x1, y1 = jaw[:, 0].min(), jaw[:, 0].max(), jaw[:, 1].max()
    y0 = 0.45 * brows[:, 1].min() + 0.55 * forehead[:, 1].min()
    eyes = [landmarks_81[36:42].mean(0), landmarks_81[42:48].mean(0)]
    return np.array([[x0, y0], [x1, y1], *eyes, landmarks_81[30], landmarks_81[48], landmarks_81[54]])
