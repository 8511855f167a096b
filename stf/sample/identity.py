"""The parameters of a synthetic person, drawn once per identity and not derived from any real person.

Face units: the half-width of a face at its ears is about 1, u points right, v down, the origin lies between the eyes
and the nose. Colours are linear light in [0, 1], RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stf.sample import portable

Colour = NDArray[np.float32]

SKIN_TONES = (
    (238, 205, 186),
    (228, 186, 160),
    (214, 168, 138),
    (190, 140, 108),
    (150, 105, 78),
    (108, 72, 54),
)
HAIR_COLOURS = ((28, 22, 20), (58, 40, 30), (96, 66, 42), (168, 128, 76), (120, 116, 112), (120, 56, 30))
IRIS_COLOURS = ((60, 40, 26), (84, 58, 36), (72, 82, 56), (72, 92, 112), (88, 98, 104))
HAIR_STYLES = ("short", "long", "receding", "fringe")


def linear(rgb_8bit: tuple[int, int, int] | NDArray[np.float64]) -> Colour:
    """Converts sRGB in 0–255 to linear light, by the power 2.2."""
    return np.asarray(portable.power(np.asarray(rgb_8bit, np.float32) / 255.0, 2.2), np.float32)


@dataclass(frozen=True)
class Shape:
    """Positions and sizes of the features, in face units."""

    jaw: float  # share added to the jaw's width below the cheeks
    chin_v: float
    brow_v: float
    brow_arch: float
    brow_tilt: float
    hairline_v: float
    eye_u: float
    eye_v: float
    eye_half_width: float
    eye_half_height: float
    eye_tilt: float
    nose_v: float
    nose_half_width: float
    nose_height: float
    mouth_v: float
    mouth_half_width: float
    upper_lip: float
    lower_lip: float


@dataclass(frozen=True)
class Looks:
    """Colours, hair and texture strengths."""

    skin: Colour
    lips: Colour
    hair: Colour
    brow_density: float
    iris: Colour
    hair_style: str
    stubble: float
    freckles: int
    moles: int
    blotch: float
    pores: float
    age: float
    oil: float


@dataclass(frozen=True)
class Identity:
    """One person; `texture_seed` determines all pores and hairs."""

    shape: Shape
    looks: Looks
    texture_seed: int


def _shape(rng: np.random.Generator) -> Shape:
    def around(mean: float, spread: float) -> float:
        return float(mean + spread * np.clip(rng.normal(), -2, 2))

    return Shape(
        jaw=around(0.0, 0.035),
        chin_v=around(1.21, 0.035),
        brow_v=around(-0.53, 0.025),
        brow_arch=around(0.06, 0.02),
        brow_tilt=around(0.02, 0.025),
        hairline_v=around(-1.07, 0.035),
        eye_u=around(0.415, 0.016),
        eye_v=around(-0.27, 0.014),
        eye_half_width=around(0.19, 0.009),
        eye_half_height=around(0.078, 0.009),
        eye_tilt=around(0.015, 0.015),
        nose_v=around(0.34, 0.03),
        nose_half_width=around(0.205, 0.022),
        nose_height=around(0.30, 0.04),
        mouth_v=around(0.71, 0.02),
        mouth_half_width=around(0.36, 0.025),
        upper_lip=around(0.088, 0.014),
        lower_lip=around(0.118, 0.016),
    )


def _looks(rng: np.random.Generator) -> Looks:
    position = rng.uniform(0, len(SKIN_TONES) - 1.001)
    low = int(position)
    tones = np.asarray(SKIN_TONES, np.float64)
    skin_8bit = tones[low] + (position - low) * (tones[low + 1] - tones[low]) + rng.normal(0, 4, 3)
    dark = position / (len(SKIN_TONES) - 1)
    skin = linear(np.clip(skin_8bit, 30, 250))
    redness = np.array([0.74, 0.38, 0.42]) + rng.normal(0, 0.04, 3)
    n_hair = 3 if dark > 0.6 else len(HAIR_COLOURS)
    n_iris = 2 if dark > 0.6 else len(IRIS_COLOURS)
    hair = linear(HAIR_COLOURS[int(rng.integers(n_hair))])
    return Looks(
        skin=skin,
        lips=np.clip(skin * redness, 0.01, 1).astype(np.float32),
        hair=hair,
        brow_density=float(rng.uniform(0.55, 1.0)),
        iris=linear(IRIS_COLOURS[int(rng.integers(n_iris))]),
        hair_style=HAIR_STYLES[int(rng.integers(len(HAIR_STYLES)))],
        stubble=float(rng.uniform(0.15, 0.55)) if rng.random() < 0.4 else 0.0,
        freckles=int(rng.integers(40, 160)) if dark < 0.45 and rng.random() < 0.35 else 0,
        moles=int(rng.integers(0, 5)),
        blotch=float(rng.uniform(0.05, 0.11)),
        pores=float(rng.uniform(0.015, 0.04)),
        age=float(rng.uniform(0.1, 1.0)),
        oil=float(rng.uniform(0.03, 0.10)),
    )


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draws a person; equal generators give equal people."""
    return Identity(_shape(rng), _looks(rng), int(rng.integers(2**31)))
