"""The head as a height field in face units, its normals, shadows and ambient occlusion.

The texture plane: u in [U0, -U0], v in [V0, V1], TEXELS per unit; arrays are (HT, WT). w points to the viewer.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.sample import exact, portable
from stf.sample.canonical import EAR_V, neutral_landmarks
from stf.sample.identity import Shape

Plane = NDArray[np.floating[Any]]
Visibility = NDArray[np.floating[Any]]  # (.., .., 2): visible shares of the key light and of the sky

TEXELS = 84
U0, V0, V1 = -1.7, -1.95, 1.95
WIDTH = round(-2 * U0 * TEXELS)
HEIGHT = round((V1 - V0) * TEXELS)


def plane_coordinates() -> tuple[Plane, Plane]:
    """Returns u (1, WT) and v (HT, 1) of the texel centres."""
    u = (U0 + (np.arange(WIDTH, dtype=np.float32) + 0.5) / TEXELS)[None]
    v = (V0 + (np.arange(HEIGHT, dtype=np.float32) + 0.5) / TEXELS)[:, None]
    return u, v


def to_texel(points_N2: NDArray[np.floating]) -> NDArray[np.float64]:
    """Converts points in face units to texel coordinates (x, y) for cv2.remap."""
    return (np.asarray(points_N2, np.float64) - (U0, V0)) * TEXELS - 0.5


def polygon(points_N2: NDArray[np.floating], blur_texels: float) -> Plane:
    """Draws a filled polygon in [0, 1] with sub-texel corners and a soft edge."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(mask, [np.round(to_texel(points_N2) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return blur(mask.astype(np.float32) / 255, blur_texels)


def blur(plane: NDArray[Any], sigma: float) -> Plane:
    """Applies a Gaussian blur of `sigma` pixels; returns float32."""
    if plane.dtype == np.uint8:  # exact in OpenCV, rounded to whole grey levels
        return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)
    return exact.gaussian_blur(plane, sigma)


def bump(centre: tuple[float, float], sigma: tuple[float, float], mirrored: bool = False) -> Plane:
    """Draws a Gaussian of height 1; `mirrored` adds one at -u."""
    u, v = plane_coordinates()
    side = portable.exp(-(((u - centre[0]) / sigma[0]) ** 2) / 2)
    if mirrored:
        side = side + portable.exp(-(((u + centre[0]) / sigma[0]) ** 2) / 2)
    return (side * portable.exp(-(((v - centre[1]) / sigma[1]) ** 2) / 2)).astype(np.float32)


def head_outline(shape: Shape) -> NDArray[np.float64]:
    """Returns the outline (N, 2) of skull and jaw, without ears."""
    jaw = neutral_landmarks(shape)[:17] * (1.035, 1.0) + (0, 0.012)
    angle = np.linspace(0, np.pi, 40)
    skull = np.stack(
        [1.04 * portable.cos(angle), EAR_V - 1.28 * portable.power(portable.sin(angle), 0.85)], axis=1
    )
    dense = np.linspace(0, 16, 81)
    smooth_jaw = np.stack([np.interp(dense, np.arange(17), jaw[:, k]) for k in (0, 1)], axis=1)
    kernel = np.array([1, 2, 3, 2, 1]) / 9
    for k in (0, 1):
        smooth_jaw[2:-2, k] = portable.convolve(smooth_jaw[:, k], kernel)
    return np.concatenate([smooth_jaw, skull])


def _half_widths(shape: Shape) -> Plane:
    """Returns (HT, 1), the head's half-width at each v, slightly widened so that the relief extends past the edge."""
    _, v = plane_coordinates()
    jaw = neutral_landmarks(shape)[8:17][::-1] * (1.19, 1.06)
    lower = np.interp(v[:, 0], jaw[:, 1], jaw[:, 0])
    upper = 1.23 * np.sqrt(np.clip(1 - ((v[:, 0] - EAR_V) / 1.5) ** 2, 0.01, 1))
    widths = np.where(v[:, 0] < EAR_V, upper, lower)
    return exact.gaussian_blur(np.maximum(widths, 0.5)[:, None], 0, 6)


def _nose(shape: Shape) -> Plane:
    u, v = plane_coordinates()
    top, tip = shape.eye_v - 0.05, shape.nose_v - 0.08
    along = np.clip((v - top) / (tip - top), 0, 1)
    under = 1 / (1 + portable.exp((v - tip - 0.105) / 0.03))
    sigma = 0.085 + 0.06 * along**2
    ridge = (0.28 + 0.72 * portable.power(along, 1.3)) * portable.exp(-((u / sigma) ** 2) / 2) * under
    ridge = ridge * np.clip((v - top + 0.2) / 0.25, 0, 1)
    wings = bump((shape.nose_half_width * 0.78, shape.nose_v - 0.02), (0.055, 0.065), True)
    ball = bump((0, tip), (0.10, 0.10))
    return (shape.nose_height * (0.85 * ridge + 0.30 * ball) + 0.12 * wings).astype(np.float32)


def _features(shape: Shape, age: float) -> Plane:
    s = shape
    z = 0.055 * bump((0.45, s.brow_v + 0.03), (0.26, 0.08), True)
    z -= 0.15 * bump((s.eye_u - 0.03, s.eye_v - 0.02), (0.22, 0.12), True)
    z += 0.085 * bump((s.eye_u, s.eye_v), (0.14, 0.085), True)
    z += 0.075 * bump((0.60, 0.10), (0.20, 0.18), True)
    z -= 0.045 * bump((0.62, 0.62), (0.16, 0.2), True)
    z += 0.06 * bump((0, s.mouth_v), (0.34, 0.18))
    z += 0.03 * bump((0, s.mouth_v - 0.55 * s.upper_lip), (0.22, 0.032))
    z += 0.042 * bump((0, s.mouth_v + 0.55 * s.lower_lip), (0.2, 0.042))
    z -= 0.016 * bump((0, s.mouth_v), (0.28, 0.018))
    z -= 0.05 * bump((0, s.mouth_v + s.lower_lip + 0.07), (0.2, 0.045))
    z += 0.09 * bump((0, s.chin_v - 0.17), (0.19, 0.12))
    z -= 0.02 * bump((0, (s.nose_v + s.mouth_v) / 2), (0.03, 0.07))
    return z - 0.02 * age * fold_lines(s)


def fold_lines(shape: Shape) -> Plane:
    """Draws the soft folds from the nostrils to the mouth's corners, in [0, 1]."""
    start = np.array([shape.nose_half_width + 0.04, shape.nose_v - 0.03])
    end = np.array([shape.mouth_half_width + 0.10, shape.mouth_v + 0.05])
    plane = np.zeros((HEIGHT, WIDTH), np.uint8)
    s = np.linspace(0, 1, 12)[:, None]
    curve = start + (end - start) * s + np.array([0.055, 0]) * portable.sin(np.pi * s)
    for points in (curve, curve * (-1, 1)):
        path = np.round(to_texel(points) * 16).astype(np.int32)
        cv2.polylines(plane, [path], False, 255, 3, cv2.LINE_AA, 4)
    return np.minimum(1, 2.2 * blur(plane, 2.2) / 255)


def relief(shape: Shape, age: float) -> tuple[Plane, Plane]:
    """Returns (w for shading, w for projection); the second is smoother, so that the projection can be inverted."""
    u, v = plane_coordinates()
    across = np.clip(1 - (u / _half_widths(shape)) ** 2, 0.0, 1)
    along = np.sqrt(np.clip(1 - ((v - 0.05) / 1.95) ** 2, 0.05, 1))
    base = 1.05 * np.sqrt(across + 0.02) * along
    features = _features(shape, age) + _nose(shape)
    shading = blur(base.astype(np.float32), 5) + features
    flat = 0.8 * (1 - (u / 1.35) ** 2) * along
    projection = blur((flat + features).astype(np.float32), 4)
    return shading.astype(np.float32), projection


def normals(surface: Plane) -> NDArray[np.float32]:
    """Returns the unit normals (u, v, w) of w = surface(u, v), (HT, WT, 3)."""
    dv, du = np.gradient(surface, 1.0 / TEXELS)
    n = np.stack([-du, -dv, np.ones_like(surface)], axis=-1)
    return (n / np.linalg.norm(n, axis=-1, keepdims=True)).astype(np.float32)


def cast_shadow(surface: Plane, light_3: NDArray[np.floating]) -> Plane:
    """Returns the share of the light that reaches each texel, 0–1, by steps along the direction to the light."""
    lit, heights = np.ones_like(surface), exact.on_grid(surface)
    across = np.array(light_3[:2], np.float64)
    length = max(1e-6, float(np.sqrt((across * across).sum())))
    for step in (0.04, 0.08, 0.13, 0.19, 0.27, 0.36):
        shift = across / length * step * TEXELS
        matrix = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float64)
        size = (surface.shape[1], surface.shape[0])
        seen = cv2.warpAffine(heights, matrix, size, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        rise = step * light_3[2] / length
        lit = np.minimum(lit, 1 - np.clip((seen - surface - rise) / (0.25 * step + 0.02), 0, 1))
    return blur(lit.astype(np.float32), 3.0)


def ambient(surface: Plane) -> Plane:
    """Returns ambient occlusion in [0.42, 1.08]: lower where the surface lies below its neighbourhood."""
    hollow = blur(surface, 9) - surface
    fine = blur(surface, 3) - surface
    return np.clip(1 - 2.6 * np.maximum(hollow, -0.02) - 3 * np.maximum(fine, -0.01), 0.42, 1.08)
