"""Eyes and the inside of the mouth, painted over the skin pixel by pixel. Linear light, RGB.

P pixels: flat arrays of the pixels near an eye or the mouth, u_P, v_P in face units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stf.sample import portable
from stf.sample.canonical import lid_heights
from stf.sample.expression import Expression
from stf.sample.identity import Identity

Pixels = NDArray[np.float32]
IRIS_RADIUS, PUPIL_RADIUS = 0.092, 0.042
SCLERA = np.array([0.60, 0.55, 0.52], np.float32)
TEETH = np.array([0.56, 0.50, 0.41], np.float32)
CAVITY = np.array([0.045, 0.012, 0.011], np.float32)
TONGUE = np.array([0.26, 0.085, 0.08], np.float32)


def _over(base_P3: NDArray[Any], colour: Any, alpha_P: NDArray) -> Pixels:
    return base_P3 + alpha_P[:, None] * (colour - base_P3)


def _edge(distance: NDArray, softness: float) -> NDArray:
    return np.clip(distance / softness + 0.5, 0, 1)


def _eyeball(identity: Identity, expression: Expression, du_P: NDArray, y_P: NDArray, light_xy) -> Pixels:
    """Returns the eyeball's colour at offsets (du, y) from the eye's centre."""
    cx, cy = expression.gaze_u, expression.gaze_v - 0.012
    r = np.sqrt((du_P - cx) ** 2 + (y_P - cy) ** 2)
    angle = portable.arctan2(y_P - cy, du_P - cx)
    rays = 1 + 0.16 * portable.sin(11 * angle + identity.texture_seed % 7) + 0.1 * portable.sin(23 * angle)
    iris = identity.looks.iris * (0.75 + 0.9 * np.clip(r / IRIS_RADIUS, 0, 1))[:, None] * rays[:, None]
    colour = np.broadcast_to(SCLERA, (len(r), 3)) * (1 - 1.6 * du_P**2 / 0.06)[:, None].clip(0.55, 1)
    colour = _over(colour, iris, _edge(IRIS_RADIUS - r, 0.022))
    limbus = portable.exp(-(((r - IRIS_RADIUS) / 0.017) ** 2))
    colour = _over(colour, identity.looks.iris * 0.15, 0.7 * limbus)
    colour = _over(colour, np.float32(0.006), _edge(PUPIL_RADIUS - r, 0.02))
    glint = portable.exp(-(((du_P - cx - 0.45 * IRIS_RADIUS * light_xy[0]) / 0.018) ** 2))
    glint = glint * portable.exp(-(((y_P - cy - 0.55 * IRIS_RADIUS * light_xy[1]) / 0.018) ** 2))
    return _over(colour, np.float32(1.1), 0.85 * glint)


def paint_eyes(
    skin_P3: Pixels, identity: Identity, expression: Expression, uv_P2: NDArray, light_xy: tuple[float, float]
) -> Pixels:
    """Paints both eyes, lashes and lid creases over the skin's colours; positions in the neutral face."""
    shape = identity.shape
    side = np.sign(uv_P2[:, 0])
    x = (np.abs(uv_P2[:, 0]) - shape.eye_u) / shape.eye_half_width
    y = uv_P2[:, 1] - shape.eye_v
    upper, lower = lid_heights(shape, np.clip(x, -1, 1), expression.lids)
    raised, _ = lid_heights(shape, np.clip(x, -1, 1), 1.0)
    ball = _eyeball(identity, expression, x * shape.eye_half_width * side, y, light_xy)
    shade = (
        1 - 0.55 * portable.exp(-np.clip(y - upper, 0, None) / 0.03) - 0.15 * np.clip(np.abs(x) - 0.5, 0, 1)
    )
    within = np.clip((1.0 - np.abs(x)) / 0.08, 0, 1)
    caruncle = portable.exp(-(((x + 0.93) / 0.12) ** 2))
    ball = _over(ball, identity.looks.skin * (0.95, 0.6, 0.6), 0.7 * caruncle) * shade[:, None]
    fold = (
        portable.exp(-(((y - raised + 0.052 * (1 - 0.3 * x * x)) / 0.011) ** 2))
        * np.clip(1.15 - np.abs(x), 0, 0.3)
        / 0.3
    )
    colour = _over(skin_P3, 0.38 * identity.looks.skin, 0.50 * fold)
    colour = _over(
        colour,
        ball,
        _edge(y - upper, 0.016) * _edge(lower - y, 0.016) * within * min(1.0, 4 * expression.lids),
    )
    ends = np.clip((1.1 - np.abs(x)) / 0.15, 0, 1)
    thick = 0.013 + 0.006 * np.clip(x, 0, 1)
    lash = portable.exp(-(((y - upper + 0.007) / thick) ** 2)) * ends
    rim = portable.exp(-(((y - lower - 0.004) / 0.010) ** 2)) * ends
    colour = _over(colour, np.float32(0.012), 0.82 * lash)
    return _over(
        colour, 0.42 * identity.looks.skin * (1, 0.8, 0.8), 0.45 * rim * min(1.0, 0.3 + expression.lids)
    )


def paint_mouth(
    skin_P3: Pixels,
    identity: Identity,
    u_P: NDArray[Any],
    below_top_P: NDArray[Any],
    above_bottom_P: NDArray[Any],
) -> Pixels:
    """Paints teeth, tongue and cavity over the skin's colours, by the distances to the lips' inner edges."""
    width = identity.shape.mouth_half_width
    colour = np.broadcast_to(CAVITY, (len(u_P), 3)).astype(np.float32)
    tongue = np.clip(1 - above_bottom_P / 0.10, 0, 1) * portable.exp(-((u_P / (0.5 * width)) ** 2))
    colour = _over(colour, TONGUE, 0.8 * tongue)
    gaps = 1 - 0.38 * portable.exp(-((((u_P / 0.075 + 0.5) % 1 - 0.5) / 0.09) ** 2))
    curve = 0.075 - 0.10 * u_P**2 / width
    teeth = _edge(curve - below_top_P, 0.022) * np.clip((0.80 * width - np.abs(u_P)) / 0.08, 0, 1)
    shade = (0.45 + 0.55 * np.clip(below_top_P / 0.04, 0, 1)) * gaps * (1 - 0.55 * (u_P / width) ** 2)
    colour = _over(colour, TEETH * shade[:, None], 0.93 * teeth)
    low = _edge(0.045 - above_bottom_P, 0.025) * np.clip((0.6 * width - np.abs(u_P)) / 0.08, 0, 1)
    wide = np.clip(below_top_P + above_bottom_P - 0.12, 0, 0.1) * 10
    colour = _over(colour, TEETH * (0.42 * gaps)[:, None], 0.6 * low * wide)
    return _over(skin_P3, colour, np.clip(np.minimum(below_top_P, above_bottom_P) / 0.014, 0, 1))
