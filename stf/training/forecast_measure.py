"""The rates behind a forecast, measured on this machine; no random state and no weight of a run is touched.

B clips, T frames, S = img_size.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from stf.config import STFV8Config, TrainingParams
from stf.data.clips import read_frame, spread_evenly
from stf.data.evaluation_clips import EvaluationClips
from stf.data.ffpp import Video
from stf.data.video_sbi_dataset import Provenance, VideoSBIDataset
from stf.model_size import multiply_adds
from stf.models.network import build_network
from stf.training.learner import Learner, build_learner
from stf.training.step import Batch, to_device, train_step

FEW_FRAMES = 8  # of a clip on which a quick estimate times a network that is too slow for a whole one here
READS = 3


@dataclass(frozen=True)
class StepRates:
    """Clips per second of one process; GB is the GPU's peak, None on a CPU."""

    trained: float
    scored: float
    peak_gb: float | None
    clips_timed: int


def seconds_per_pair(
    dataset: VideoSBIDataset, limit_s: float, max_pairs: int = 24, only_video: int | None = None
) -> tuple[float, int]:
    """(CPU seconds of one core per pair as a loader's worker makes it, pairs timed): the mean over at least one pair.

    Pairs are spread over the data, or are `only_video`'s in several epochs. The first, which also opens the encoder, is
    not counted where there is time for a second.
    """
    if only_video is None:
        places = [(0, pair) for pair in spread_evenly(range(dataset.n_pairs), max_pairs)]
    else:
        places = [(epoch, only_video * dataset.pairs_per_video) for epoch in range(max_pairs)]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a worker
    try:
        stop, times = time.perf_counter() + limit_s, []
        for epoch, pair in places:
            started = time.process_time()
            for member in (0, 1):
                dataset[(epoch, 2 * pair + member)]
            times.append(time.process_time() - started)
            if time.perf_counter() > stop:
                break
    finally:
        cv2.setNumThreads(threads)
    counted = times[1:] or times
    return sum(counted) / len(counted), len(counted)


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


def step_rates(config: STFV8Config, training: TrainingParams, device: str, limit_s: float) -> StepRates:
    """How fast `config`'s network trains and scores on random clips: a step at least, on one pair where it is slow."""
    cuda = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(0)
        model = build_network(config, device)
        calm = replace(
            config, lr=config.min_lr
        )  # a learning rate that diverges is not the forecast's to find
        learner = build_learner(model, calm, training, epochs=10, steps_per_epoch=10, device=device)
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        short = replace(config, num_frames=min(FEW_FRAMES, config.num_frames))
        _step_s(learner, random_batch(short, 2))  # imports and threads that only the first step waits for
        pair = random_batch(config, 2)
        first_s = _step_s(learner, pair)
        whole = config.batch_size > 2 and 3 * first_s * config.batch_size / 2 < limit_s
        batch = random_batch(config, config.batch_size) if whole else pair
        if whole or 2 * first_s < limit_s:
            _step_s(learner, batch)  # allocations, kernels' choice
            step_s = min(_step_s(learner, batch) for _ in range(_repeats(first_s, limit_s)))
        else:
            step_s = first_s
        score_s = _score_s(learner, batch)
        peak_gb = torch.cuda.max_memory_allocated(device) / 1e9 if cuda else None
    clips = len(batch["label"])
    return StepRates(clips / step_s, clips / score_s, peak_gb, clips)


def quick_step_rates(config: STFV8Config, training: TrainingParams, device: str, limit_s: float) -> StepRates:
    """`step_rates`; on a CPU from a few frames of a clip, scaled by multiply-adds."""
    if device != "cpu" or config.num_frames <= FEW_FRAMES:
        return step_rates(config, training, device, limit_s)
    short = replace(config, num_frames=FEW_FRAMES)
    rates = step_rates(short, training, device, limit_s)
    ratio = multiply_adds(short).total / multiply_adds(config).total
    return replace(rates, trained=rates.trained * ratio, scored=rates.scored * ratio)


def random_batch(config: STFV8Config, n_clips: int) -> Batch:
    """Noise in a batch's form; its values do not matter for time."""
    shape = (n_clips, config.in_channels, config.num_frames, config.img_size, config.img_size)
    video = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    made_up = Provenance("noise", 0, (0, 0, 0, 0), None)
    return {"video": video, "label": torch.arange(n_clips) % 2, "provenance": [made_up] * n_clips}


def _repeats(first_s: float, limit_s: float) -> int:
    return int(min(5, max(1, limit_s / max(first_s, 1e-6) / 8)))


def _step_s(learner: Learner, batch: Batch) -> float:
    started = time.perf_counter()
    train_step(learner, [batch], "a forecast's step")
    return time.perf_counter() - started


def _score_s(learner: Learner, batch: Batch) -> float:
    network = learner.model.eval()
    started = time.perf_counter()
    with torch.no_grad(), learner.autocast():
        network(to_device(batch, learner.device)[0])["logits"].tolist()
    return time.perf_counter() - started
