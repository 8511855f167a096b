"""The 81 landmarks of a neutral, frontal face and the outlines of its features, in face units (u right, v down).

Order: jaw 0–16, brows 17–26, nose 27–35, eyes 36–47, mouth 48–67, then 13 forehead points along the hairline
from the left; `stored_order` reorders those 13 as the 81-point detector does in its files.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from stf.sample import portable
from stf.sample.identity import Shape

Points = NDArray[np.float64]

# Half of the jaw line, ear to chin: (u, share of the way from the ear's height to the chin).
_JAW = np.array(
    [
        [1.0, 0.0],
        [0.99, 0.18],
        [0.96, 0.37],
        [0.90, 0.55],
        [0.79, 0.71],
        [0.64, 0.845],
        [0.45, 0.935],
        [0.23, 0.985],
    ]
)
EAR_V = -0.22


def _mirrored(half_N2: Points) -> Points:
    """Mirrors the points to the left side (u negated)."""
    return half_N2 * (-1, 1)


def _jaw(shape: Shape) -> Points:
    half = np.array(_JAW)
    half[:, 0] += shape.jaw * portable.sin(np.pi * half[:, 1])
    half[:, 1] = EAR_V + half[:, 1] * (shape.chin_v - EAR_V)
    return np.concatenate([_mirrored(half), [[0.0, shape.chin_v]], half[::-1]])


def _brow(shape: Shape) -> Points:
    """The right-hand brow in the image, from the nose outwards (5 points)."""
    s = np.linspace(0, 1, 5)
    v = (
        shape.brow_v
        + 0.05
        - 4 * shape.brow_arch * s * (1 - s) * (0.7 + 0.6 * s)
        - shape.brow_tilt * (2 * s - 1)
    )
    return np.stack([0.19 + 0.61 * s, v], axis=1)


def lid_heights(shape: Shape, x_N: NDArray[np.floating], openness: float) -> tuple[NDArray, NDArray]:
    """Returns v of the upper and lower lid relative to the eye's centre; x in [-1, 1], from the nose outwards."""
    arch = np.clip(1 - portable.power(np.abs(x_N), 2.2), 0, 1)
    lower = 0.72 * shape.eye_half_height * np.clip(1 - x_N**2, 0, 1) - shape.eye_tilt * x_N
    upper = -1.28 * shape.eye_half_height * arch - shape.eye_tilt * x_N
    shut = 0.97 * lower + 0.03 * upper
    return shut + (upper - shut) * openness, lower


def eye_points(shape: Shape, openness: float) -> Points:
    """Returns (12, 2), points 36–47: the left-hand eye from its outer corner, clockwise, then the right-hand one."""
    x = np.array([-1.0, -0.38, 0.38, 1.0])
    upper, lower = lid_heights(shape, x, openness)
    v = np.concatenate([upper, lower[[2, 1]]])
    u = np.concatenate([x, x[[2, 1]]]) * shape.eye_half_width
    right = np.stack([shape.eye_u + u, shape.eye_v + v], axis=1)  # from its inner corner, clockwise
    return np.concatenate([_mirrored(right)[[3, 2, 1, 0, 5, 4]], right])


def _nose(shape: Shape) -> Points:
    bridge = np.stack([np.zeros(4), np.linspace(shape.eye_v, shape.nose_v - 0.10, 4)], axis=1)
    u = shape.nose_half_width * np.array([-0.95, -0.48, 0, 0.48, 0.95])
    v = shape.nose_v + np.array([0.0, 0.035, 0.05, 0.035, 0.0])
    return np.concatenate([bridge, np.stack([u, v], axis=1)])


def lip_line(shape: Shape, u: NDArray[np.floating]) -> NDArray:
    """Returns v of the line between the closed lips at each u."""
    x = np.clip(np.abs(u) / shape.mouth_half_width, 0, 1)
    return shape.mouth_v + 0.012 * portable.cos(np.pi * x) - 0.008


def lip_profiles(shape: Shape, u: NDArray[np.floating]) -> tuple[NDArray, NDArray, NDArray]:
    """Returns v of the lips' upper edge, of the line between them and of their lower edge, at each u."""
    x, line = np.clip(np.abs(u) / shape.mouth_half_width, 0, 1), lip_line(shape, u)
    bow = 1 - portable.power(x, 1.7) - 0.17 * portable.exp(-((x / 0.16) ** 2))
    return (
        line - shape.upper_lip * bow,
        line,
        line + shape.lower_lip * np.clip(1 - portable.power(x, 2.4), 0, 1),
    )


def _mouth(shape: Shape) -> Points:
    """Outer lip 48–59 and inner lip 60–67, both clockwise from the left corner; inner points sit on the line."""
    u_top = shape.mouth_half_width * np.array([-1, -0.62, -0.24, 0, 0.24, 0.62, 1])
    u_low = shape.mouth_half_width * np.array([0.66, 0.3, 0, -0.3, -0.66])
    u_in = shape.mouth_half_width * np.array([-0.86, -0.36, 0, 0.36, 0.86, 0.36, 0, -0.36])
    top, low, line = (
        lip_profiles(shape, u_top)[0],
        lip_profiles(shape, u_low)[2],
        lip_line(shape, u_in),
    )
    u = np.concatenate([u_top, u_low, u_in])
    return np.stack([u, np.concatenate([top, low, line])], axis=1)


def _forehead(shape: Shape) -> Points:
    angle = np.linspace(np.pi * 0.93, np.pi * 0.07, 13)
    top = shape.hairline_v + 0.06
    return np.stack([0.96 * portable.cos(angle), -0.42 + (top + 0.42) * portable.sin(angle)], axis=1)


@functools.lru_cache(maxsize=8)  # all frames of a video need the same person's
def neutral_landmarks(shape: Shape) -> Points:
    """Returns (81, 2) landmarks with open eyes and closed mouth, forehead along the hairline; read-only."""
    brow = _brow(shape)
    parts = [_jaw(shape), _mirrored(brow)[::-1], brow, _nose(shape), eye_points(shape, 1.0), _mouth(shape)]
    points = np.concatenate([*parts, _forehead(shape)])
    points.flags.writeable = False
    return points
