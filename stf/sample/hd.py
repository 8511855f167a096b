"""Synthetic 1280×720 videos in the FF++ layout, to measure timings representative of FF++.

A textured person-sized patch moves before a textured background, with a camera's noise, through H.264 at CRF 23 (as
FF++'s c23), so that a PNG frame is about as large and as slow to decode as FF++'s. Timing needs no face in the picture.
T frames, H, W pixels, RGB.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.faces import face_box, stored_order
from stf.data.ffpp import KINDS, frame_name, split_file, video_folder
from stf.sample.camera import h264
from stf.sample.canonical import neutral_landmarks
from stf.sample.identity import draw_identity

# Width of the landmarks: the median of the real clips that the project was tested on.
FACE_PX = 200.0
SPLITS = {"train": 2, "val": 2, "test": 2}  # identities
C23 = 23


def texture(rng: np.random.Generator, height: int, width: int, grain_px: float) -> NDArray[np.float32]:
    """Draws (H, W, 3) smooth colour noise of standard deviation 1."""
    noise = rng.normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = np.asarray(cv2.GaussianBlur(noise, (0, 0), grain_px), np.float32)
    return smooth / smooth.std()


def record(
    rng: np.random.Generator, n_frames: int, height: int, width: int, face_px: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Generates (T, H, W, 3) frames and (T, 81, 2) landmarks of one video."""
    shape = neutral_landmarks(draw_identity(rng).shape)
    shape = (shape - shape.mean(0)) * face_px / np.ptp(shape[:68, 0])
    scene = 118 + 26 * texture(rng, height, width, 24) + 5 * texture(rng, height, width, 2)
    size = int(1.6 * face_px)
    person = 150 + 22 * texture(rng, size, size, 16) + 6 * texture(rng, size, size, 1.5)
    yy, xx = np.mgrid[:size, :size] * (2 / size) - 1
    alpha = np.clip(8 * (1 - xx**2 - yy**2), 0, 1)[..., None].astype(np.float32)
    walk = np.array([width / 2, height / 2]) + np.cumsum(rng.normal(0, 1.2, (n_frames, 2)), 0)
    frames = np.empty((n_frames, height, width, 3), np.uint8)
    for t, (x, y) in enumerate(walk):
        picture = scene.copy()
        x0, y0 = int(x) - size // 2, int(y) - size // 2
        patch = picture[y0 : y0 + size, x0 : x0 + size]
        patch += alpha * (person - patch)
        picture += rng.normal(0, 2.5, picture.shape).astype(np.float32)
        frames[t] = np.clip(picture, 0, 255)
    return h264(frames, C23), shape[None] + walk[:, None]


def write_video(
    root: Path, quality: str, video_id: str, frames_THWC: NDArray[np.uint8], landmarks: NDArray[np.float64]
) -> None:
    """Writes frames, landmarks and boxes of one real video."""
    folders = {kind: video_folder(root, None, quality, kind, video_id) for kind in KINDS}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for t, frame in enumerate(frames_THWC):
        paths = {kind: folders[kind] / frame_name(t, kind) for kind in KINDS}
        cv2.imwrite(str(paths["frames"]), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        np.save(paths["landmarks"], np.round(stored_order(landmarks[t])).astype(np.int64)[None])
        np.save(paths["retina"], face_box(landmarks[t])[None])


def write_tree(
    out: Path,
    *,
    frames: int,
    height: int = 720,
    width: int = 1280,
    face: float = FACE_PX,
    quality: str = "c23",
    recorded: Sequence[str] = tuple(SPLITS),
) -> None:
    """Writes an FF++ tree of real videos, two in each of the `recorded` splits, under `out`, which must not exist."""
    out.mkdir(parents=True)
    number = 0
    for split, n_ids in SPLITS.items():
        ids = [f"{number + i:03d}" for i in range(n_ids)]
        number += n_ids
        for video_id in ids if split in recorded else ():
            rng = np.random.default_rng(int(video_id))
            write_video(out, quality, video_id, *record(rng, frames, height, width, face))
        split_file(out, split).write_text(json.dumps([ids]), encoding="utf-8")
