"""Rates that only pipeline.forecast asks for: several processes, H.264 alone, evaluation's clips, the cache's frames.

Apart from measure.py, so that an edit of evaluation's clips trains nothing again. T frames, S = img_size.
"""

from __future__ import annotations

import time

import numpy as np

from stf.config import STFV8Config
from stf.data.augment.codec import h264_round_trip
from stf.data.clips import read_frame, spread_evenly
from stf.data.ffpp import Video
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.evaluation.clips import EvaluationClips
from stf.io.workers import parallel_map

READS = 3


def pairs_per_second(
    dataset: VideoSBIDataset, n_processes: int, limit_s: float, only_video: int | None = None
) -> float:
    """Pairs that so many processes make at once per second of the clock, after one of each that is not counted."""
    processes = range(n_processes)
    rates = parallel_map(_pair_rate, processes, n_processes, dataset, limit_s, only_video, chunksize=1)
    return sum(rates)


def _pair_rate(dataset: VideoSBIDataset, limit_s: float, only_video: int | None, process: int) -> float:
    pairs = [only_video * dataset.pairs_per_video] if only_video is not None else range(dataset.n_pairs)
    started, n = 0.0, 0
    while n < 2 or time.perf_counter() - started < limit_s:
        if n == 1:
            started = time.perf_counter()
        pair = pairs[(process + n) % len(pairs)]
        dataset[(1000 * process + n, 2 * pair)]
        n += 1
    return (n - 1) / (time.perf_counter() - started)


def h264_seconds(dataset: VideoSBIDataset) -> float:
    """CPU seconds for the H.264 round trips of a pair's two clips at QP 32; raises DataError without an encoder."""
    clip_CTSS = dataset[(0, 0)]["video"]
    frames_TSSC = np.ascontiguousarray(clip_CTSS.permute(1, 2, 3, 0).numpy())
    h264_round_trip(frames_TSSC, 32, "rgb24")  # opens the encoder
    started = time.process_time()
    for _ in range(2):
        h264_round_trip(frames_TSSC, 32, "rgb24")
    return time.process_time() - started


def seconds_per_read(videos: list[Video], config: STFV8Config, *, allow_strided: bool) -> float:
    """CPU seconds of one core for a clip of evaluation: decoded from PNG, cropped, resized."""
    clips = EvaluationClips(videos[:READS], config, 1, allow_strided=allow_strided)
    started = time.process_time()
    for index in range(len(clips)):
        clips[index]
    return (time.process_time() - started) / len(clips)


def seconds_per_frame(video: Video) -> float:
    """CPU seconds of one core to decode one PNG frame: what filling the face cache takes."""
    paths = [video.frame_paths[i] for i in spread_evenly(range(len(video.frame_paths)), 8)]
    started = time.process_time()
    for path in paths:
        read_frame(path)
    return (time.process_time() - started) / len(paths)
