"""Video-SBI's recipe: a face clip and its draws → a real and a fake member that differ only inside the mask.

Self-blended images (Shiohara & Yamasaki, CVPR 2022) extended to video: everything is drawn once per clip; only
drift, elastic, TPS and a tracked hull vary over time. Nothing here reads a file or depends on an epoch.

T frames, H, W pixels, C = 3 RGB channels. A mask is 1 where the source shows, 0 where the target does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.config import SbiParams, STFV8Config
from stf.data.augment.codec import h264_round_trip
from stf.data.augment.colour import SourceDraw, SourceTransform, TrainDraw, TrainTransform
from stf.data.augment.region import (
    BLOCK,
    CHROMA_REACH,
    block_aligned,
    bounding_window,
    copy_window,
    grow,
    intersection,
    relative_to,
    view,
)
from stf.data.augment.soft_masks import MaskDraw, soft_masks
from stf.data.augment.warps import affine_reach, affine_window
from stf.data.augmentations import (
    AffineDraw,
    CompressionAugmentation,
    ElasticMask,
    MultiScaleBrownianDrift,
    TPSMaskDeformation,
)
from stf.data.blend import BlendDraw, mix_into
from stf.data.face_clip import FaceClip
from stf.data.faces import Window

Frames = NDArray[np.uint8]
V73_DRIFT_PX = (2.0, 2.0)
# Mean change inside the mask in grey levels; below it, the "fake" would be a real clip with the wrong label.
MIN_VISIBLE_CHANGE = 1.0
# Pixels of the region beyond the final crop, before it is extended to whole blocks: more than JPEG's chroma reaches.
# H.264 predicts from the pixels it gets, so single pixels differ from a coding of the whole crop, but no more than
# coding changes them anyway: at QP 23 to 40 the mean coding error inside the final crop is .999 times the whole crop's
# (its outermost 8 px: .997), and a margin of 16 px, which costs a sixth more, gives 1.000 (.999).
MARGIN_PX = 4
# One independent random generator per component, by position: the draws of one flag never affect those of another.
# Add new components at the end; otherwise every clip of every seed changes.
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
    """A draw without a usable fake: `cause` is "empty mask" or "invisible blend"."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True)
class Recipe:
    """Video-SBI's settings in one phase."""

    train: bool
    num_frames: int
    img_size: int
    mask_anchor: Literal["first", "tracked"]
    elastic_on_source: bool
    drift: MultiScaleBrownianDrift
    tps: TPSMaskDeformation
    compression: CompressionAugmentation

    @classmethod
    def for_phase(cls, phase: str, config: STFV8Config, sbi: SbiParams) -> Recipe:
        """Builds the recipe of a phase; with the flags off, V7.3's fixed drift of 2 px and no H.264.

        H.264 depends on its flag in every phase: validation omits flip, train transforms and crop jitter only. Both
        members share the QP, and videos in the wild are compressed.
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
class SbiDraw(MaskDraw):
    """All draws of one pair, for a clip of known size: those of the mask (MaskDraw) and the rest."""

    colour_on_source: bool
    colour: SourceDraw
    train: TrainDraw | None
    qp: int | None


@dataclass(frozen=True, eq=False)
class Blend:
    """A pair in a region of the first crop, before degradation: T frames of h × w pixels.

    The fake equals the real outside `patch_at`, a window in the region's pixels that contains everything the mask
    and, through the chroma of its blocks, JPEG can change.
    """

    real_ThwC: Frames
    patch_TpqC: Frames  # the fake's pixels at `patch_at`
    patch_at: Window
    mask_Thw: Frames  # soft mask × ratio, in 1/255


@dataclass(frozen=True, eq=False)
class Members:
    """Both members of a pair after degradation, uint8 (T, h, w, C), and the mask as in Blend."""

    real_ThwC: Frames
    fake_ThwC: Frames
    mask_Thw: Frames


def random_streams(seed: tuple[int, ...]) -> dict[str, np.random.Generator]:
    """Returns {component: its own generator} for one attempt at a pair; seed = (run seed, epoch, pair, attempt)."""
    children = np.random.SeedSequence(seed).spawn(len(COMPONENTS))
    return {name: np.random.default_rng(child) for name, child in zip(COMPONENTS, children, strict=True)}


def draw_sbi(rngs: dict[str, np.random.Generator], recipe: Recipe, clip: FaceClip, final: Window) -> SbiDraw:
    """Draws everything for one pair; drift and TPS scale with the size of the `final` crop / img_size."""
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


def region_for(final: Window, height: int, width: int) -> Window:
    """Returns the part of the first crop to compute: the final crop and a margin for codecs, in whole blocks."""
    return block_aligned(grow(final, MARGIN_PX, height, width), height, width)


def blend_members(clip: FaceClip, draw: SbiDraw, recipe: Recipe, region: Window) -> Blend:
    """Blends a pair in a `region` of the first crop, before train transforms and H.264.

    The real member is the *transformed* target.
    """
    hulls = clip.landmarks_TN2[: None if recipe.mask_anchor == "tracked" else 1]
    height, width = region[1] - region[0], region[3] - region[2]
    mask_Thw = soft_masks(hulls, draw, region)
    box = bounding_window(mask_Thw.max(0))
    target_ThwC = _coloured(clip.frames_THWC, None if draw.colour_on_source else draw.colour, region)
    patch_at = block_aligned(grow(block_aligned(box, height, width), BLOCK, height, width), height, width)
    patch_TpqC = view(target_ThwC, patch_at).copy()
    if box[1] > box[0]:
        box_in_crop = (region[0] + box[0], region[0] + box[1], region[2] + box[2], region[2] + box[3])
        source_TpqC = _source(clip.frames_THWC, draw, recipe, box_in_crop)
        for fake, source, mask in zip(
            view(patch_TpqC, relative_to(box, patch_at)), source_TpqC, view(mask_Thw, box), strict=True
        ):
            mix_into(fake, source, mask)
    return Blend(target_ThwC, patch_TpqC, patch_at, mask_Thw)


def _coloured(frames_THWC: Frames, colour: SourceDraw | None, window: Window) -> Frames:
    """Returns the window of the source transform's output; with None, a copy of the frames' window."""
    if colour is None:
        return copy_window(frames_THWC, window)
    if colour.ratio is not None:
        return view(SourceTransform().apply(frames_THWC, colour), window)
    wider = grow(window, 1, *frames_THWC.shape[1:3])
    return view(SourceTransform().apply(view(frames_THWC, wider), colour), relative_to(window, wider))


def _source(frames_THWC: Frames, draw: SbiDraw, recipe: Recipe, window: Window) -> Frames:
    """Returns the window of the source after colour, affine and, if the recipe has it, elastic transforms."""
    size = frames_THWC.shape[1], frames_THWC.shape[2]
    warped_at = window
    if recipe.elastic_on_source:
        warped_at = grow(window, draw.elastic.reach_px, *size)
    needed = affine_reach(draw.affine, warped_at, *size)
    part = _coloured(frames_THWC, draw.colour if draw.colour_on_source else None, needed)
    warped = affine_window(part, draw.affine, needed, warped_at, size)
    if not recipe.elastic_on_source:
        return warped
    return ElasticMask().apply_to_window(warped, draw.elastic, warped_at, window)


def require_visible(blend: Blend, final: Window) -> None:
    """Raises Rejected when the blend is invisible in the `final` crop (in the region's pixels), the network's input.

    That is, the mask is empty there in every frame, or the mean change inside it is below 1 grey level.
    """
    n_masked = int(np.count_nonzero(view(blend.mask_Thw, final)))
    if n_masked == 0:
        raise Rejected("empty mask")
    # outside the mask both members are equal, so the sum over a window that contains it is the sum over the mask
    visible = intersection(final, blend.patch_at)
    patch = view(blend.patch_TpqC, relative_to(visible, blend.patch_at))
    pairs = zip(view(blend.real_ThwC, visible), patch, strict=True)
    change = sum(cv2.norm(real, fake, cv2.NORM_L1) for real, fake in pairs)
    if change / (n_masked * blend.real_ThwC.shape[-1]) < MIN_VISIBLE_CHANGE:
        raise Rejected("invisible blend")


def degrade(blend: Blend, draw: SbiDraw) -> Members:
    """Applies train transforms and H.264 with one draw to both members, or to neither."""
    real, patch = blend.real_ThwC, blend.patch_TpqC
    if draw.train is not None:
        real, patch = (TrainTransform().apply(frames, draw.train) for frames in (real, patch))
    fake = real.copy()
    # a patch edge inside the region lacks the neighbouring chroma: drop its outermost pixels
    height, width = real.shape[1:3]
    y0, y1, x0, x1 = blend.patch_at
    inner_edges = (y0 > 0, y1 < height, x0 > 0, x1 < width)
    y0, y1, x0, x1 = (
        end + CHROMA_REACH * is_inner * sign
        for end, is_inner, sign in zip(blend.patch_at, inner_edges, (1, -1, 1, -1), strict=True)
    )
    fake[:, y0:y1, x0:x1] = view(patch, relative_to((y0, y1, x0, x1), blend.patch_at))
    if draw.qp is not None:
        real, fake = (h264_round_trip(frames, draw.qp, "rgb24") for frames in (real, fake))
    return Members(real, fake, blend.mask_Thw)
