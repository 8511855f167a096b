"""Filters and warps of pictures that give the same bits on every CPU. H, W pixels.

OpenCV's float32 filters round differently on CPUs with fused multiply-add, and the IPP library inside it has a version
for each instruction set. Here pictures and weights are rounded to grids so coarse that float64 represents every product
and sum exactly; then neither order nor fusing matters. Where OpenCV's weights are not on a grid, NumPy multiplies and
adds tap by tap.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.sample import portable

Picture = NDArray[Any]
_STEP = 2.0**-18  # of values: below 512 a blurred sum has 9 + 18 + 2 * 13 = 53 bits, the precision of float64
_WEIGHT_STEP = 2.0**-13


def on_grid(picture: Picture) -> NDArray[np.float64]:
    """Rounds to multiples of 2**-18, for OpenCV's blurs and bilinear look-ups (whose weights are on a 2**-10 grid)."""
    return np.rint(np.asarray(picture, np.float64) / _STEP) * _STEP


@functools.lru_cache(maxsize=256)
def _gaussian(sigma: float) -> NDArray[np.float64]:
    """Returns OpenCV's Gaussian kernel, four sigmas to each side, with weights rounded to a grid and a sum of 1."""
    if sigma == 0:
        return np.ones(1)
    radius = (round(sigma * 8 + 1) | 1) // 2
    weights = portable.exp(-((np.arange(-radius, radius + 1) / sigma) ** 2) / 2)
    steps = np.rint(weights / weights.sum() / _WEIGHT_STEP)
    steps[radius] += 1 / _WEIGHT_STEP - steps.sum()
    return steps * _WEIGHT_STEP


def gaussian_blur(picture: Picture, sigma_x: float, sigma_y: float | None = None) -> NDArray[np.float32]:
    """Applies a Gaussian blur of `sigma_x` pixels, in both directions unless `sigma_y` is given; values below 512."""
    across, down = _gaussian(sigma_x), _gaussian(sigma_x if sigma_y is None else sigma_y)
    blurred = cv2.sepFilter2D(on_grid(picture), cv2.CV_64F, across, down)
    return np.asarray(blurred, np.float32).reshape(picture.shape)


def _cubic_weights(t: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Returns OpenCV's cubic weights (A = -0.75) of the pixels at -1, 0, 1 and 2 for a point at t in [0, 1)."""

    def near(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return (1.25 * x - 2.25) * x * x + 1

    def far(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((-0.75 * x + 3.75) * x - 6) * x + 3

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def enlarge(picture: Picture, height: int, width: int) -> NDArray[np.float32]:
    """Enlarges the picture by cubic interpolation."""
    for axis, size in enumerate((height, width)):
        n = picture.shape[axis]
        at = (np.arange(size) + 0.5) * (n / size) - 0.5
        low = np.floor(at).astype(np.int64)
        column = (-1,) + (1,) * (picture.ndim - 1 - axis)
        taps = [
            weight.reshape(column) * picture.take(np.clip(low + k, 0, n - 1), axis)
            for k, weight in zip(range(-1, 3), _cubic_weights((at - low).astype(np.float32)), strict=True)
        ]
        picture = ((taps[0] + taps[1]) + taps[2]) + taps[3]
    return picture


def cubic_lookup(
    frame: NDArray[np.uint8], x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Samples the frame (H, W, C) at points (x, y) by cubic interpolation, rounded to whole grey levels."""
    height, width, channels = frame.shape
    pixels = frame.reshape(-1, channels).astype(np.float32)
    left, top = np.floor(x), np.floor(y)
    across, down = _cubic_weights(x - left), _cubic_weights(y - top)
    columns = [np.clip(left.astype(np.int64) + k, 0, width - 1) for k in range(-1, 3)]
    total = np.zeros((*x.shape, channels), np.float32)
    for k, weight_y in zip(range(-1, 3), down, strict=True):
        row = np.clip(top.astype(np.int64) + k, 0, height - 1) * width
        line = np.zeros_like(total)
        for column, weight_x in zip(columns, across, strict=True):
            line += weight_x[..., None] * pixels.take(row + column, axis=0)
        total += weight_y[..., None] * line
    return np.clip(np.rint(total), 0, 255)


def distance_inside(inside: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the distance in pixels from each 1 to the nearest 0."""
    approximate = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.sqrt(np.rint(approximate * approximate))  # the exact squared distance is a whole number
