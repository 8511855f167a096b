"""Projects a head into the picture: pose, expression, light → colours, coverage and true landmarks.

H, W pixels of the picture; the centre of pixel (0, 0) is the point (0, 0), as for landmarks and cv2.remap.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.sample import portable
from stf.sample.expression import Expression, moved_landmarks, undo
from stf.sample.features import paint_eyes, paint_mouth
from stf.sample.relief import TEXELS, U0, V0, Plane, Visibility
from stf.sample.skin import Head

PIVOT = np.array([0.0, 0.55, -0.35])  # heads rotate about the top of the neck


@dataclass(frozen=True)
class Pose:
    """Angles in radians; (x_px, y_px) is the position of the face's origin; `scale_px` is pixels per face unit."""

    yaw: float
    pitch: float
    roll: float
    x_px: float
    y_px: float
    scale_px: float

    def rotation(self) -> NDArray[np.float64]:
        """Returns the rotation (3, 3): turn (yaw), nod (pitch), tilt (roll)."""
        angles = (self.yaw, self.pitch, self.roll)
        (cy, cp, cr), (sy, sp, sr) = portable.cos(angles), portable.sin(angles)
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return portable.product(portable.product(roll, yaw), pitch)


@dataclass(frozen=True)
class Light:
    """`towards`: unit vector to the key light (right, down, viewer); colours are RGB, linear."""

    towards: NDArray[np.float64]
    key: NDArray[np.float64]
    fill: NDArray[np.float64]


@dataclass(frozen=True)
class Rendering:
    """A rendered head: linear RGB, its coverage of each pixel, and its landmarks."""

    colour_HWC: NDArray[np.float32]
    alpha_HW: Plane
    landmarks_81: NDArray[np.float64]


def _sample(plane: Plane, u: Plane, v: Plane) -> NDArray[np.float32]:
    """Samples the map at (u, v); its values must be on exact.on_grid's grid."""
    x, y = (u - np.float32(U0)) * TEXELS - 0.5, (v - np.float32(V0)) * TEXELS - 0.5
    return np.asarray(cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def project(head: Head, pose: Pose, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Projects points on the moved face (face units) to pixels."""
    r = pose.rotation()
    u, v = (points_N2[None, :, k].astype(np.float32) for k in (0, 1))
    depth = _sample(head.depth, u, v)[0].astype(np.float64)
    xyz = np.concatenate([points_N2, depth[:, None]], axis=1) - PIVOT
    flat = np.stack([(xyz * r[k]).sum(1) for k in (0, 1)], axis=1) + PIVOT[:2]
    return flat * pose.scale_px + (pose.x_px, pose.y_px)


def unproject(head: Head, pose: Pose, height: int, width: int) -> tuple[Plane, Plane]:
    """Returns the (u, v) on the moved face that each pixel shows, by fixed-point iteration on the head's depth."""
    r = pose.rotation()
    inverse = portable.inverse_22(r[:2, :2])
    x = ((np.arange(width) - pose.x_px) / pose.scale_px - PIVOT[0])[None]
    y = ((np.arange(height) - pose.y_px) / pose.scale_px - PIVOT[1])[:, None]
    slope = inverse[:, 0] * r[0, 2] + inverse[:, 1] * r[1, 2]
    flat_u = (inverse[0, 0] * x + inverse[0, 1] * y + PIVOT[0] + slope[0] * PIVOT[2]).astype(np.float32)
    flat_v = (inverse[1, 0] * x + inverse[1, 1] * y + PIVOT[1] + slope[1] * PIVOT[2]).astype(np.float32)
    depth = np.full((height, width), 0.6, np.float32)
    for _ in range(3):
        depth = _sample(
            head.depth, flat_u - np.float32(slope[0]) * depth, flat_v - np.float32(slope[1]) * depth
        )
    return flat_u - np.float32(slope[0]) * depth, flat_v - np.float32(slope[1]) * depth


def shade(
    albedo: NDArray[np.float32],
    normal_gloss: NDArray[np.float32],
    reached: Visibility,
    light: Light,
    r: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Shades with a wrapped Lambert key light (red scatter at its edge), fill light, and a highlight of skin oil."""
    lit, occlusion = reached[..., 0], reached[..., 1]
    towards = portable.product(r.T, light.towards).astype(np.float32)  # the light in the head's own axes
    n = normal_gloss[..., :3]
    cosine = n[..., 0] * towards[0] + n[..., 1] * towards[1] + n[..., 2] * towards[2]
    up = np.float32(0.5) - np.float32(0.32) * n[..., 1]
    half = towards + r[2].astype(np.float32)
    half /= np.sqrt(np.float32((half * half).sum(dtype=np.float64)))
    mirror = np.clip(n[..., 0] * half[0] + n[..., 1] * half[1] + n[..., 2] * half[2], 0, 1)
    m2 = mirror * mirror
    m8 = (m2 * m2) * (m2 * m2)
    highlight = normal_gloss[..., 3] * (m8 * m8 * lit) * (np.float32(0.35) + m8)
    fill = occlusion * up
    out = np.empty_like(albedo)
    for k, wrap in enumerate((0.30, 0.17, 0.14)):
        key = np.clip((cosine + np.float32(wrap)) / np.float32(1 + wrap), 0, 1) * lit
        energy = key * np.float32(light.key[k]) + fill * np.float32(light.fill[k])
        out[..., k] = albedo[..., k] * energy + highlight * np.float32(light.key[k])
    return out


def render(
    head: Head,
    pose: Pose,
    expression: Expression,
    light: Light,
    visibility: Visibility,
    size: tuple[int, int],
) -> Rendering:
    """Renders the head in linear light, `size` = (H, W); `visibility` is Head.visibility for the mean light."""
    shape = head.identity.shape
    posed_u, posed_v = unproject(head, pose, *size)
    face = undo(shape, expression, posed_u, posed_v)
    albedo_alpha = _sample(head.albedo_alpha, face.u, face.v)
    normal_gloss = _sample(head.normal_gloss, face.u, face.v)
    reached = _sample(visibility, face.u, face.v)
    albedo = np.ascontiguousarray(albedo_alpha[..., :3])
    direction = (float(light.towards[0]), float(light.towards[1]))
    near = ((np.abs(face.u) - shape.eye_u) / 0.27) ** 2 + ((face.v - shape.eye_v) / 0.22) ** 2 < 1
    uv = np.stack([face.u[near], face.v[near]], 1)
    albedo[near] = paint_eyes(albedo[near], head.identity, expression, uv, direction)
    open_ = (face.below_upper > 0) & (face.above_lower > 0)
    edges = face.below_upper[open_], face.above_lower[open_]
    albedo[open_] = paint_mouth(albedo[open_], head.identity, posed_u[open_], *edges)
    normal_gloss[open_, 3] = 0
    colour = shade(albedo, normal_gloss, reached, light, pose.rotation())
    landmarks = project(head, pose, moved_landmarks(shape, expression))
    return Rendering(colour, np.ascontiguousarray(albedo_alpha[..., 3]), landmarks)
