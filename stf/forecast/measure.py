"""The rates behind a forecast, measured on this machine; no random state and no weight of a run is touched.

B clips, T frames, S = img_size.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from stf.config import Params, STFV8Config, TrainingParams
from stf.data.augment.codec import encoder_works, h264_round_trip
from stf.data.cache.build import build
from stf.data.cache.face_cache import FaceCache
from stf.data.clips import read_frame, spread_evenly, video_clip_starts
from stf.data.face_clip import read_face_clip, resize_window
from stf.data.faces import draw_side_factors, final_crop_window
from stf.data.ffpp import FFPPTree, require_fingerprint, tree_folder
from stf.data.video import Video
from stf.data.video_sbi_dataset import Provenance, VideoSBIDataset
from stf.errors import DataError, TrainingError
from stf.forecast.plan import Figure
from stf.io.cores import usable_cores
from stf.io.paths import DATA_JSON
from stf.io.workers import parallel_map
from stf.models.checkpointing import use_checkpointing
from stf.models.network import build_network
from stf.models.size import multiply_adds
from stf.models.timm_stages import TimmStages
from stf.training.face_cache import face_cache, training_videos
from stf.training.step import Batch, to_device, train_step
from stf.training.train_state import TrainState, build_train_state

OFFICIAL_VIDEOS = {"train": 720, "val": 140, "test": 140}
FRAMES_A_VIDEO = 510  # FF++ has 509,914 frames in 1,000 videos
READ_VIDEOS = 3  # whose clips are read as evaluation reads them
# Frames, and pixels square: of clips that warm a network up, and of those on which a quick estimate times it
# where a whole one is too slow.
SMALL = (8, 64)
QUICK_WORK = 10**9  # multiply-adds of a clip; two such clips are trained on in about a second of one core

# ---------------------------------------------------------------------------------------- clips and frames


@dataclass(frozen=True)
class DataFigures:
    """Videos by split, frames of the training videos, and seconds of one core; for a pair, while all cores work."""

    videos: dict[str, int]
    train_frames: int
    pair_s: float
    read_s: float
    frame_s: float
    figures: tuple[Figure, ...]  # the same with their sources


def has_data(params: Params) -> bool:
    """Whether the data of `params` is on this machine."""
    return tree_folder(params.data.root).is_dir()


def measure_data(params: Params, root: str, scratch: Path, limit_s: float, n_processes: int) -> DataFigures:
    """Times pairs in one process and in `n_processes`, evaluation clips and frames of the videos under `root`.

    They are params.data.root's, or made-up ones where that is not on this machine: FF++'s own counts then stand in.
    With runtime.face_cache set pairs are read from a cache of one video, built in the empty folder `scratch`: the rate
    that training will have, whether its own cache is there yet or not. Raises DataError for data that cannot be read.
    """
    config = STFV8Config.from_params(params, "a")
    config.data_root = root
    make = functools.partial(
        VideoSBIDataset, "train", config, data=params.data, sbi=params.sbi, as_uint8=True
    )
    dataset, only_video, source_of_frames = make(), None, "from PNG"
    if params.runtime.face_cache:
        cache = FaceCache.for_data(scratch, params.data, "forecast")
        cache.folder.mkdir(parents=True)
        build(cache, dataset.videos[:1], 1, lambda done, total: None)
        dataset, only_video, source_of_frames = make(reader=cache.read), 0, "from the face cache"
    pair_s, n_pairs = seconds_per_pair(dataset, limit_s, only_video=only_video)
    scaled_pair_s, scaling = _scaled(dataset, n_processes, pair_s, limit_s / 4, only_video)
    read_s = seconds_per_read(dataset.videos[:READ_VIDEOS], config, params.data.allow_strided)
    frame_s = seconds_per_frame(dataset.videos[0])
    if has_data(params):
        tree = FFPPTree(root)
        videos = {"train": len(dataset.videos), **{split: len(tree.ids(split)) for split in ("val", "test")}}
        frames = sum(len(video.frame_paths) for video in dataset.videos)
        source, counted, count_note = root, "given", "on disk"
    else:
        videos, frames = OFFICIAL_VIDEOS, OFFICIAL_VIDEOS["train"] * FRAMES_A_VIDEO
        source, counted = "made-up 1280×720 videos, 200 px faces", "assumed"
        count_note = "the official split; the data is not on this machine"
    pair_note = f"{source_of_frames}, {n_pairs} pairs of {source}"
    figures = (
        Figure("pair of clips, one core", pair_s, "s", "measured", pair_note),
        *_codec(params, dataset, pair_s),
        scaling,
        Figure("evaluation clip, one core", read_s, "s", "measured", f"from PNG, {source}"),
        Figure("decoding a frame, one core", 1e3 * frame_s, "ms", "measured", source),
        Figure("training videos", videos["train"], "", counted, count_note),
        Figure("their frames", frames, "", counted, count_note),
        Figure("validation videos", videos["val"], "", counted, count_note),
        Figure("real test videos", videos["test"], "", counted, count_note),
    )
    return DataFigures(videos, frames, scaled_pair_s, read_s, frame_s, figures)


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


def _codec(params: Params, dataset: VideoSBIDataset, pair_s: float) -> tuple[Figure, ...]:
    """CPU seconds for the H.264 round trips of a pair's two clips at QP 32; nothing without an encoder."""
    if not encoder_works():
        return ()
    clip_CTSS = dataset[(0, 0)]["video"]
    frames_TSSC = np.ascontiguousarray(clip_CTSS.permute(1, 2, 3, 0).numpy())
    h264_round_trip(frames_TSSC, 32, "rgb24")  # opens the encoder
    started = time.process_time()
    for _ in range(2):
        h264_round_trip(frames_TSSC, 32, "rgb24")
    seconds, share = time.process_time() - started, params.sbi.compression_probability
    note = f"for {share:.0%} of the pairs: {share * seconds / pair_s:.0%} of a pair's time"
    return (Figure("H.264 of a pair, one core", 1e3 * seconds, "ms", "measured", note),)


def _scaled(
    dataset: VideoSBIDataset, n_processes: int, pair_s: float, limit_s: float, only_video: int | None
) -> tuple[float, Figure]:
    """(seconds of one core per pair while all processes work, its figure): measured where there are the cores."""
    name = f"pairs of {n_processes} processes"
    if usable_cores() < n_processes:
        note = f"as many times one process's; only {usable_cores()} cores are here"
        return pair_s, Figure(name, n_processes / pair_s, "pairs/s", "assumed", note)
    processes = range(n_processes)
    rate = sum(parallel_map(_pair_rate, processes, n_processes, dataset, limit_s, only_video, chunksize=1))
    note = f"at once; {rate * pair_s / n_processes:.0%} of as many times one process's"
    return n_processes / rate, Figure(name, rate, "pairs/s", "measured", note)


def _pair_rate(dataset: VideoSBIDataset, limit_s: float, only_video: int | None, process: int) -> float:
    """Pairs per second of the clock of one process, after one that is not counted."""
    pairs = [only_video * dataset.pairs_per_video] if only_video is not None else range(dataset.n_pairs)
    started, n = 0.0, 0
    while n < 2 or time.perf_counter() - started < limit_s:
        if n == 1:
            started = time.perf_counter()
        pair = pairs[(process + n) % len(pairs)]
        dataset[(1000 * process + n, 2 * pair)]
        n += 1
    return (n - 1) / (time.perf_counter() - started)


def seconds_per_read(videos: list[Video], config: STFV8Config, allow_strided: bool) -> float:
    """CPU seconds of one core for a clip as evaluation reads it: decoded from PNG, cropped twice, resized."""
    factors = draw_side_factors(np.random.default_rng(0), train=False)  # constants: nothing is drawn
    seconds = []
    for video in videos:
        for start in video_clip_starts(video, config.num_frames, 1, allow_strided):
            started = time.process_time()
            clip = read_face_clip(video, start, config.num_frames)
            height, width = clip.frames_THWC.shape[1:3]
            window = final_crop_window(clip.box_22, height, width, factors)
            resize_window(clip.frames_THWC, window, config.img_size)
            seconds.append(time.process_time() - started)
    if not seconds:
        names = ", ".join(video.name for video in videos)
        raise DataError(
            f"none of {names} holds {config.num_frames} consecutive frames; `dvc repro verify_data`"
        )
    return sum(seconds) / len(seconds)


def seconds_per_frame(video: Video) -> float:
    """CPU seconds of one core to decode one PNG frame: what filling the face cache takes."""
    paths = [video.frame_paths[i] for i in spread_evenly(range(len(video.frame_paths)), 8)]
    started = time.process_time()
    for path in paths:
        read_frame(path)
    return (time.process_time() - started) / len(paths)


def frames_to_cache(params: Params, train_frames: int) -> int:
    """Frames that runtime.face_cache still lacks: all of them where the data is not here or was never verified."""
    if not params.runtime.face_cache:
        return 0
    if not has_data(params):
        return train_frames
    try:
        cache = face_cache(params, require_fingerprint(params.data.root, DATA_JSON))
    except DataError:
        return train_frames
    return sum(len(video.frame_paths) for video in cache.missing(training_videos(params)))


# ---------------------------------------------------------------------------------------- steps of a network


@dataclass(frozen=True)
class StepRates:
    """Clips per second of one process; GB is the GPU's peak, None on a CPU."""

    trained: float
    scored: float
    peak_gb: float | None
    clips_timed: int


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
        network = build_network(config, device)
        _keep_random_weights(network)
        use_checkpointing(network, checkpointing)
        # a learning rate that diverges is not the forecast's to discover
        calm = replace(config, lr=config.min_lr)
        state = build_train_state(network, calm, training, epochs=10, steps_per_epoch=10, device=device)
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        _step_s(
            state, random_batch(small(config), 2)
        )  # imports and threads that only the first step waits for
        pair = random_batch(config, 2)
        first_s = _step_s(state, pair)
        whole = config.batch_size > 2 and 3 * first_s * config.batch_size / 2 < limit_s
        batch = random_batch(config, config.batch_size) if whole else pair
        if whole or 2 * first_s < limit_s:
            _step_s(state, batch)  # allocations, kernels' choice
            step_s = min(_step_s(state, batch) for _ in range(_repeats(first_s, limit_s)))
        else:
            step_s = first_s
        score_s = _score_s(state, batch)
        peak_gb = torch.cuda.max_memory_allocated(device) / 1e9 if cuda else None
    clips = len(batch.label)
    return StepRates(clips / step_s, clips / score_s, peak_gb, clips)


def _keep_random_weights(network: nn.Module) -> None:
    """Lets a timm backbone run without its pretrained weights: time does not depend on them."""
    for module in network.modules():
        if isinstance(module, TimmStages):
            module.load(module.network.state_dict())


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


def _step_s(state: TrainState, batch: Batch) -> float:
    started = time.perf_counter()
    train_step(state, [batch], "a forecast's step")
    return time.perf_counter() - started


def _score_s(state: TrainState, batch: Batch) -> float:
    network = state.model.eval()
    started = time.perf_counter()
    with torch.no_grad(), state.autocast():
        network(to_device(batch, state.device)[0])["logits"].tolist()
    return time.perf_counter() - started
