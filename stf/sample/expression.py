"""Facial expression as a displacement of the neutral face, and its inverse. Face units.

`lower` tells on which side of the line between the lips a point lies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stf.sample import portable
from stf.sample.canonical import eye_points, lip_line, neutral_landmarks
from stf.sample.identity import Shape

Values = NDArray[Any]
Shift = tuple[Values, Values]
UPPER_SHARE = 0.14  # the upper lip's share of the mouth's opening


@dataclass(frozen=True)
class Expression:
    """The expression in one frame. `jaw`: mouth opening; `smile`, `pucker` 0–1; `brow` −1–1; `lids` 1 open, 0 shut."""

    jaw: float
    smile: float
    pucker: float
    brow: float
    frown: float
    lids: float
    gaze_u: float
    gaze_v: float


def parting(shape: Shape, expression: Expression, u: Values) -> Values:
    """Returns the gap between the lips at each u of the neutral face (their inner half-width is .86 of the mouth's)."""
    x = np.clip(np.abs(u) / (0.88 * shape.mouth_half_width), 0, 1)
    return expression.jaw * np.sqrt(np.clip(1 - x * x, 0, 1)) * (1 - 0.15 * x)


def mouth_shift(shape: Shape, expression: Expression, u: Values, v: Values, lower: Any) -> Shift:
    """Returns the displacement (du, dv) of points (u, v) of the neutral face by jaw, smile and pucker."""
    e, line = expression, shape.mouth_v
    gap = parting(shape, e, u)
    near_low = portable.exp(np.minimum(line - v, 0) / 0.22)
    near_up = portable.exp(np.minimum(v - line, 0) / 0.14)
    chin = 0.62 * e.jaw * portable.exp(-((u / 0.62) ** 2)) * (1 - near_low)
    dv = np.where(lower, (1 - UPPER_SHARE) * gap * near_low + chin, -UPPER_SHARE * gap * near_up)
    corner = portable.exp(-(((np.abs(u) - shape.mouth_half_width) / 0.17) ** 2) - ((v - line) / 0.17) ** 2)
    around = portable.exp(-((u / 0.42) ** 2) - ((v - line) / 0.2) ** 2)
    du = 0.065 * e.smile * np.sign(u) * corner - 0.30 * e.pucker * u * around
    return du, dv - 0.055 * e.smile * corner


def brow_shift(shape: Shape, expression: Expression, u: Values, v: Values) -> Shift:
    """Returns the displacement (du, dv) of points (u, v) of the neutral face by raised and knitted brows."""
    beside = np.abs(u)
    brow = portable.exp(-(((beside - 0.45) / 0.34) ** 2) - ((v - shape.brow_v) / 0.15) ** 2)
    inner = portable.exp(-(((beside - 0.2) / 0.16) ** 2) - ((v - shape.brow_v) / 0.14) ** 2)
    dv = 0.045 * expression.frown * inner - 0.085 * expression.brow * brow
    return -0.035 * expression.frown * np.sign(u) * inner, dv


def _invert(shift: Callable[[Values, Values], Shift], u: Values, v: Values) -> Shift:
    """Inverts a displacement at (u, v) by three steps of fixed-point iteration; returns the neutral (u, v)."""
    nu, nv = u, v
    for _ in range(3):
        du, dv = shift(nu, nv)
        nu, nv = u - du, v - dv
    return nu, nv


@dataclass(frozen=True)
class Undone:
    """Each pixel's (u, v) in the neutral face, and its distances beyond the inner edges of the upper and lower lip.

    Inside the open mouth both distances are positive.
    """

    u: Values
    v: Values
    below_upper: Values
    above_lower: Values


def undo(shape: Shape, expression: Expression, u: Values, v: Values) -> Undone:
    """Maps points (u, v) of the moved face back to the neutral one; computes only the regions that can move."""
    nu, nv = u.copy(), v.copy()
    beyond = np.full((2, *u.shape), -1.0, u.dtype)
    face = np.abs(u) < 1.0
    brows = face & (np.abs(v - shape.brow_v) < 0.36)
    nu[brows], nv[brows] = _invert(lambda a, b: brow_shift(shape, expression, a, b), u[brows], v[brows])
    upper = face & (v > 0.2) & (v < shape.mouth_v + 0.3)
    up_u, up_v = _invert(lambda a, b: mouth_shift(shape, expression, a, b, np.False_), u[upper], v[upper])
    line = lip_line(shape, up_u)
    nu[upper], nv[upper], beyond[0][upper] = up_u, np.minimum(up_v, line), up_v - line
    lower = face & (v > shape.mouth_v - 0.12) & (v < 1.8)
    low_u, low_v = _invert(lambda a, b: mouth_shift(shape, expression, a, b, np.True_), u[lower], v[lower])
    line = lip_line(shape, low_u)
    own = low_v >= line
    nu[lower], nv[lower] = np.where(own, low_u, nu[lower]), np.where(own, low_v, nv[lower])
    beyond[1][lower] = line - low_v
    return Undone(nu, nv, beyond[0], beyond[1])


def moved_landmarks(shape: Shape, expression: Expression) -> NDArray[np.float64]:
    """Returns (81, 2) landmarks of the moved face, before the head's pose."""
    points = neutral_landmarks(shape).copy()
    points[36:48] = eye_points(shape, expression.lids)
    lower = np.zeros(81, bool)
    lower[[*range(17), 55, 56, 57, 58, 59, 65, 66, 67]] = True
    u, v = points.T
    shifts = mouth_shift(shape, expression, u, v, lower), brow_shift(shape, expression, u, v)
    return points + np.stack([shifts[0][k] + shifts[1][k] for k in (0, 1)], axis=1)
