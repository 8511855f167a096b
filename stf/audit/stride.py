"""Detects strided video: temporal wavelets need consecutive frames.

Frame numbers show the stride if preprocessing kept them. If it renumbered the frames 0…N−1, the motion of the face
and the change of its pixels between neighbours are compared with those of 25 fps video. Measured on 29 real clips of
25–30 fps: frames 1 apart move 0.3–5.1 % of the face's size (median 0.9 %), 8 apart 0.7–24 % (median 4.5 %), 12 apart
0.8–32 % (median 5.8 %). A calm speaker at stride 8 moves as much as a lively one at stride 1. So the limits for a
single video are high, and those for the median of a whole data set low (they detect stride 5 and above).

T frames, N = 81 landmarks, boxes (x0, y0, x1, y1) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.clips import read_clip, read_geometry
from stf.data.faces import Points, bounds
from stf.data.ffpp import Video

VIDEO_LIMITS = (6.0, 8.0)  # one video: percent of the face's size, grey levels inside the face, per frame
DATA_SET_LIMITS = (2.5, 4.0)  # the median over at least MIN_VIDEOS videos
MIN_VIDEOS = 5
N_IMAGE_PAIRS = 3
_SIDE_px = 48


@dataclass(frozen=True)
class Motion:
    """Median change between neighbouring frames: landmarks in percent of the face's size, pixels in grey levels."""

    landmarks_pct: float
    grey: float

    def exceeds(self, limits: tuple[float, float]) -> bool:
        """Tells whether both exceed their limits; a fast head or a flash alone exceeds only one, a gap both."""
        return self.landmarks_pct > limits[0] and self.grey > limits[1]


@dataclass(frozen=True)
class StrideReport:
    """`stride`: from the frame numbers; `suspected`: numbered consecutively, but moves like strided video."""

    stride: int
    suspected: bool
    motion: Motion | None


def stride_of_numbers(frame_numbers: Sequence[int]) -> int:
    """Returns the median gap between frame numbers: 1 for consecutive frames even if a few are missing."""
    return max(1, round(float(np.median(np.diff(frame_numbers))))) if len(frame_numbers) > 1 else 1


def _face_pixels(frame: NDArray[np.uint8], window: tuple[int, int, int, int]) -> NDArray[np.float32]:
    y0, y1, x0, x1 = window
    grey = cv2.cvtColor(frame[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_SIDE_px, _SIDE_px), interpolation=cv2.INTER_AREA).astype(np.float32)


def landmark_motion(landmarks_TN2: Points) -> float:
    """Returns the landmarks' RMS displacement, median over frames, in percent of the face's √(width·height)."""
    box_T4 = bounds(landmarks_TN2)
    size_T = np.sqrt((box_T4[:, 2] - box_T4[:, 0]) * (box_T4[:, 3] - box_T4[:, 1])) + 1e-9
    step_px = np.sqrt((np.diff(landmarks_TN2, axis=0) ** 2).sum(-1).mean(-1))
    return float(np.median(step_px / size_T[:-1]) * 100)


def grey_motion(frames: NDArray[np.uint8], face_4: NDArray[np.float64]) -> float:
    """Returns the mean change in grey levels between two frames (2, H, W, 3) inside the first one's face."""
    height, width = frames.shape[1:3]
    x0, y0 = np.clip(face_4[:2], 0, (width - 2, height - 2)).astype(int)
    x1, y1 = np.clip(np.ceil(face_4[2:]), (x0 + 2, y0 + 2), (width, height)).astype(int)
    first, second = (_face_pixels(frame, (y0, y1, x0, x1)) for frame in frames)
    return float(np.abs(second - first).mean())


def image_pairs(n_frames: int) -> list[int]:
    """Returns the indices i of the frame pairs (i, i + 1) whose pixels are compared."""
    return sorted({int(i) for i in np.linspace(0, n_frames - 2, N_IMAGE_PAIRS)}) if n_frames > 1 else []


def measure_motion(video: Video, track_TN2: Points) -> Motion:
    """Measures the motion in the video's first T >= 2 frames, with the face at `track_TN2`; decodes a few frames.

    Raises DataError when one of them is unreadable.
    """
    box_T4 = bounds(track_TN2)
    pairs = image_pairs(len(track_TN2))
    changes = [grey_motion(read_clip(video.frame_paths[i : i + 2]), box_T4[i]) for i in pairs]
    return Motion(landmark_motion(track_TN2), float(np.median(changes)))


def check_stride(video: Video) -> StrideReport:
    """Checks a video from all its landmarks and a few frames; raises DataError when one of them is unreadable."""
    stride = stride_of_numbers(video.frame_numbers)
    n = len(video.frame_paths)
    if stride != 1 or n < 2:
        return StrideReport(stride, False, None)
    motion = measure_motion(video, read_geometry(video, 0, n).landmarks_TN2)
    return StrideReport(1, motion.exceeds(VIDEO_LIMITS), motion)


def data_set_looks_strided(motions: Sequence[Motion]) -> bool:
    """Tells whether most videos move like strided video: the medians exceed the limits for a data set."""
    if len(motions) < MIN_VIDEOS:
        return False
    medians = np.median([(motion.landmarks_pct, motion.grey) for motion in motions], axis=0)
    return Motion(*medians.tolist()).exceeds(DATA_SET_LIMITS)
