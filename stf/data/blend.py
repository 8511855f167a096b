"""Hull masks, soft masks and the blend of a self-blended image (Shiohara & Yamasaki, CVPR 2022).

Written from the paper's description. Shape legend: T frames, H, W pixels, C = 3 channels, N landmarks.
Masks are float32 in [0, 1]; 1 selects the source, 0 the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.errors import DataError

Floats = NDArray[np.float32]
PixelT = TypeVar("PixelT", np.uint8, np.float32, np.float64)
BLEND_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
# A blurred plateau is 1 up to float32 rounding (a few 1e-7); an edge under the kernel's last tap costs 1e-3.
PLATEAU_TOLERANCE = 1e-5
MIN_PEAK = 1e-30  # avoids a division by 0 for an empty mask
# Sub-pixels per pixel and axis when a hull is drawn: its centroid then follows the landmarks within .015 px (.07 px
# without cv2.LINE_AA on top).
SUPERSAMPLE = 4
FIXED_POINT_BITS = 6  # of cv2.fillConvexPoly's coordinates


@dataclass(frozen=True)
class SoftMaskDraw:
    """How one clip's mask is softened: the size it is resized to, kernels and sigma, all in pixels."""

    height: int
    width: int
    erode_kernel: int
    blur_kernel: int
    blur_sigma: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> SoftMaskDraw:
        """Draws height and width in 192-256, two odd kernels in 5-25 and sigma in 5-45, all uniform."""
        height, width = (int(n) for n in rng.integers(192, 257, 2))
        erode, blur = (5 + 2 * int(n) for n in rng.integers(0, 11, 2))
        return cls(height, width, erode, blur, int(rng.integers(5, 46)))


@dataclass(frozen=True)
class BlendDraw:
    """How one clip is blended: the mask's softening and the share of the source inside it."""

    soft: SoftMaskDraw
    ratio: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> BlendDraw:
        """Draws the softening, and the ratio from .25 .5 .75 1 1 1."""
        return cls(SoftMaskDraw.sample(rng), BLEND_RATIOS[int(rng.integers(len(BLEND_RATIOS)))])


def hull_patch(
    landmarks_N2: NDArray[np.floating], height: int, width: int, use_68: bool
) -> tuple[Floats, tuple[int, int]]:
    """Returns the part of `hull_mask` around the hull, with a border of zeros, and the (x, y) of its corner."""
    points_N2 = np.asarray(landmarks_N2, np.float32)[: 68 if use_68 else None]
    if (
        points_N2.ndim != 2
        or points_N2.shape[1] != 2
        or not len(points_N2)
        or not np.isfinite(points_N2).all()
    ):
        raise DataError(
            f"a hull needs finite landmarks of shape (N, 2), got shape {points_N2.shape}; check the landmark file"
        )
    low = np.clip(np.floor(points_N2.min(0)).astype(int) - 1, 0, (width, height))
    high = np.clip(np.ceil(points_N2.max(0)).astype(int) + 2, 0, (width, height))
    (x0, y0), (x1, y1) = low.tolist(), high.tolist()
    if x1 <= x0 or y1 <= y0:
        return np.zeros((1, 1), np.float32), (0, 0)
    # cv2.convexHull takes float32 but not float64, fillConvexPoly only integers: hence the fixed point.
    hull_N2 = cv2.convexHull(points_N2).reshape(-1, 2)
    fine_N2 = (hull_N2 - (x0, y0) + 0.5) * SUPERSAMPLE - 0.5
    fixed_N2 = np.rint(fine_N2 * 2**FIXED_POINT_BITS).astype(np.int32)
    fine = np.zeros(((y1 - y0) * SUPERSAMPLE, (x1 - x0) * SUPERSAMPLE), np.uint8)
    cv2.fillConvexPoly(fine, fixed_N2, 255, cv2.LINE_AA, FIXED_POINT_BITS)
    coarse = cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return np.asarray(coarse / np.float32(255), np.float32), (x0, y0)


def hull_mask(landmarks_N2: NDArray[np.floating], height: int, width: int, use_68: bool) -> Floats:
    """Draws the convex hull of the landmarks (all, or the first 68), anti-aliased: float32 (H, W) in [0, 1].

    `landmarks_N2` are (x, y) pixels of any numeric type, with pixel centres at whole numbers; fractions count.
    Raises DataError for points that are not finite or not of shape (N, 2).
    """
    patch_hw, (x0, y0) = hull_patch(landmarks_N2, height, width, use_68)
    mask_HW = np.zeros((height, width), np.float32)
    mask_HW[y0 : y0 + patch_hw.shape[0], x0 : x0 + patch_hw.shape[1]] = patch_hw
    return mask_HW


def erode(mask_hw: Floats, draw: SoftMaskDraw) -> NDArray[np.uint8]:
    """Returns 1 where the blurred mask reaches its maximum, else 0; an empty mask stays empty."""
    soft_hw = cv2.GaussianBlur(mask_hw, (draw.erode_kernel, draw.erode_kernel), 0)
    threshold = max(float(soft_hw.max()), MIN_PEAK) * (1 - PLATEAU_TOLERANCE)
    return (soft_hw >= threshold).view(np.uint8)


def blur(mask_hw: NDArray[np.uint8], draw: SoftMaskDraw) -> tuple[Floats, float]:
    """Applies the softening's last blur; also returns its maximum, below 1 for a mask smaller than the kernel."""
    size = (draw.blur_kernel, draw.blur_kernel)
    soft_hw = np.asarray(cv2.GaussianBlur(mask_hw.astype(np.float32), size, draw.blur_sigma), np.float32)
    return soft_hw, max(float(soft_hw.max()), MIN_PEAK)


def soften(mask_HW: NDArray[np.generic], draw: SoftMaskDraw) -> Floats:
    """Returns the soft mask, float32 (H, W) in [0, 1]: resized, eroded (blur, threshold), blurred, resized back.

    `mask_HW` may have any dtype and scale. An empty mask stays empty; the result of any other has a maximum above 0.
    """
    height, width = mask_HW.shape
    sharp = np.asarray(cv2.resize(np.asarray(mask_HW, np.float32), (draw.width, draw.height)), np.float32)
    soft, peak = blur(erode(sharp, draw), draw)
    return np.asarray(cv2.resize(soft / np.float32(peak), (width, height)), np.float32).clip(0, 1)


def mix(source: NDArray[PixelT], target: NDArray[PixelT], soft_HW: Floats) -> NDArray[PixelT]:
    """Returns mask · source + (1 - mask) · target, (H, W, C) in target's dtype; where the mask is 0, target unchanged.

    SBI truncates to uint8, which darkens the inside of every mask by half a grey level. No real forgery has this
    artefact, so values are rounded here.
    """
    out = target.copy()
    x0, y0, width, height = cv2.boundingRect((soft_HW > 0).view(np.uint8))
    if width == 0:
        return out
    box = (slice(y0, y0 + height), slice(x0, x0 + width))
    old = target[box].astype(np.float32)
    mixed = old + soft_HW[box][..., None] * (source[box].astype(np.float32) - old)
    out[box] = np.rint(mixed).clip(0, 255).astype(target.dtype) if target.dtype == np.uint8 else mixed
    return out


def mix_into(
    target_HWC: NDArray[np.uint8], source_HWC: NDArray[np.uint8], mask_HW: NDArray[np.uint8]
) -> None:
    """Does `mix` in place in integer arithmetic, with the mask in 1/255: the same grey levels except for ties."""
    mask_HWC = cv2.merge([mask_HW] * target_HWC.shape[2]).astype(np.int16)
    change_HWC = cv2.subtract(source_HWC, target_HWC, dtype=cv2.CV_16S)
    cv2.add(target_HWC, cv2.multiply(change_HWC, mask_HWC, scale=1 / 255), dst=target_HWC, dtype=cv2.CV_8U)


def get_blend_mask(
    mask: NDArray[np.generic], draw: SoftMaskDraw | None = None, rng: np.random.Generator | None = None
) -> Floats:
    """SBI's function: the soft mask (H, W, 1) of a mask (H, W) or (H, W, 1), with `draw` or a new draw."""
    draw = draw or SoftMaskDraw.sample(rng or np.random.default_rng())
    return soften(mask.reshape(mask.shape[:2]), draw)[..., None]


def alpha_blend(
    source: NDArray[PixelT],
    target: NDArray[PixelT],
    mask: NDArray[np.generic],
    ratio: float = 1.0,
    draw: SoftMaskDraw | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[NDArray[PixelT], Floats]:
    """Blends one image at a given ratio; returns (blended in target's dtype, soft mask · ratio (H, W, 1))."""
    soft_HW1 = get_blend_mask(mask, draw, rng) * np.float32(ratio)
    return mix(source, target, soft_HW1[..., 0]), soft_HW1


def dynamic_blend(
    source: NDArray[PixelT],
    target: NDArray[PixelT],
    mask: NDArray[np.generic],
    draw: BlendDraw | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[NDArray[PixelT], Floats]:
    """Blends one image at a drawn ratio; returns (blended in target's dtype, soft mask · ratio (H, W, 1))."""
    draw = draw or BlendDraw.sample(rng or np.random.default_rng())
    return alpha_blend(source, target, mask, draw.ratio, draw.soft)
