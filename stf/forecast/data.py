"""What there is to train on, and how fast one core prepares it: of the data at hand, or of made-up 1280×720 videos.

FF++'s own counts stand in where the data is not on this machine.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from stf.config import Params, STFV8Config
from stf.data.augment.codec import encoder_works
from stf.data.cache.build import build
from stf.data.cache.face_cache import FaceCache
from stf.data.ffpp import FFPPTree, tree_folder
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.forecast.forecast import Figure
from stf.forecast.measure import seconds_per_pair
from stf.forecast.rates import h264_seconds, pairs_per_second, seconds_per_frame, seconds_per_read
from stf.io.cores import usable_cores
from stf.sample.hd import write_tree

OFFICIAL_VIDEOS = {"train": 720, "val": 140, "test": 140}
FRAMES_A_VIDEO = 510  # FF++ has 509,914 frames in 1,000 videos


@dataclass(frozen=True)
class DataFigures:
    """Videos by split, frames of the training videos, and seconds of one core, of all at work for a pair."""

    videos: dict[str, int]
    train_frames: int
    pair_s: float
    read_s: float
    frame_s: float
    figures: tuple[Figure, ...]  # the same with their sources


def has_data(params: Params) -> bool:
    """Whether the data of `params` is on this machine."""
    return tree_folder(params.data.root).is_dir()


def measure_data(params: Params, scratch: Path, limit_s: float, n_processes: int) -> DataFigures:
    """Times pairs in one process and in `n_processes`, evaluation clips and frames; `scratch` is an empty folder.

    With runtime.face_cache set pairs are read from a cache of one video, built in `scratch`: the rate that training
    will have, whether its own cache is there yet or not. Raises DataError for data that cannot be read.
    """
    here = has_data(params)
    root = params.data.root if here else str(scratch / "made-up")
    if not here:
        write_tree(
            Path(root), frames=params.data.num_frames + 2, quality=params.data.quality, recorded=("train",)
        )
    config = STFV8Config.from_params(params, "a")
    config.data_root = root
    make = functools.partial(
        VideoSBIDataset, "train", config, data=params.data, sbi=params.sbi, as_uint8=True
    )
    dataset = make()
    if params.runtime.face_cache:
        cache = FaceCache.for_data(scratch / "faces", params.data, "forecast")
        cache.folder.mkdir(parents=True)
        build(cache, dataset.videos[:1], 1, lambda done, total: None)
        dataset = make(reader=cache.read)
    only_video = 0 if params.runtime.face_cache else None
    pair_s, n = seconds_per_pair(dataset, limit_s, only_video=only_video)
    codec = _codec(params, dataset, pair_s)
    scaled_s, scaling = _scaled(dataset, n_processes, pair_s, limit_s / 4, only_video)
    videos, frames = _counts(params, dataset) if here else (OFFICIAL_VIDEOS, 720 * FRAMES_A_VIDEO)
    source = "made-up 1280×720 videos, 200 px faces" if not here else params.data.root
    read_s = seconds_per_read(dataset.videos, config, allow_strided=params.data.allow_strided)
    frame_s = seconds_per_frame(dataset.videos[0])
    way = "from the face cache" if params.runtime.face_cache else "from PNG"
    figures = (
        Figure("pair of clips, one core", pair_s, "s", "measured", f"{way}, {n} pairs of {source}"),
        *codec,
        scaling,
        Figure("evaluation clip, one core", read_s, "s", "measured", f"from PNG, {source}"),
        Figure("decoding a frame, one core", 1e3 * frame_s, "ms", "measured", source),
        Figure("training videos", videos["train"], "", "given" if here else "assumed", _count_note(here)),
        Figure("their frames", frames, "", "given" if here else "assumed", _count_note(here)),
        Figure("validation videos", videos["val"], "", "given" if here else "assumed", _count_note(here)),
        Figure("real test videos", videos["test"], "", "given" if here else "assumed", _count_note(here)),
    )
    return DataFigures(videos, frames, scaled_s, read_s, frame_s, figures)


def _codec(params: Params, dataset: VideoSBIDataset, pair_s: float) -> tuple[Figure, ...]:
    if not encoder_works():
        return ()
    seconds, drawn = h264_seconds(dataset), params.sbi.compression_probability
    note = f"drawn for {drawn:.0%} of pairs: {drawn * seconds / pair_s:.0%} of a pair's time"
    return (Figure("H.264 of a pair, one core", 1e3 * seconds, "ms", "measured", note),)


def _scaled(
    dataset: VideoSBIDataset, n_processes: int, pair_s: float, limit_s: float, only_video: int | None
) -> tuple[float, Figure]:
    """(seconds of one core per pair while all processes work, its figure): measured where there are the cores."""
    name = f"pairs of {n_processes} processes"
    if usable_cores() < n_processes:
        note = f"as many times one process's; only {usable_cores()} cores are here"
        return pair_s, Figure(name, n_processes / pair_s, "pairs/s", "assumed", note)
    rate = pairs_per_second(dataset, n_processes, limit_s, only_video)
    note = f"at once; {rate * pair_s / n_processes:.0%} of as many times one process's"
    return n_processes / rate, Figure(name, rate, "pairs/s", "measured", note)


def _count_note(here: bool) -> str:
    return "on disk" if here else "the official split; the data is not on this machine"


def _counts(params: Params, dataset: VideoSBIDataset) -> tuple[dict[str, int], int]:
    tree = FFPPTree(params.data.root)
    others = {split: len(tree.ids(split)) for split in ("val", "test")}
    return {"train": len(dataset.videos), **others}, sum(len(v.frame_paths) for v in dataset.videos)
