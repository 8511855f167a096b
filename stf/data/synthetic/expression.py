"""How a face moves: expression as a displacement of the neutral face, and its inverse. Face units.

`lower` says which side of the closed lips a point belongs to: the lips part there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stf.data.synthetic.canonical import eye_points, lip_profiles, neutral_landmarks
from stf.data.synthetic.identity import Shape

Values = NDArray[np.floating]
UPPER_SHARE = 0.14  # of the opening that the upper lip takes


@dataclass(frozen=True)
class Expression:
    """One moment. `jaw`: opening of the mouth; `smile` and `pucker` 0–1; `brow` −1–1; `lids` 1 open, 0 shut."""

    jaw: float
    smile: float
    pucker: float
    brow: float
    frown: float
    lids: float
    gaze_u: float
    gaze_v: float


def parting(shape: Shape, expression: Expression, u: Values) -> Values:
    """How wide the lips stand apart at each u of the neutral face (their inner half-width is .86 of the mouth's)."""
    x = np.clip(np.abs(u) / (0.88 * shape.mouth_half_width), 0, 1)
    return expression.jaw * np.sqrt(np.clip(1 - x * x, 0, 1)) * (1 - 0.15 * x)


def displacement(
    shape: Shape, expression: Expression, u: Values, v: Values, lower: Values
) -> tuple[Values, Values]:
    """(du, dv) of points (u, v) of the neutral face."""
    e = expression
    line = shape.mouth_v
    gap = parting(shape, e, u)
    near_low = np.exp(-np.clip(v - line, 0, None) / 0.22)
    near_up = np.exp(-np.clip(line - v, 0, None) / 0.14)
    chin = 0.62 * e.jaw * np.exp(-((u / 0.62) ** 2)) * (1 - near_low)
    dv = np.where(lower, (1 - UPPER_SHARE) * gap * near_low + chin, -UPPER_SHARE * gap * near_up)
    corner = np.exp(-(((np.abs(u) - shape.mouth_half_width) / 0.17) ** 2) - ((v - line) / 0.17) ** 2)
    du = 0.065 * e.smile * np.sign(u) * corner
    dv = dv - 0.055 * e.smile * corner
    around = np.exp(-((u / 0.42) ** 2) - ((v - line) / 0.2) ** 2)
    du = du - 0.30 * e.pucker * u * around
    brow = np.exp(-(((np.abs(u) - 0.45) / 0.34) ** 2) - ((v - shape.brow_v) / 0.15) ** 2)
    inner = np.exp(-(((np.abs(u) - 0.2) / 0.16) ** 2) - ((v - shape.brow_v) / 0.14) ** 2)
    dv = dv - 0.085 * e.brow * brow + 0.045 * e.frown * inner
    return du - 0.035 * e.frown * np.sign(u) * inner, dv


def undo(shape: Shape, expression: Expression, u: Values, v: Values) -> tuple[Values, Values, Values]:
    """(u, v) in the neutral face of points of the moved one, and the share (0–1) that lies inside the open mouth.

    Fixed-point iteration on each side of the lips; a point that neither side claims is inside the mouth.
    """
    sides = []
    for lower in (False, True):
        nu, nv = u, v
        for _ in range(3):
            du, dv = displacement(shape, expression, nu, nv, np.bool_(lower))
            nu, nv = u - du, v - dv
        sides.append((nu, nv))
    (up_u, up_v), (low_u, low_v) = sides
    line_up, line_low = lip_profiles(shape, up_u)[1], lip_profiles(shape, low_u)[1]
    is_lower = low_v >= line_low
    over, under = up_v - line_up, line_low - low_v  # how far past each lip's inner edge
    inside = np.where((over > 0) & (under > 0), np.minimum(over, under), 0.0)
    return np.where(is_lower, low_u, up_u), np.where(is_lower, low_v, np.minimum(up_v, line_up)), inside


def moved_landmarks(shape: Shape, expression: Expression) -> NDArray[np.float64]:
    """(81, 2) landmarks of the moved face before it is posed."""
    points = neutral_landmarks(shape)
    points[36:48] = eye_points(shape, expression.lids)
    lower = np.zeros(81, bool)
    lower[[*range(17), 55, 56, 57, 58, 59, 65, 66, 67]] = True
    du, dv = displacement(shape, expression, points[:, 0], points[:, 1], lower)
    return points + np.stack([du, dv], axis=1)
