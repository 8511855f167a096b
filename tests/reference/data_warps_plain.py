"""Slow, plain references of drift, affine, elastic and TPS: scipy's interpolation at every pixel of every frame."""

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates

from stf.data.augment.tps import TPSDraw, control_points
from stf.data.augment.warps import AffineDraw


def sampled(image_HW: np.ndarray, x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
    """Samples bilinearly; 0 outside the image."""
    return map_coordinates(image_HW.astype(np.float64), [y_HW, x_HW], order=1, mode="grid-constant", cval=0)


def warp_image(image_HW: np.ndarray, field_HW2: np.ndarray) -> np.ndarray:
    """Samples the image at each pixel's position plus its displacement."""
    y_HW, x_HW = np.indices(image_HW.shape, float)
    return sampled(image_HW, x_HW + field_HW2[..., 0], y_HW + field_HW2[..., 1])


def shifted(image_HW: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Moves the image by (dx, dy)."""
    return warp_image(image_HW, np.broadcast_to((-dx, -dy), (*image_HW.shape, 2)))


def affine(image_HW: np.ndarray, draw: AffineDraw) -> np.ndarray:
    """Scales about the centre, then translates."""
    height, width = image_HW.shape
    y_HW, x_HW = np.indices(image_HW.shape, float)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x_old = (x_HW - draw.translate_x * width - centre_x) / draw.scale_x + centre_x
    y_old = (y_HW - draw.translate_y * height - centre_y) / draw.scale_y + centre_y
    return sampled(image_HW, x_old, y_old)


def elastic_field(
    rng: np.random.Generator, height: int, width: int, alpha: float, sigma: float
) -> np.ndarray:
    """Draws Simard's displacement field at full size, as in albumentations 1: (H, W, 2) px."""
    noise = rng.uniform(-1, 1, (height, width, 2))
    return gaussian_filter(noise, (sigma, sigma, 0)) * alpha


def tps_fields(draw: TPSDraw, height: int, width: int) -> np.ndarray:
    """Returns (T, H, W, 2) px: one spline solved per frame and evaluated at every pixel."""
    y, x = (np.indices((height, width)).reshape(2, -1) + 0.5) / np.array([[height], [width]])
    positions = np.stack([x, y], -1)
    splines = [
        RBFInterpolator(control_points(), displacement_P2, kernel="thin_plate_spline")(positions)
        for displacement_P2 in draw.displacements_TP2
    ]
    return np.stack(splines).reshape(len(splines), height, width, 2)
