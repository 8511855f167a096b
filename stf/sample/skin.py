"""A person's head painted on the texture plane: skin, brows, lips, nostrils, hair. Linear light, RGB."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.sample import exact, portable
from stf.sample.canonical import EAR_V, lip_profiles, neutral_landmarks
from stf.sample.identity import Identity, Looks, Shape
from stf.sample.relief import (
    HEIGHT,
    TEXELS,
    WIDTH,
    Plane,
    Visibility,
    ambient,
    blur,
    bump,
    cast_shadow,
    fold_lines,
    head_outline,
    normals,
    plane_coordinates,
    polygon,
    relief,
    to_texel,
)


@dataclass(frozen=True)
class Head:
    """The static maps of a head on the texture plane (HT, WT).

    Maps that are sampled between texels are on exact.on_grid's grid.
    """

    identity: Identity
    albedo_alpha: NDArray[np.float64]  # (HT, WT, 4)
    normal_gloss: NDArray[np.float64]  # (HT, WT, 4)
    surface: Plane
    depth: Plane  # for projection
    occlusion: Plane

    def visibility(self, towards_3: NDArray[np.floating]) -> Visibility:
        """Returns how much of the key light from direction `towards_3` and of the sky reaches each texel."""
        return exact.on_grid(np.dstack([cast_shadow(self.surface, towards_3), self.occlusion]))


def noise(rng: np.random.Generator, texels: float, height: int = HEIGHT, width: int = WIDTH) -> Plane:
    """Draws smooth noise of about unit variance whose bumps are `texels` wide."""
    shape = (max(2, round(height / texels) + 2), max(2, round(width / texels) + 2))
    grid = rng.normal(0, 1.25, shape).astype(np.float32)
    return np.asarray(exact.enlarge(grid, height, width), np.float32)


def _strokes(rng: np.random.Generator, roots_N2, angles_N, lengths_N) -> Plane:
    """Draws hairs as thin lines, in [0, 1]."""
    plane = np.zeros((HEIGHT, WIDTH), np.uint8)
    tips = roots_N2 + np.stack([portable.cos(angles_N), portable.sin(angles_N)], 1) * lengths_N[:, None]
    starts = np.round(to_texel(roots_N2) * 16).astype(np.int32)
    ends = np.round(to_texel(tips) * 16).astype(np.int32)
    greys = rng.integers(120, 256, len(starts))
    for start, end, grey in zip(starts.tolist(), ends.tolist(), greys.tolist(), strict=True):
        cv2.line(plane, start, end, int(grey), 1, cv2.LINE_AA, 4)
    return plane.astype(np.float32) / 255


def _brows(rng: np.random.Generator, shape: Shape, looks: Looks) -> Plane:
    points = neutral_landmarks(shape)[22:27]
    n = int(260 * looks.brow_density)
    s = rng.uniform(-0.03, 1.03, n)
    centre = np.stack([np.interp(s, np.linspace(0, 1, 5), points[:, k]) for k in (0, 1)], 1)
    thickness = 0.045 * (1 - 0.55 * s**2)
    centre[:, 1] += 0.02 + thickness * rng.uniform(-1, 1, n)
    angle = -0.95 + 1.25 * s + rng.normal(0, 0.2, n)
    length = rng.uniform(0.06, 0.13, n)
    right = _strokes(rng, centre, angle, length)
    left = _strokes(rng, centre * (-1, 1), np.pi - angle, length)
    body = blur(right + left, 2.5)
    return np.clip(0.75 * (right + left) + 0.6 * body, 0, 0.95) * looks.brow_density


def _lips(shape: Shape) -> tuple[Plane, Plane]:
    """Returns (lip mask, dark line between the closed lips)."""
    u, v = plane_coordinates()
    top, line, low = lip_profiles(shape, u)
    inside = np.clip((shape.mouth_half_width - np.abs(u)) * TEXELS / 2, 0, 1)
    mask = np.clip((v - top) * TEXELS / 2 + 0.5, 0, 1) * np.clip((low - v) * TEXELS / 2 + 0.5, 0, 1) * inside
    seam = portable.exp(-(((v - line) / 0.012) ** 2)) * np.clip(
        (shape.mouth_half_width * 1.03 - np.abs(u)) / 0.03, 0, 1
    )
    return blur(mask.astype(np.float32), 1.1), seam.astype(np.float32)


def _tint(albedo: NDArray[np.float32], amount: Plane, factors: tuple[float, float, float]) -> None:
    """Multiplies the colour by factors ** amount, in place."""
    for k, factor in enumerate(factors):
        albedo[..., k] *= portable.power(np.float32(factor), amount)


def _spots(rng: np.random.Generator, n: int, radius: tuple[float, float], region: Plane) -> Plane:
    plane = np.zeros((HEIGHT, WIDTH), np.float32)
    points = np.stack([rng.uniform(-0.85, 0.85, n), rng.uniform(-0.9, 1.0, n)], 1)
    for (x, y), r in zip(to_texel(points), rng.uniform(*radius, n) * TEXELS, strict=True):
        spot = np.zeros((HEIGHT, WIDTH), np.uint8)
        centre = (round(x * 16), round(y * 16))
        cv2.circle(spot, centre, max(8, round(r * 16)), 255, -1, cv2.LINE_AA, 4)
        plane = np.maximum(plane, spot.astype(np.float32) / 255 * rng.uniform(0.4, 1))
    return blur(plane, 0.8) * region


def _skin(rng: np.random.Generator, identity: Identity) -> NDArray[np.float32]:
    shape, looks = identity.shape, identity.looks
    albedo = np.broadcast_to(looks.skin, (HEIGHT, WIDTH, 3)).copy()
    blotches = 0.6 * noise(rng, 34) + 0.4 * noise(rng, 13) + 0.25 * noise(rng, 6)
    _tint(albedo, looks.blotch * blotches, (1.25, 2.2, 2.4))
    red = 0.9 * bump((0.58, 0.22), (0.2, 0.17), True) + 0.8 * bump((0, shape.nose_v - 0.07), (0.13, 0.11))
    red += 0.4 * bump((0, shape.chin_v - 0.15), (0.2, 0.12)) + 0.7 * bump(
        (1.08, EAR_V + 0.15), (0.1, 0.2), True
    )
    _tint(albedo, red * (1 + 0.3 * noise(rng, 9)), (0.98, 0.84, 0.83))
    _tint(albedo, bump((0, -0.85), (0.6, 0.22)), (1.03, 1.02, 0.93))
    _tint(
        albedo, bump((0.40, shape.eye_v + 0.15), (0.15, 0.05), True) * (0.4 + looks.age), (0.86, 0.83, 0.88)
    )
    _tint(albedo, bump((shape.eye_u, shape.eye_v - 0.06), (0.16, 0.07), True), (0.88, 0.80, 0.79))
    pores = noise(rng, 2.2) + 0.7 * rng.normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32)
    albedo *= (1 + looks.pores * pores)[..., None]
    _tint(albedo, looks.age * fold_lines(shape), (0.88, 0.82, 0.80))
    _tint(albedo, _wrinkles(rng, looks.age), (0.80, 0.74, 0.72))
    return albedo


def _wrinkles(rng: np.random.Generator, age: float) -> Plane:
    plane = np.zeros((HEIGHT, WIDTH), np.uint8)
    for v in (-0.78, -0.87, -0.97):
        u = np.linspace(-0.5, 0.5, 9) * rng.uniform(0.6, 1)
        points = np.stack([u, v + 0.012 * rng.normal(0, 1, 9) + 0.03 * u**2], 1)
        cv2.polylines(
            plane, [np.round(to_texel(points) * 16).astype(np.int32)], False, 200, 1, cv2.LINE_AA, 4
        )
    return age * 1.6 * blur(plane, 1.2) / 255


def _hair_mask(rng: np.random.Generator, identity: Identity) -> Plane:
    """Returns the alpha of the hair over the skull, with an uneven hairline."""
    shape, style = identity.shape, identity.looks.hair_style
    u, v = plane_coordinates()
    edge = shape.hairline_v + 0.02 + {"receding": -0.16}.get(style, 0.0) * np.abs(u) / 0.6
    if style == "receding":
        edge = edge - 0.10 * (1 - np.minimum(1, np.abs(u) / 0.4))
    line = (
        edge
        + 0.42 * portable.power(np.clip(np.abs(u) / 1.0, 0, 1.2), 3.2)
        + 0.008 * noise(rng, 3)
        + 0.02 * noise(rng, 20)
    )
    cap = np.clip((line - v) * 13 + 0.12 * noise(rng, 2), 0, 1)
    side = np.clip((np.abs(u) - 0.965 + 0.01 * noise(rng, 6)) * 16, 0, 1)
    temples = side * np.clip((EAR_V + 0.12 - v) * 8, 0, 1)
    return np.maximum(cap, temples).astype(np.float32)


def _hair_outline(identity: Identity) -> Plane:
    """Returns the area where hair is possible: the enlarged skull and, for long hair, a curtain to the shoulders."""
    grown = head_outline(identity.shape)[81:] * (1.085, 1.0) - (0, 0.10)
    mask = polygon(np.concatenate([grown, [[-1.09, EAR_V], [1.09, EAR_V]]]), 1.6)
    return mask if identity.looks.hair_style != "long" else np.maximum(mask, _curtain())


def _curtain() -> Plane:
    """Draws long hair beside the face, in front of the neck."""
    u, v = plane_coordinates()
    half = [[1.10, -0.75], [1.20, -0.4], [1.26, 0.0], [1.28, 0.5], [1.24, 1.0], [1.16, 1.5], [1.12, 2.2]]
    side = np.array(half)
    curtain = polygon(np.concatenate([side, (side * (-1, 1))[::-1]]), 2.0)
    inner = np.clip(
        (np.abs(u) - 0.985 + 0.22 * np.clip(v - 0.7, 0, 0.5) + 0.02 * portable.sin(5 * v)) * 15, 0, 1
    )
    return (curtain * np.maximum(inner, np.clip(-(v + 0.95) * 6, 0, 1))).astype(np.float32)


def _strands(rng: np.random.Generator, hair: NDArray[np.float32]) -> NDArray[np.float32]:
    """Draws hair colour with strands that fan out from the crown."""
    u, v = plane_coordinates()
    angle = portable.arctan2(u, -(v - 0.9)) * 95
    radius = np.sqrt(u**2 + (v - 0.9) ** 2) * 9
    fan = noise(rng, 1.6, 64, 640)
    mapx = ((angle + 320 + 6 * portable.sin(radius * 0.5)) % 639).astype(np.float32)
    mapy = np.broadcast_to(radius, mapx.shape).astype(np.float32)
    strands = cv2.remap(exact.on_grid(fan), mapx, mapy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    strands = strands.astype(np.float32)
    tone = portable.exp(0.33 * strands + 0.22 * noise(rng, 18))
    return hair * tone[..., None]


def paint_head(identity: Identity) -> Head:
    """Paints the maps of one person's head; equal identities give equal maps."""
    rng = np.random.default_rng(identity.texture_seed)
    shape, looks = identity.shape, identity.looks
    surface, depth = relief(shape, looks.age)
    albedo = _skin(rng, identity)
    lips, seam = _lips(shape)
    wet = 1 + 0.06 * noise(rng, 3)
    albedo += lips[..., None] * (looks.lips * wet[..., None] - albedo) * 0.95
    _tint(albedo, 0.9 * seam, (0.32, 0.22, 0.22))
    face = polygon(neutral_landmarks(shape)[:17], 4)
    _tint(albedo, _spots(rng, looks.freckles, (0.006, 0.012), face), (0.78, 0.62, 0.52))
    _tint(albedo, _spots(rng, looks.moles, (0.010, 0.02), face), (0.32, 0.22, 0.20))
    u, v = plane_coordinates()
    beard = np.clip((v - shape.nose_v - 0.05) * 5, 0, 1) + np.clip((np.abs(u) - 0.8) * 6, 0, 1) * (
        v > EAR_V + 0.2
    )
    beard = np.clip(beard, 0, 1) * (1 - lips) * (1 + 0.35 * noise(rng, 2.0)) * looks.stubble
    albedo += (blur(beard.astype(np.float32), 1.0)[..., None]) * (0.35 * looks.hair - 0.45 * albedo)
    nostril = bump((shape.nose_half_width * 0.5, shape.nose_v + 0.018), (0.042, 0.017), True)
    _tint(albedo, 1.25 * nostril, (0.16, 0.10, 0.10))
    crease = bump((shape.nose_half_width + 0.015, shape.nose_v - 0.01), (0.015, 0.045), True)
    _tint(albedo, crease, (0.62, 0.52, 0.50))
    albedo += _brows(rng, shape, looks)[..., None] * (0.8 * looks.hair - albedo)
    above_ears = np.clip((EAR_V + 0.05 - v) * 10, 0, 1)
    outside = 1 - polygon(head_outline(shape), 1.5)
    hair = np.maximum(_hair_mask(rng, identity), outside * above_ears) * _hair_outline(identity)
    if looks.hair_style == "long":
        hair = np.maximum(hair, _curtain() * np.clip((v - EAR_V + 0.75) * 6, 0, 1))
    albedo += hair[..., None] * (_strands(rng, looks.hair) - albedo)
    # Colour under the soft edge: hair above the ears, skin below.
    albedo += (outside * above_ears)[..., None] * (looks.hair - albedo)
    ears = np.clip(
        (1 - np.sqrt(((np.abs(u) - 1.03) / 0.115) ** 2 + ((v - EAR_V - 0.12) / 0.30) ** 2)) * 10, 0, 1
    )
    alpha = np.maximum(
        np.maximum(polygon(head_outline(shape), 1.0), hair), ears * (looks.hair_style != "long")
    )
    gloss = (1 - outside) * (
        looks.oil
        * (1 + 0.3 * lips + 0.5 * bump((0, 0.1), (0.12, 0.3)) + 0.25 * noise(rng, 4))
        * (1 - 0.6 * hair)
    )
    bumpy = surface + 0.0006 * noise(rng, 3) * (1 - hair) - 0.006 * seam
    occlusion = ambient(surface) * (1 - 0.25 * hair * (1 - hair) * 4)
    return Head(
        identity,
        exact.on_grid(np.dstack([np.clip(albedo, 0.002, 1), alpha])),
        exact.on_grid(np.dstack([normals(bumpy), gloss])),
        surface,
        exact.on_grid(depth),
        occlusion.astype(np.float32),
    )
