"""Each Video-SBI transform of one clip against a plain version: python -m benchmarks.sbi_transforms

The plain versions work frame by frame as SBI's code does: one albumentations call a frame, one remap of the whole
picture per warp, masks and blend in float. Results are equal (see tests/data), those of masks and blend up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import cv2
import numpy as np

from benchmarks.h264 import moving_clip
from benchmarks.harness import WIDTH, interleaved, machine, ratio_text, row
from stf.data.augment.colour import SourceDraw, SourceTransform, TrainDraw, TrainTransform
from stf.data.augment.region import bounding_window, view
from stf.data.augment.soft_masks import MaskDraw, soft_masks
from stf.data.augmentations import (
    AffineDraw,
    ElasticMask,
    MultiScaleBrownianDrift,
    TPSMaskDeformation,
    affine_masks,
)
from stf.data.blend import BlendDraw, hull_mask, mix, mix_into, soften
from tests.reference import data_colour_plain

Timed = Callable[[], object]
# {name: whether a train draw is of that kind}
TRAIN = {
    "all colours, no JPEG": lambda shift, hsv, brightness, jpeg: shift and hsv and brightness and not jpeg,
    "JPEG alone": lambda shift, hsv, brightness, jpeg: jpeg and not (shift or hsv or brightness),
}


def mask_draw(rng: np.random.Generator, n_frames: int, size: int) -> MaskDraw:
    """The draw of a mask that takes every warp."""
    tps = TPSMaskDeformation(1.0).sample(rng, n_frames)
    elastic = ElasticMask().sample(rng, n_frames, size, size)
    drift = MultiScaleBrownianDrift().sample(rng, n_frames)
    return MaskDraw(False, AffineDraw.sample(rng), elastic, tps, drift, BlendDraw.sample(rng))


def masks_warp_by_warp(face_N2: np.ndarray, draw: MaskDraw, size: int) -> np.ndarray:
    """The soft masks × ratio, (T, H, W) float."""
    assert draw.tps is not None  # mask_draw's probability is 1
    masks = affine_masks(hull_mask(face_N2, size, size, draw.hull_of_68), draw.affine)
    masks = TPSMaskDeformation().apply(ElasticMask().apply(masks, draw.elastic), draw.tps)
    moved = MultiScaleBrownianDrift().apply(masks, draw.drift)
    return np.stack([soften(mask, draw.blend.soft) for mask in moved]) * draw.blend.ratio


def mask_and_blend(clip: np.ndarray) -> dict[str, tuple[Timed, Timed]]:
    """Masks of the clip, and its blend with its mirror image."""
    size = clip.shape[1]
    angle = np.linspace(0, 2 * np.pi, 81)
    face = size * (0.5 + 0.3 * np.stack([np.cos(angle), 1.2 * np.sin(angle)], -1))
    draw = mask_draw(np.random.default_rng(0), len(clip), size)
    masks = soft_masks(face[None], draw, (0, size, 0, size))
    floats = masks.astype(np.float32) / 255
    mirrored, fakes = np.ascontiguousarray(clip[:, :, ::-1]), clip.copy()
    box = bounding_window(masks.max(0))

    def blend() -> None:
        for fake, source, mask in zip(*(view(each, box) for each in (fakes, mirrored, masks)), strict=True):
            mix_into(fake, source, mask)

    return {
        "soft masks, all warps": (
            lambda: soft_masks(face[None], draw, (0, size, 0, size)),
            lambda: masks_warp_by_warp(face, draw, size),
        ),
        "blend": (blend, lambda: [mix(*each) for each in zip(mirrored, clip, floats, strict=True)]),
    }


def colours(clip: np.ndarray) -> dict[str, tuple[Timed, Timed]]:
    """Source and train transforms."""
    ratios = {"sharpened": None, "half size": 2, "quarter size": 4}
    sources = {f"source colour, {name}": SourceDraw(0, 1, ratio) for name, ratio in ratios.items()}
    trains = {f"train, {name}": train_draw(name) for name in TRAIN}
    cases = {
        name: framewise(SourceTransform(), data_colour_plain.source, clip, d) for name, d in sources.items()
    }
    return cases | {
        name: framewise(TrainTransform(), data_colour_plain.train, clip, d) for name, d in trains.items()
    }


def framewise(transform: Any, plain: Callable[..., Any], clip: np.ndarray, draw: Any) -> tuple[Timed, Timed]:
    """The transform of the whole clip, and the plain version frame by frame."""
    return lambda: transform.apply(clip, draw), lambda: [plain(frame, draw) for frame in clip]


def train_draw(name: str) -> TrainDraw:
    """The first train draw of that kind."""
    is_of_kind = TRAIN[name]
    seeds = ((colour, jpeg) for colour in range(1000) for jpeg in range(10))
    return next(
        TrainDraw(*pair) for pair in seeds if is_of_kind(*data_colour_plain.train_parts(TrainDraw(*pair)))
    )


@click.command()
@click.option("--frames", default=32, show_default=True)
@click.option("--size", default=320, show_default=True, help="Height and width in pixels.")
@click.option("--repeats", default=5, show_default=True)
def main(frames: int, size: int, repeats: int) -> None:
    """Print a line per transform: CPU time per clip of ours and of the plain version, ratio, our peak memory."""
    cv2.setNumThreads(1)
    clip = moving_clip(frames, size)
    click.echo(
        f"Transforms of {frames} × {size} × {size}, CPU time, {repeats} runs each, in turns\n{machine()}"
    )
    click.echo(row("", ["ours", "plain", "", "our peak memory"]))
    click.echo("-" * WIDTH)
    for name, (ours, plain) in (mask_and_blend(clip) | colours(clip)).items():
        measured = interleaved({"ours": ours, "plain": plain}, repeats)
        fast, slow = measured["ours"], measured["plain"]
        times = [f"{1000 * m.cpu_s:.1f} ms" for m in (fast, slow)]
        click.echo(row(name, [*times, ratio_text(slow.cpu_s, fast.cpu_s), f"{fast.peak_mb:.1f} MB"]))


if __name__ == "__main__":
    main()
