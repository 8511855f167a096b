"""Reads consecutive frames of a video as a uint8 clip, and tracks the largest face through it.

T frames, H and W pixels, N = 81 landmarks. Frames are RGB, uint8, C-contiguous; points are (x, y) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stf.data.faces import (
    IoUfrom2bboxes,
    Points,
    bounds,
    largest_face,
    match_box,
    read_boxes,
    read_landmarks,
    reorder_landmark,
)
from stf.data.ffpp import Video
from stf.data.png import decode, read_bytes
from stf.errors import DataError


@dataclass(frozen=True)
class FaceTrack:
    """The face that is largest in a clip's first frame, tracked through the clip; pixels of the stored frames."""

    landmarks_TN2: Points  # (T, 81, 2), SBI order
    box_22: Points  # its box in the FIRST frame, which defines the final crop of the whole clip


def read_frame(path: str | Path) -> NDArray[np.uint8]:
    """Reads a frame, (H, W, 3) RGB; raises DataError for a file that is no PNG, truncated, too large or 16-bit."""
    return decode(path, read_bytes(path))


def read_clip(paths: Sequence[str | Path]) -> NDArray[np.uint8]:
    """Reads frames, (T, H, W, 3) RGB; raises DataError when one is unreadable or differs in size from the first."""
    if not paths:
        raise DataError("cannot read a clip of 0 frames: the video is empty")
    first = read_frame(paths[0])
    clip_THWC = np.empty((len(paths), *first.shape), np.uint8)
    clip_THWC[0] = first
    for t, path in enumerate(paths[1:], start=1):
        frame = read_frame(path)
        if frame.shape != first.shape:
            size, expected = (f"{width}x{height}" for height, width in (frame.shape[:2], first.shape[:2]))
            raise DataError(
                f"{path} is {size}, but the clip's first frame is {expected}; extract the video again at one size"
            )
        clip_THWC[t] = frame
    return clip_THWC


def spread_evenly(choices: Sequence[int], n: int) -> list[int]:
    """Picks at most `n` different choices, evenly spaced from first to last; the middle one for n = 1."""
    if not choices or n < 1:
        return []
    positions = [(len(choices) - 1) / 2] if n == 1 else np.linspace(0, len(choices) - 1, n)
    return [choices[i] for i in sorted({int(np.floor(position + 0.5)) for position in positions})]


def clip_starts(n_frames_video: int, num_frames: int, n_clips: int) -> list[int]:
    """Returns the start indices of at most `n_clips` clips, evenly spaced over a video without gaps.

    Empty when the video is too short.
    """
    return spread_evenly(range(max(0, n_frames_video - num_frames + 1)), n_clips)


def possible_starts(video: Video, num_frames: int, allow_strided: bool = False) -> list[int]:
    """Returns the indices at which `num_frames` consecutive frames with a face start.

    Consecutive means frame numbers that rise by one (with `allow_strided`, neighbours in the list). The
    first frame needs landmarks and a box, the others landmarks. A missing frame or a frame without a face
    excludes the clips that contain it.
    """
    numbers = np.asarray(video.frame_numbers)
    consecutive = np.ones(max(0, len(numbers) - 1), bool) if allow_strided else np.diff(numbers) == 1
    has_face = np.array([path is not None for path in video.landmark_paths], bool)
    starts, run = [], 0  # run: the number of consecutive frames with a face from i on
    for i in range(len(numbers) - 1, -1, -1):
        has_next = i + 1 < len(numbers) and bool(consecutive[i])
        run = (run if has_next else 0) + 1 if has_face[i] else 0
        if run >= num_frames and video.box_paths[i] is not None:
            starts.append(i)
    return starts[::-1]


def video_clip_starts(video: Video, num_frames: int, n_clips: int, allow_strided: bool = False) -> list[int]:
    """Picks at most `n_clips` of the video's possible starts, evenly spaced; empty when it contains no clip."""
    return spread_evenly(possible_starts(video, num_frames, allow_strided), n_clips)


def read_geometry(video: Video, start: int, num_frames: int) -> FaceTrack:
    """Tracks the largest face of frame `start` through `num_frames` frames by the IoU of its landmarks' bounds.

    Raises DataError with the file's name when a frame has no landmarks, the first has no box, or the face is
    lost (no face in the next frame overlaps it).
    """
    first_FN2 = _landmarks_of(video, start)
    face = first_FN2[largest_face(first_FN2)]
    box_path = video.box_paths[start]
    if box_path is None:
        raise DataError(f"{video.frame_paths[start]} has no box in retina/; preprocess {video.name} again")
    boxes_F22 = read_boxes(box_path)
    try:
        box_22 = match_box(face, boxes_F22)
    except DataError as error:
        raise DataError(f"{box_path}: {error}") from None
    track = [face]
    for t in range(start + 1, start + num_frames):
        track.append(_next_face(track[-1], video, t))
    return FaceTrack(reorder_landmark(np.stack(track)), box_22)


def _landmarks_of(video: Video, index: int) -> Points:
    path = video.landmark_paths[index]
    if path is None:
        raise DataError(f"{video.frame_paths[index]} has no landmarks; preprocess {video.name} again")
    return read_landmarks(path)


def _next_face(face_N2: Points, video: Video, index: int) -> Points:
    landmarks_FN2 = _landmarks_of(video, index)
    best = match_face(face_N2, landmarks_FN2)
    if best is None:
        raise DataError(f"{video.landmark_paths[index]}: no face overlaps the face of the frame before")
    return landmarks_FN2[best]


def match_face(face_N2: Points, landmarks_FN2: Points) -> int | None:
    """Returns the index of the face whose bounds overlap those of `face_N2` most by IoU; None without overlap."""
    face_4 = bounds(face_N2)
    overlaps = [IoUfrom2bboxes(face_4, other_4) for other_4 in bounds(landmarks_FN2)]
    best = int(np.argmax(overlaps))
    return best if overlaps[best] > 0 else None
