"""The audit's probes on the test videos, real against fake: baselines without a verdict.

Where a probe separates the classes, so can a detector that never looks at a face; compare a model's AUC with these.
T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from stf.audit.probes import MIN_BACKGROUND, PROBES, background_of, measure
from stf.config import DataParams
from stf.data.blend import hull_mask
from stf.data.clips import possible_starts, read_clip, read_geometry, spread_evenly
from stf.data.faces import bounds
from stf.data.ffpp import FFPPTree, Video
from stf.io.workers import parallel_map

MAX_TARGETS = 40
MEASURES = (*PROBES, "face size")
REAL = "real"


@dataclass(frozen=True)
class MeasuredVideo:
    """One clip of one test video; `values` in the order of MEASURES."""

    target_id: str
    method: str  # REAL or a manipulation
    values: tuple[float, ...]


@dataclass(frozen=True)
class Baseline:
    """How well one untrained measure separates the test videos; an AUC above .5 means that fakes are larger."""

    measure: str
    auc: float | None  # None when a class is missing
    auc_by_method: dict[str, float]
    win_rate: (
        float | None
    )  # share of fakes larger than their own target, ties count ½; None without such pairs
    n_real: int
    n_fake: int


def _common_start_number(videos: Sequence[Video], data: DataParams) -> int | None:
    """Returns the first frame number at which every video has a clip; None without one."""
    starts = [possible_starts(video, data.num_frames, data.allow_strided) for video in videos]
    numbers = [{v.frame_numbers[i] for i in indices} for v, indices in zip(videos, starts, strict=True)]
    return min(set.intersection(*numbers), default=None)


def measure_target(data: DataParams, videos: tuple[Video, ...]) -> list[MeasuredVideo]:
    """Measures the videos of one target on the same frames, with one grey region: all their faces and 32 px around.

    Empty when they have no clip in common, differ in size, or the faces leave too little background.
    """
    number = _common_start_number(videos, data)
    if number is None:
        return []
    starts = [video.frame_numbers.index(number) for video in videos]
    clips = [read_clip(v.frame_paths[i : i + data.num_frames]) for v, i in zip(videos, starts, strict=True)]
    if len({clip.shape for clip in clips}) > 1:
        return []
    height, width = clips[0].shape[1:3]
    tracks = [read_geometry(v, i, data.num_frames).landmarks_TN2 for v, i in zip(videos, starts, strict=True)]
    region_HW = np.zeros((height, width), np.bool_)
    for points_N2 in np.concatenate(tracks):
        region_HW |= hull_mask(points_N2, height, width, False) > 0
    outside_HW = background_of(region_HW)
    if outside_HW.mean() < MIN_BACKGROUND:
        return []
    measured = []
    for video, clip, track in zip(videos, clips, tracks, strict=True):
        x0, y0, x1, y1 = bounds(track[0])
        values = (*measure(clip, outside_HW), float(np.sqrt((x1 - x0) * (y1 - y0))))
        measured.append(MeasuredVideo(video.target_id, video.method or REAL, values))
    return measured


def measure_test_videos(tree: FFPPTree, data: DataParams, n_workers: int) -> list[MeasuredVideo]:
    """Measures the videos of at most 40 targets of the test split in `data.quality`, evenly spread."""
    videos = tree.real_videos("test", data.quality)
    for method in tree.methods(data.quality):
        videos += tree.fake_videos("test", method, data.quality)
    targets = sorted({video.target_id for video in videos})
    chosen = [targets[i] for i in spread_evenly(range(len(targets)), MAX_TARGETS)]
    groups = [tuple(v for v in videos if v.target_id == target) for target in chosen]
    return [video for group in parallel_map(measure_target, groups, n_workers, data) for video in group]


def compute_baselines(videos: Sequence[MeasuredVideo]) -> tuple[Baseline, ...]:
    """Computes each measure's AUC, overall and per method, and the win rate of fakes over their own targets."""
    real_RM = np.array([v.values for v in videos if v.method == REAL]).reshape(-1, len(MEASURES))
    fakes = [v for v in videos if v.method != REAL]
    fake_FM = np.array([v.values for v in fakes]).reshape(-1, len(MEASURES))
    methods = np.array([v.method for v in fakes])
    real_of = {v.target_id: v.values for v in videos if v.method == REAL}
    pairs = np.array([(real_of[v.target_id], v.values) for v in fakes if v.target_id in real_of])
    baselines = []
    for i, name in enumerate(MEASURES):
        by_method = {
            m: _auc(real_RM[:, i], fake_FM[methods == m, i]) for m in dict.fromkeys(methods.tolist())
        }
        rate = None
        if len(pairs):
            real_P, fake_P = pairs[:, 0, i], pairs[:, 1, i]
            rate = float(np.mean((fake_P > real_P) + 0.5 * (fake_P == real_P)))
        known = {method: auc for method, auc in by_method.items() if auc is not None}
        auc = _auc(real_RM[:, i], fake_FM[:, i])
        baselines.append(Baseline(name, auc, known, rate, len(real_RM), len(fake_FM)))
    return tuple(baselines)


def _auc(real: np.ndarray, fake: np.ndarray) -> float | None:
    if not len(real) or not len(fake):
        return None
    labels = np.repeat([0, 1], [len(real), len(fake)])
    return float(roc_auc_score(labels, np.concatenate([real, fake])))
