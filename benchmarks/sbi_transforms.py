"""Each Video-SBI transform of one clip against its plain twin: python -m benchmarks.sbi_transforms"""

from __future__ import annotations

from collections.abc import Callable

import click
import cv2
import numpy as np

from benchmarks.h264 import best_ms, moving_clip
from stf.data.augmentations import (
    AffineDraw,
    ElasticMask,
    MultiScaleBrownianDrift,
    TPSMaskDeformation,
    affine_masks,
)
from stf.data.blend import BlendDraw, dynamic_blend, hull_mask
from stf.data.colour import SourceDraw, SourceTransform, TrainDraw, TrainTransform
from tests.reference import data_blend_plain, data_colour_plain, data_warps_plain

Timed = Callable[[], object]


def cases(n_frames: int, size: int) -> dict[str, tuple[Timed, Timed]]:
    """{name: (ours for the whole clip, the plain twin for the whole clip)}."""
    rng = np.random.default_rng(0)
    clip = moving_clip(n_frames, size)
    angle = np.linspace(0, 2 * np.pi, 81)
    face = size * (0.5 + 0.3 * np.stack([np.cos(angle), 1.2 * np.sin(angle)], -1))
    mask = hull_mask(face, size, size, False)
    masks = np.repeat(mask[None], n_frames, 0)
    affine, blend = AffineDraw.sample(rng), BlendDraw.sample(rng)
    elastic = ElasticMask().sample(rng, n_frames, size, size)
    path = MultiScaleBrownianDrift().sample(rng, n_frames)
    tps = TPSMaskDeformation(1.0).sample(rng, n_frames)
    assert tps is not None  # its probability is 1
    source, train = SourceDraw(0, 1, None), TrainDraw(1, 1)
    plain, warps, colours = data_blend_plain, data_warps_plain, data_colour_plain

    def plain_blend() -> None:
        for frame, mask_HW in zip(clip, masks, strict=True):
            plain.mixed(frame[::-1], frame, plain.soft_mask(mask_HW, blend.soft))

    return {
        "hull mask (one)": (
            lambda: hull_mask(face, size, size, False),
            lambda: plain.hull_coverage(cv2.convexHull(face.astype(np.float32))[:, 0], size, size, 4),
        ),
        "affine, mask (one)": (lambda: affine_masks(mask, affine), lambda: warps.affine(mask, affine)),
        "elastic, masks": (
            lambda: ElasticMask().apply(mask, elastic),
            lambda: [warps.displaced(mask, field) for field in elastic.fields()],
        ),
        "TPS, masks": (
            lambda: TPSMaskDeformation().apply(mask, tps),
            lambda: warps.tps_fields(tps, size, size),
        ),
        "drift, masks": (
            lambda: MultiScaleBrownianDrift().apply(mask, path),
            lambda: [warps.shifted(mask, dx, dy) for dx, dy in path.offsets_T2],
        ),
        "soft masks and blend": (
            lambda: [dynamic_blend(f[::-1], f, m, blend) for f, m in zip(clip, masks, strict=True)],
            plain_blend,
        ),
        "source colour": (
            lambda: SourceTransform().apply(clip, source),
            lambda: [colours.source(frame, source) for frame in clip],
        ),
        "train colour": (
            lambda: TrainTransform().apply(clip, train),
            lambda: [colours.train(frame, train) for frame in clip],
        ),
    }


@click.command()
@click.option("--frames", default=32, show_default=True)
@click.option("--size", default=256, show_default=True, help="Height and width in pixels.")
@click.option("--repeats", default=5, show_default=True)
def main(frames: int, size: int, repeats: int) -> None:
    """One line per transform: ms per clip on one core, and how many times faster than the twin."""
    cv2.setNumThreads(1)
    for name, (ours, twin) in cases(frames, size).items():
        ours_ms, twin_ms = best_ms(ours, repeats), best_ms(twin, 1)
        click.echo(
            f"{name:22s} {ours_ms:7.1f} ms, plain twin {twin_ms:8.1f} ms, {twin_ms / ours_ms:6.1f} times"
        )


if __name__ == "__main__":
    main()
