"""Untrained scalars of a clip's background: cues that a detector could use instead of the forgery.

T frames, H, W pixels, C = 3 RGB channels. The face and its surroundings are filled with one grey before measuring, so
a probe depends only on pixels that must not differ between a real clip and its fake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import pywt
from numpy.typing import NDArray

from stf.data.augment.codec import h264_bits

MARGIN_px = 32
GREY = 128
MIN_BACKGROUND = 0.05  # minimum share of background pixels
BITRATE_QP = 28
BLOCK_px = 8
WAVELET = "sym2"
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Background:
    """A clip whose face region is grey: frames_THWC uint8, luma_THW float32, outside_HW True where it is not grey."""

    frames_THWC: Frames
    luma_THW: NDArray[np.float32]
    outside_HW: Mask

    @cached_property
    def colours_TC(self) -> NDArray[np.float64]:
        """Mean colour of each frame's background: the whole frame's sum (exact in float64) minus that of the grey."""
        n_grey, n = np.count_nonzero(~self.outside_HW), np.count_nonzero(self.outside_HW)
        sums_TC = np.array([cv2.sumElems(frame)[:3] for frame in self.frames_THWC])
        return (sums_TC - GREY * n_grey) / n

    @cached_property
    def laplacian_T(self) -> NDArray[np.float64]:
        """Mean |Laplacian| of each frame's background, in grey levels."""
        return _filtered(self, _LAPLACIAN)


def background_of(region_HW: Mask) -> Mask:
    """Returns a mask, True where a pixel is more than 32 px (Euclidean) away from the region."""
    if not region_HW.any():
        return np.ones_like(region_HW)
    distance_px = cv2.distanceTransform((~region_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance_px) > MARGIN_px


def fill_grey(frames_THWC: Frames, outside_HW: Mask) -> Background:
    """Fills everything but the background with one grey value."""
    # Bitwise: a boolean index over T frames takes four times as long.
    keep_HW3 = np.repeat(np.where(outside_HW, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    grey_HW3 = np.where(keep_HW3 > 0, 0, GREY).astype(np.uint8)
    filled = np.asarray(frames_THWC & keep_HW3 | grey_HW3, np.uint8)
    luma = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in filled])
    return Background(filled, luma.astype(np.float32), outside_HW)


def _filtered(clip: Background, kernel: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns (T,), the mean magnitude of a high-pass filter over each frame's background."""
    responses = (cv2.filter2D(luma, cv2.CV_32F, kernel)[clip.outside_HW] for luma in clip.luma_THW)
    return np.array([np.abs(response).mean(dtype=np.float64) for response in responses])


_LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)


def sharpness(clip: Background) -> float:
    """Mean |Laplacian| in grey levels."""
    return float(clip.laplacian_T.mean())


def sharpness_change(clip: Background) -> float:
    """Standard deviation over time of each frame's mean |Laplacian|."""
    return float(clip.laplacian_T.std())


def colour_red(clip: Background) -> float:
    """Mean red, 0–255."""
    return float(clip.colours_TC[:, 0].mean())


def colour_green(clip: Background) -> float:
    """Mean green, 0–255."""
    return float(clip.colours_TC[:, 1].mean())


def colour_blue(clip: Background) -> float:
    """Mean blue, 0–255."""
    return float(clip.colours_TC[:, 2].mean())


def colour_flicker(clip: Background) -> float:
    """Standard deviation over time of the mean colour, averaged over the channels."""
    return float(clip.colours_TC.std(0).mean())


def noise_level(clip: Background) -> float:
    """Immerkær's estimate (1996) of the noise's standard deviation, in grey levels."""
    return float(_filtered(clip, _NOISE_KERNEL).mean() * np.sqrt(np.pi / 2) / 6)


def hll_energy(clip: Background) -> float:
    """Mean square of the luma's HLL band (temporal high, spatial low), without the wrapped end coefficients."""
    T, H, W = (size - size % 2 for size in clip.luma_THW.shape)
    band = pywt.dwt(clip.luma_THW[:T, :H, :W], WAVELET, mode="periodization", axis=0)[1][1:-1]
    for axis in (1, 2):
        band = pywt.dwt(band, WAVELET, mode="periodization", axis=axis)[0]
    return float(np.square(band, dtype=np.float64).mean())


def blockiness(clip: Background) -> float:
    """Mean step across the codec's 8 px grid minus the mean step elsewhere, in grey levels, rows and columns."""
    excess = []
    for axis in (1, 2):
        step = np.abs(np.diff(clip.luma_THW, axis=axis)).mean(0)
        both_outside = np.logical_and(*_neighbours(clip.outside_HW, axis - 1))
        is_edge = np.arange(1, step.shape[axis - 1] + 1) % BLOCK_px == 0
        on_grid = both_outside & (is_edge[:, None] if axis == 1 else is_edge[None])
        off_grid = both_outside & ~on_grid
        if on_grid.any() and off_grid.any():
            excess.append(step[on_grid].mean(dtype=np.float64) - step[off_grid].mean(dtype=np.float64))
    return float(np.mean(excess)) if excess else 0.0


def _neighbours(mask_HW: Mask, axis: int) -> tuple[Mask, Mask]:
    size = mask_HW.shape[axis]
    return mask_HW.take(range(size - 1), axis), mask_HW.take(range(1, size), axis)


def bitrate(clip: Background) -> float:
    """Bits per pixel of the grey-filled clip re-encoded with H.264 at QP 28."""
    return h264_bits(clip.frames_THWC, BITRATE_QP) / clip.luma_THW.size


PROBES: dict[str, Callable[[Background], float]] = {
    "sharpness": sharpness,
    "sharpness change": sharpness_change,
    "colour mean, red": colour_red,
    "colour mean, green": colour_green,
    "colour mean, blue": colour_blue,
    "colour flicker": colour_flicker,
    "noise level": noise_level,
    "HLL energy": hll_energy,
    "blockiness": blockiness,
    "bitrate": bitrate,
}


def measure(frames_THWC: Frames, outside_HW: Mask) -> tuple[float, ...]:
    """Computes all probes of one clip, in the order of PROBES."""
    background = fill_grey(frames_THWC, outside_HW)
    return tuple(probe(background) for probe in PROBES.values())
