"""Slow, plain reference implementations of stf.data.blend, in numpy and scipy instead of cv2."""

import cv2
import numpy as np
from scipy.ndimage import correlate1d

from stf.data.blend import PLATEAU_TOLERANCE, SoftMaskDraw


def bilinear_resize(image_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes as cv2.INTER_LINEAR does: half-pixel centres, borders repeated."""
    old_height, old_width = image_HW.shape
    y = np.clip((np.arange(height) + 0.5) * old_height / height - 0.5, 0, old_height - 1)
    x = np.clip((np.arange(width) + 0.5) * old_width / width - 0.5, 0, old_width - 1)
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1, x1 = np.minimum(y0 + 1, old_height - 1), np.minimum(x0 + 1, old_width - 1)
    fy, fx = (y - y0)[:, None], (x - x0)[None]
    top = image_HW[y0][:, x0] * (1 - fx) + image_HW[y0][:, x1] * fx
    low = image_HW[y1][:, x0] * (1 - fx) + image_HW[y1][:, x1] * fx
    return top * (1 - fy) + low * fy


def gaussian(image_HW: np.ndarray, kernel: int, sigma: float) -> np.ndarray:
    """Applies a separable Gaussian blur, mirrored at the border."""
    weights = cv2.getGaussianKernel(kernel, sigma).ravel()
    return correlate1d(correlate1d(image_HW, weights, 0, mode="mirror"), weights, 1, mode="mirror")


def softened(cells_hw: np.ndarray, draw: SoftMaskDraw) -> np.ndarray:
    """SBI's softening on its grid of cells: blur, keep the maximum, blur, divide by the maximum."""
    soft = gaussian(cells_hw.astype(np.float64), draw.erode_kernel, 0)
    if soft.max() == 0:
        return np.zeros(cells_hw.shape)
    soft = soft / soft.max()
    soft = np.where(soft < 1 - PLATEAU_TOLERANCE, 0.0, 1.0)
    soft = gaussian(soft, draw.blur_kernel, draw.blur_sigma)
    return soft / soft.max()


def soft_mask(mask_HW: np.ndarray, draw: SoftMaskDraw) -> np.ndarray:
    """SBI's soft mask, step by step, in float64."""
    cells_hw = bilinear_resize(mask_HW.astype(np.float64), draw.height, draw.width)
    return bilinear_resize(softened(cells_hw, draw), *mask_HW.shape)


def mixed(source_HWC: np.ndarray, target_HWC: np.ndarray, soft_HW: np.ndarray) -> np.ndarray:
    """Blends two whole uint8 images, rounded."""
    weight = soft_HW.astype(np.float64)[..., None]
    return np.rint(weight * source_HWC + (1 - weight) * target_HWC).astype(np.uint8)


def hull_coverage(hull_N2: np.ndarray, height: int, width: int, fine: int = 16) -> np.ndarray:
    """Returns each pixel's share inside a convex polygon, counted on `fine` × `fine` points per pixel."""
    ticks_y = (np.arange(height * fine) + 0.5) / fine - 0.5
    ticks_x = (np.arange(width * fine) + 0.5) / fine - 0.5
    inside = np.ones((height * fine, width * fine), bool)
    area = 0.0
    edges = list(zip(hull_N2, np.roll(hull_N2, -1, 0), strict=True))
    for (ax, ay), (bx, by) in edges:
        area += ax * by - bx * ay
    for (ax, ay), (bx, by) in edges:
        side = (bx - ax) * (ticks_y[:, None] - ay) - (by - ay) * (ticks_x[None] - ax)
        inside &= side * np.sign(area) >= 0
    return inside.reshape(height, fine, width, fine).mean((1, 3))
