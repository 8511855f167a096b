"""Milliseconds per Video-SBI pair on one core, step by step, beside the plain per-frame recipe.

    python -m benchmarks.pairs --root data/sample --quality raw --frames 32 --img-size 224

CPU time, so that a busy machine does not count; all features on (H.264, drift, TPS in every pair).
"""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import click
import cv2
import numpy as np

from stf.config import DataParams, SbiParams, STFV8Config
from stf.data.augmentations import affine_frames
from stf.data.blend import blend_clip
from stf.data.codec import h264_round_trip
from stf.data.colour import SourceTransform, TrainTransform
from stf.data.face_clip import read_face_clip, resize_window, to_model_input
from stf.data.faces import draw_side_factors, final_crop_window
from stf.data.video_sbi import Blend, Rejected, draw_sbi, moving_masks, require_visible, streams
from stf.data.video_sbi_dataset import VideoSBIDataset
from tests.reference.data_video_sbi_plain import plain_face_clip, plain_final, plain_members


class Clock:
    """Adds up CPU milliseconds by step."""

    def __init__(self) -> None:
        self.ms: defaultdict[str, list[float]] = defaultdict(list)

    def __call__(self, step: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        result = function(*arguments)
        self.ms[step].append(1000 * (time.process_time() - start))
        return result


def _both(function: Callable[..., Any], real: Any, fake: Any, *arguments: Any) -> list[Any]:
    return [function(frames, *arguments) for frames in (real, fake)]


def _source_and_target(frames: Any, coloured: Any, on_source: bool) -> tuple[Any, Any]:
    return (coloured, frames) if on_source else (frames, coloured)


def timed_pair(dataset: VideoSBIDataset, seed: tuple[int, int, int, int], clock: Clock) -> tuple[int, ...]:
    """One attempt as the data set makes it, each step timed; returns the first crop's (T, H, W)."""
    rngs, recipe = streams(seed), dataset.recipe
    place = seed[2] // dataset.pairs_per_video
    start = int(rngs["start"].choice(dataset._starts[place]))
    flip = bool(rngs["flip"].random() < 0.5)
    clip = clock("read, first crop", read_face_clip, dataset.videos[place], start, recipe.num_frames, flip)
    frames = clip.frames_THWC
    factors = draw_side_factors(rngs["crop"], recipe.train)
    window = final_crop_window(clip.box_22, frames.shape[1], frames.shape[2], factors)
    draw = clock("draws", draw_sbi, rngs, recipe, clip, window)
    coloured = clock("colour, sharpen, downscale", SourceTransform().apply, frames, draw.colour)
    source, target = _source_and_target(frames, coloured, draw.colour_on_source)
    source = clock("affine of the source", affine_frames, source, draw.affine)
    masks = clock("masks (elastic, TPS, drift)", moving_masks, clip, draw, recipe)
    fake, mask = clock("soft masks and blend", blend_clip, source, target, masks, draw.blend)
    clock("visibility", require_visible, Blend(target, fake, mask))
    real, fake = clock("train transforms, both", _both, TrainTransform().apply, target, fake, draw.train)
    if draw.qp is not None:
        real, fake = clock("H.264, both", _both, h264_round_trip, real, fake, draw.qp, "rgb24")
    small = clock("final crop and resize, both", _both, resize_window, real, fake, window, recipe.img_size)
    clock("to float32, both", _both, to_model_input, *small)
    return frames.shape[:3]


def plain_pair(dataset: VideoSBIDataset, seed: tuple[int, int, int, int]) -> None:
    """The same attempt by the per-frame reference of the tests."""
    rngs, recipe = streams(seed), dataset.recipe
    place = seed[2] // dataset.pairs_per_video
    start = int(rngs["start"].choice(dataset._starts[place]))
    flip = bool(rngs["flip"].random() < 0.5)
    frames, landmarks, box = plain_face_clip(dataset.videos[place], start, recipe.num_frames, flip)
    window = final_crop_window(box, frames.shape[1], frames.shape[2], draw_side_factors(rngs["crop"], True))
    clip = type(read_face_clip(dataset.videos[place], start, 1))(frames, landmarks, box)
    draw = draw_sbi(rngs, recipe, clip, window)
    real, fake, _ = plain_members(frames, landmarks, draw, recipe)
    for member in (real, fake):
        plain_final(member, box, window, recipe.img_size)


def _report(clock: Clock, total_ms: float, shapes: list[tuple[int, ...]]) -> None:
    sizes = np.median(shapes, axis=0).astype(int)
    click.echo(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one core")
    click.echo(f"median first crop: {sizes[0]} frames of {sizes[2]}x{sizes[1]} px\n")
    steps = {step: statistics.mean(values) for step, values in clock.ms.items()}
    for step, ms in steps.items():
        click.echo(f"{step:32s}{ms:9.1f} ms {100 * ms / sum(steps.values()):5.1f} %")
    click.echo(f"{'sum of the steps':32s}{sum(steps.values()):9.1f} ms")
    click.echo(f"{'data set, both members':32s}{total_ms:9.1f} ms = {2000 / total_ms:.2f} clips/s")


@click.command()
@click.option("--root", default="data/sample", show_default=True, help="Folder that holds FaceForensics++/.")
@click.option("--quality", default="c23", show_default=True, type=click.Choice(["raw", "c23", "c40"]))
@click.option("--frames", default=32, show_default=True, help="Frames per clip.")
@click.option("--img-size", default=224, show_default=True, help="Pixels of the network's input.")
@click.option("--pairs", default=8, show_default=True, help="How many pairs to time.")
@click.option("--reference/--no-reference", default=True, help="Also time the plain recipe, on two pairs.")
def main(root: str, quality: Any, frames: int, img_size: int, pairs: int, reference: bool) -> None:
    """Prints the table; needs a prepared data set (`dvc repro verify_data` makes the sample)."""
    cv2.setNumThreads(0)
    config = STFV8Config.phase_a()
    config.num_frames, config.img_size, config.data_root = frames, img_size, root
    sbi = SbiParams(compression_probability=1.0, tps_probability=1.0)
    dataset = VideoSBIDataset("train", config, data=DataParams(root=root, quality=quality), sbi=sbi)
    places = [p % dataset.n_pairs for p in range(pairs)]
    dataset[(0, 0)]  # imports, encoder probe and page cache are not what is measured
    clock, shapes = Clock(), []
    for epoch, place in enumerate(places):
        try:
            shapes.append(timed_pair(dataset, (0, epoch, place, 0), clock))
        except Rejected as rejected:
            click.echo(f"pair {place}, epoch {epoch}: {rejected}, not counted")
    begin = time.process_time()
    for epoch, place in enumerate(places):
        dataset[(epoch, 2 * place)], dataset[(epoch, 2 * place + 1)]
    total_ms = 1000 * (time.process_time() - begin) / len(places)
    _report(clock, total_ms, shapes)
    click.echo(
        f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
    )
    if reference:
        begin = time.process_time()
        for epoch, place in enumerate(places[:2]):
            plain_pair(dataset, (0, epoch, place, 0))
        plain_ms = 1000 * (time.process_time() - begin) / len(places[:2])
        click.echo(f"{'plain per-frame recipe':32s}{plain_ms:9.1f} ms = {plain_ms / total_ms:.1f} × as long")


if __name__ == "__main__":
    main()
