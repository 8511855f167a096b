"""Trivial baselines: how well untrained scalars separate real from fake.

In collections of clips the source often gives the label away; a network's AUC means little where one of these
reaches it too. T frames, H, W pixels, C = 3 RGB channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, Dataset

from stf.data.augment.codec import h264_bits
from stf.data.clips import read_clip, read_geometry, video_clip_starts
from stf.data.pairs import start_loader_worker
from stf.data.video import Video
from stf.errors import DataError
from stf.evaluation.intervals import Interval, auc_interval
from stf.evaluation.predict import Watch, unwatched
from stf.io.distributed import ALONE, World

BITRATE_QP = 23
SCALARS = {  # name → what it measures, on the video's middle clip
    "bits_per_pixel": f"H.264 bits per pixel when the stored frames are re-encoded at QP {BITRATE_QP}",
    "sharpness": "ln of the variance of the face box's Laplacian, mean over the frames",
    "face_px": "square root of the face box's area in pixels of the stored frame",
}


def clip_scalars(frames_THWC: np.ndarray, box_22: np.ndarray) -> dict[str, float]:
    """The value of every scalar for one clip; `box_22` is the face's [[x0, y0], [x1, y1]] in frame pixels.

    Raises DataError when the box lies outside the frames or no H.264 encoder works.
    """
    n_frames, height, width = frames_THWC.shape[:3]
    (x0, y0), (x1, y1) = np.clip(np.round(box_22), 0, (width, height)).astype(int)
    if x1 - x0 < 3 or y1 - y0 < 3:
        raise DataError(f"the face box {box_22.tolist()} lies outside the {width}x{height} frame")
    faces = (cv2.cvtColor(frame[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY) for frame in frames_THWC)
    variances = [cv2.Laplacian(face, cv2.CV_64F).var() for face in faces]
    side_x, side_y = box_22[1] - box_22[0]
    return {
        "bits_per_pixel": h264_bits(frames_THWC, BITRATE_QP) / (n_frames * height * width),
        "sharpness": float(np.mean(np.log(np.maximum(variances, 1e-6)))),
        "face_px": float(np.sqrt(side_x * side_y)),
    }


class _ScalarsOfVideos(Dataset[dict[str, Any]]):
    """Item: the scalars of one video's middle clip, or {'error': text}."""

    def __init__(self, videos: Sequence[Video], num_frames: int, allow_strided: bool) -> None:
        self.videos, self.num_frames, self.allow_strided = list(videos), num_frames, allow_strided

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        video = self.videos[index]
        starts = video_clip_starts(video, self.num_frames, 1, self.allow_strided)
        if not starts:
            return {"error": f"{video.name} has no {self.num_frames} consecutive frames with a face"}
        try:
            frames_THWC = read_clip(video.frame_paths[starts[0] : starts[0] + self.num_frames])
            return clip_scalars(frames_THWC, read_geometry(video, starts[0], self.num_frames).box_22)
        except DataError as error:
            return {"error": f"{video.name}: {error}"}


def video_scalars(
    videos: Sequence[Video],
    num_frames: int,
    *,
    allow_strided: bool = False,
    num_workers: int = 0,
    watch: Watch = unwatched,
    world: World = ALONE,
) -> pd.DataFrame:
    """One row per video, in the order given: SCALARS, NaN where unreadable, the reason as scalar_error.

    Every process of `world` measures its share, and gets the whole table.
    """
    mine = world.shard(videos)
    loader = DataLoader(
        _ScalarsOfVideos(mine, num_frames, allow_strided),
        batch_size=None,
        num_workers=num_workers,
        worker_init_fn=start_loader_worker,
        generator=torch.Generator(),
    )
    rows = []
    for item in watch(loader, "Measuring trivial baselines", len(mine)):
        values = {name: float(item.get(name, "nan")) for name in SCALARS}
        rows.append(values | {"scalar_error": item.get("error", "")})
    return pd.DataFrame(world.unshard(rows), columns=pd.Index([*SCALARS, "scalar_error"]))


@dataclass(frozen=True)
class ScalarAuc:
    """How well one scalar separates fake from real, larger = fake; below .5 it is smaller in fakes. None: n/a."""

    n_real: int
    n_fake: int
    auc: float | None
    interval: Interval | None


def scalar_auc(rows: pd.DataFrame, scalar: str, n_resamples: int, seed: int) -> ScalarAuc:
    """AUC of column `scalar` of a score table over the videos for which it could be measured."""
    measured = pd.DataFrame(rows.loc[rows[scalar].notna()])
    labels_N, values_N = measured["label"].to_numpy(int), measured[scalar].to_numpy(float)
    n_fake = int(labels_N.sum())
    n_real = len(labels_N) - n_fake
    if not n_fake or not n_real:
        return ScalarAuc(n_real, n_fake, None, None)
    interval = auc_interval(labels_N, values_N, measured["identity_pair"].to_numpy(str), n_resamples, seed)
    return ScalarAuc(n_real, n_fake, float(roc_auc_score(labels_N, values_N)), interval)
