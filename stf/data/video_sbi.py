"""Video-SBI's recipe: a face clip and its draws → a real and a fake member that differ only inside the mask.

Self-blended images (Shiohara & Yamasaki, CVPR 2022) carried to video: every draw is made once per clip; only
drift, elastic, TPS and a tracked hull vary over time. Nothing here reads a file or knows an epoch.

T frames, H, W pixels, C = 3 RGB channels. A mask is 1 where the source is taken, 0 where the target is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.config import SbiParams, STFV8Config
from stf.data.augmentations import (
    AffineDraw,
    CompressionAugmentation,
    DriftPath,
    ElasticDraw,
    ElasticMask,
    MultiScaleBrownianDrift,
    TPSDraw,
    TPSMaskDeformation,
    affine_frames,
    affine_masks,
)
from stf.data.blend import BlendDraw, blend_clip, hull_mask
from stf.data.codec import h264_round_trip
from stf.data.colour import SourceDraw, SourceTransform, TrainDraw, TrainTransform
from stf.data.face_clip import FaceClip
from stf.data.faces import Window

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]
V73_DRIFT_PX = (2.0, 2.0)
MIN_VISIBLE_CHANGE = (
    1.0  # grey levels, mean inside the mask: below it, a "fake" is a real with the wrong label
)
# One independent random stream per component, by position: what one flag draws never moves another's draws.
# New components go to the end, or every clip of every seed changes.
COMPONENTS = (
    "video",
    "start",
    "flip",
    "crop",
    "hull",
    "colour",
    "affine",
    "elastic",
    "tps",
    "drift",
    "blend",
)
COMPONENTS += ("train", "codec")


class Rejected(Exception):
    """A draw that gives no usable fake: `cause` is "empty mask" or "invisible blend"."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True)
class Recipe:
    """What Video-SBI does in one phase, apart from the draws."""

    train: bool
    num_frames: int
    img_size: int
    mask_anchor: Literal["first", "tracked"]
    elastic_on_source: bool
    drift: MultiScaleBrownianDrift
    tps: TPSMaskDeformation
    compression: CompressionAugmentation

    @classmethod
    def of(cls, phase: str, config: STFV8Config, sbi: SbiParams) -> Recipe:
        """Flags off: drift of V7.3's fixed 2 px, no H.264.

        H.264 follows its flag in every phase: SPEC 4 takes flip, train transforms and crop jitter out of
        validation and nothing else, both members share the QP, and videos met in the wild are compressed.
        """
        return cls(
            train=phase == "train",
            num_frames=config.num_frames,
            img_size=config.img_size,
            mask_anchor=sbi.mask_anchor,
            elastic_on_source=sbi.elastic_on_source,
            drift=MultiScaleBrownianDrift(
                sbi.drift_step_range if config.use_multiscale_drift else V73_DRIFT_PX,
                sbi.drift_max_cumulative,
            ),
            tps=TPSMaskDeformation(sbi.tps_probability),
            compression=CompressionAugmentation(
                sbi.compression_qp_range, sbi.compression_probability if config.use_compression_aug else 0.0
            ),
        )


@dataclass(frozen=True, eq=False)
class SbiDraw:
    """Everything drawn for one pair of a clip whose size is known."""

    hull_of_68: bool
    colour_on_source: bool
    colour: SourceDraw
    affine: AffineDraw
    elastic: ElasticDraw
    tps: TPSDraw | None
    drift: DriftPath
    blend: BlendDraw
    train: TrainDraw | None
    qp: int | None


@dataclass(frozen=True, eq=False)
class Blend:
    """A pair in the first crop's pixels: uint8 (T, H, W, C) members, float32 (T, H, W) soft mask · ratio."""

    real: Frames
    fake: Frames
    mask: Floats


def streams(seed: tuple[int, ...]) -> dict[str, np.random.Generator]:
    """{component: its own generator} of one attempt at a pair, seed = (run seed, epoch, pair, attempt)."""
    children = np.random.SeedSequence(seed).spawn(len(COMPONENTS))
    return {name: np.random.default_rng(child) for name, child in zip(COMPONENTS, children, strict=True)}


def draw_sbi(rngs: dict[str, np.random.Generator], recipe: Recipe, clip: FaceClip, final: Window) -> SbiDraw:
    """All draws of one pair; the size of the `final` crop tells how many pixels one img_size pixel is."""
    n_frames, height, width = clip.frames_THWC.shape[:3]
    y0, y1, x0, x1 = final
    scale = (y1 - y0 + x1 - x0) / (2 * recipe.img_size)
    return SbiDraw(
        hull_of_68=bool(rngs["hull"].random() < 0.25),
        colour_on_source=bool(rngs["colour"].random() < 0.5),
        colour=SourceTransform().sample(rngs["colour"]),
        affine=AffineDraw.sample(rngs["affine"]),
        elastic=ElasticMask().sample(rngs["elastic"], n_frames, height, width),
        tps=recipe.tps.sample(rngs["tps"], n_frames, scale),
        drift=recipe.drift.sample(rngs["drift"], n_frames, scale),
        blend=BlendDraw.sample(rngs["blend"]),
        train=TrainTransform().sample(rngs["train"]) if recipe.train else None,
        qp=recipe.compression.sample(rngs["codec"]),
    )


def moving_masks(clip: FaceClip, draw: SbiDraw, recipe: Recipe) -> Floats:
    """(T, H, W) hull masks after affine, elastic, TPS and drift: sharp, before softening."""
    height, width = clip.frames_THWC.shape[1:3]
    tracked = recipe.mask_anchor == "tracked"
    hulls = [
        hull_mask(n, height, width, draw.hull_of_68) for n in clip.landmarks_TN2[: None if tracked else 1]
    ]
    masks = affine_masks(np.stack(hulls) if tracked else hulls[0], draw.affine)
    masks_THW = ElasticMask().apply(masks, draw.elastic)
    if draw.tps is not None:
        masks_THW = recipe.tps.apply(masks_THW, draw.tps)
    return recipe.drift.apply(masks_THW, draw.drift)


def blend_members(clip: FaceClip, draw: SbiDraw, recipe: Recipe) -> Blend:
    """The pair before train transforms and H.264: real = the *transformed* target."""
    coloured = SourceTransform().apply(clip.frames_THWC, draw.colour)
    source, target = (coloured, clip.frames_THWC) if draw.colour_on_source else (clip.frames_THWC, coloured)
    source = affine_frames(source, draw.affine)
    if recipe.elastic_on_source:
        source = ElasticMask().apply_to_frames(source, draw.elastic)
    fake, mask_THW = blend_clip(source, target, moving_masks(clip, draw, recipe), draw.blend)
    return Blend(target, fake, mask_THW)


def require_visible(blend: Blend) -> None:
    """Raises Rejected for a mask empty in every frame, or a mean change below 1 grey level inside it."""
    inside = int(np.count_nonzero(blend.mask))
    if inside == 0:
        raise Rejected("empty mask")
    # outside the mask both members are equal, so the sum over the frame is the sum over the mask
    change = sum(cv2.norm(r, f, cv2.NORM_L1) for r, f in zip(blend.real, blend.fake, strict=True))
    if change / (inside * blend.real.shape[-1]) < MIN_VISIBLE_CHANGE:
        raise Rejected("invisible blend")


def degrade(blend: Blend, draw: SbiDraw) -> Blend:
    """Train transforms and H.264 on both members with the same draw, or on neither."""
    real, fake = blend.real, blend.fake
    if draw.train is not None:
        real, fake = (TrainTransform().apply(frames, draw.train) for frames in (real, fake))
    if draw.qp is not None:
        real, fake = (h264_round_trip(frames, draw.qp, "rgb24") for frames in (real, fake))
    return Blend(real, fake, blend.mask)
