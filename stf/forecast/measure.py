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
from stf.data.clips import spread_evenly
from stf.data.video_sbi_dataset import Provenance, VideoSBIDataset
from stf.errors import TrainingError
from stf.models.checkpointing import use_checkpointing
from stf.models.network import build_network
from stf.models.size import multiply_adds
from stf.training.step import Batch, to_device, train_step
from stf.training.train_state import TrainState, build_train_state

# Frames, and pixels square: of clips that warm a network up, and of those on which a quick estimate times it
# where a whole one is too slow.
SMALL = (8, 64)
QUICK_WORK = 10**9  # multiply-adds of a clip; two such clips are trained on in about a second of one core


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


def step_rates(
    config: STFV8Config, training: TrainingParams, device: str, limit_s: float, *, checkpointing: bool = False
) -> StepRates:
    """How fast `config`'s network trains and scores on random clips: a step at least, on one pair where it is slow.

    The copy to the device is part of a step. Raises TrainingError when a batch does not fit the GPU.
    """
    try:
        return _step_rates(config, training, device, limit_s, checkpointing)
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"a batch of {config.batch_size} clips does not fit the memory of {device}; set "
            "runtime.activation_checkpointing, or lower training.batch_size and raise training.grad_accum"
        ) from None


def _step_rates(
    config: STFV8Config, training: TrainingParams, device: str, limit_s: float, checkpointing: bool
) -> StepRates:
    cuda = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(0)
        model = build_network(config, device)
        use_checkpointing(model, checkpointing)
        # a learning rate that diverges is not the forecast's to find
        calm = replace(config, lr=config.min_lr)
        train_state = build_train_state(model, calm, training, epochs=10, steps_per_epoch=10, device=device)
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        _step_s(
            train_state, random_batch(small(config), 2)
        )  # imports and threads that only the first step waits for
        pair = random_batch(config, 2)
        first_s = _step_s(train_state, pair)
        whole = config.batch_size > 2 and 3 * first_s * config.batch_size / 2 < limit_s
        batch = random_batch(config, config.batch_size) if whole else pair
        if whole or 2 * first_s < limit_s:
            _step_s(train_state, batch)  # allocations, kernels' choice
            step_s = min(_step_s(train_state, batch) for _ in range(_repeats(first_s, limit_s)))
        else:
            step_s = first_s
        score_s = _score_s(train_state, batch)
        peak_gb = torch.cuda.max_memory_allocated(device) / 1e9 if cuda else None
    clips = len(batch.label)
    return StepRates(clips / step_s, clips / score_s, peak_gb, clips)


def quick_step_rates(
    config: STFV8Config, training: TrainingParams, device: str, limit_s: float, *, checkpointing: bool = False
) -> StepRates:
    """`step_rates`; on a CPU, of a network that is large for one, from small clips, scaled by multiply-adds."""
    whole = sum(multiply_adds(config).values())
    if device != "cpu" or whole <= QUICK_WORK:
        return step_rates(config, training, device, limit_s, checkpointing=checkpointing)
    rates = step_rates(small(config), training, device, limit_s, checkpointing=checkpointing)
    ratio = sum(multiply_adds(small(config)).values()) / whole
    return replace(rates, trained=rates.trained * ratio, scored=rates.scored * ratio)


def small(config: STFV8Config) -> STFV8Config:
    """The same network on clips of SMALL, or of its own size where that is less."""
    frames, size = SMALL
    return replace(config, num_frames=min(frames, config.num_frames), img_size=min(size, config.img_size))


def random_batch(config: STFV8Config, n_clips: int) -> Batch:
    """Noise in a batch's form; its values do not matter for time."""
    shape = (n_clips, config.in_channels, config.num_frames, config.img_size, config.img_size)
    video = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    made_up = Provenance("noise", 0, (0, 0, 0, 0), None)
    return Batch(video, torch.arange(n_clips) % 2, [made_up] * n_clips)


def _repeats(first_s: float, limit_s: float) -> int:
    return int(min(5, max(1, limit_s / max(first_s, 1e-6) / 8)))


def _step_s(train_state: TrainState, batch: Batch) -> float:
    started = time.perf_counter()
    train_step(train_state, [batch], "a forecast's step")
    return time.perf_counter() - started


def _score_s(train_state: TrainState, batch: Batch) -> float:
    network = train_state.model.eval()
    started = time.perf_counter()
    with torch.no_grad(), train_state.autocast():
        network(to_device(batch, train_state.device)[0])["logits"].tolist()
    return time.perf_counter() - started
