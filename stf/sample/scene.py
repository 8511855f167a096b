"""The surroundings of the face: an out-of-focus room, neck and clothes. Linear light, RGB; H, W pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.sample import exact, portable
from stf.sample.face import Pose
from stf.sample.identity import Looks, linear
from stf.sample.relief import blur
from stf.sample.skin import noise

Picture = NDArray[np.floating[Any]]
MARGIN_px = 24  # the room is larger than the frame, so that a moving camera shows no edge


@dataclass(frozen=True)
class Scene:
    """`room` and the texture `clothes` are (H + 2 margins, W + 2 margins, 3), both on exact.on_grid's grid."""

    room: Picture
    clothes: Picture
    collar: float
    neck: NDArray[np.float32]


def _muted(rng: np.random.Generator, low: float, high: float, spread: float) -> NDArray[np.float32]:
    """Draws a paint or cloth colour, mostly grey."""
    return linear(np.clip(rng.uniform(low, high) + rng.normal(0, spread, 3), 8, 245))


def _panels(rng: np.random.Generator, room: Picture) -> None:
    """Paints shelves, frames, doors and curtains in place: rectangles and stripes of any colour."""
    height, width = room.shape[:2]
    for _ in range(int(rng.integers(7, 16))):
        w, h = rng.uniform(0.05, 0.5) * width, rng.uniform(0.05, 0.7) * height
        x, y = rng.uniform(-0.1, 1) * width, rng.uniform(-0.1, 1) * height
        angle = np.deg2rad(rng.normal(0, 2.5))
        corners = np.array([[0, 0], [w, 0], [w, h], [0, h]])
        turn = np.array(
            [[portable.cos(angle), portable.sin(angle)], [-portable.sin(angle), portable.cos(angle)]]
        )
        points = np.round((corners[:, :1] * turn[0] + corners[:, 1:] * turn[1] + (x, y)) * 16).astype(
            np.int32
        )
        colour = _muted(rng, 25, 205, 13)
        cv2.fillPoly(room, [points], [float(c) for c in colour], cv2.LINE_AA, 4)
    if rng.random() < 0.4:
        x = np.arange(width) / rng.uniform(6, 16)
        room *= (1 + 0.22 * portable.sin(x + rng.uniform(0, 6))[None, :, None]).astype(np.float32)


def _lamps(rng: np.random.Generator, room: Picture) -> None:
    """Paints bright out-of-focus discs in place."""
    height, width = room.shape[:2]
    for _ in range(int(rng.integers(0, 9))):
        centre = (round(rng.uniform(0, width) * 16), round(rng.uniform(0, height) * 16))
        glow = np.zeros((height, width), np.float32)
        cv2.circle(glow, centre, round(rng.uniform(3, 8) * 16), 1.0, -1, cv2.LINE_AA, 4)
        room += glow[..., None] * (rng.uniform(0.2, 0.8) * np.array([1, 0.85, 0.65])).astype(np.float32)


def draw_scene(rng: np.random.Generator, looks: Looks, height: int, width: int) -> Scene:
    """Draws the room and clothes of one take."""
    full = (height + 2 * MARGIN_px, width + 2 * MARGIN_px)
    wall = _muted(rng, 60, 190, 11)
    room = np.broadcast_to(wall, (*full, 3)).copy()
    room *= portable.exp(0.25 * noise(rng, 90, *full))[..., None]
    _panels(rng, room)
    room *= portable.exp(0.05 * noise(rng, 8, *full) + 0.03 * noise(rng, 4, *full))[..., None]
    _lamps(rng, room)
    room = exact.gaussian_blur(room, float(rng.uniform(1.0, 2.6)))
    room *= (1 + 0.012 * noise(rng, 3, *full))[
        ..., None
    ]  # wallpaper, plaster: the wall is never quite smooth
    cloth = _muted(rng, 25, 205, 24)
    weave = 1 + 0.04 * noise(rng, 2, *full) + 0.10 * noise(rng, 26, *full)
    stripes = portable.sin(np.arange(full[1]) * rng.uniform(0.3, 0.9)) * rng.choice([0.0, 0.18])
    clothes = cloth * (weave * (1 + stripes[None]))[..., None]
    return Scene(
        exact.on_grid(room),
        exact.on_grid(clothes),
        float(rng.uniform(0.5, 0.8)),
        (looks.skin * 0.55).astype(np.float32),
    )


def _shift(picture: Picture, x_px: float, y_px: float, size: tuple[int, int]) -> Picture:
    matrix = np.array([[1, 0, x_px - MARGIN_px], [0, 1, y_px - MARGIN_px]], np.float64)
    shifted = cv2.warpAffine(picture, matrix, (size[1], size[0]), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(shifted, np.float32)


def _soft_polygon(points: NDArray[np.float64], size: tuple[int, int], blur_px: float) -> Picture:
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return blur(mask.astype(np.float32) / 255, blur_px)


def surroundings(
    scene: Scene,
    pose: Pose,
    camera_px: tuple[float, float],
    origin_px: tuple[float, float],
    size: tuple[int, int],
) -> Picture:
    """Renders room, neck and shoulders of one frame; the body partly follows the head, the room only the camera."""
    picture = _shift(scene.room, *camera_px, size)
    s = pose.scale_px
    body_x = origin_px[0] + camera_px[0] + 0.35 * (pose.x_px - origin_px[0] - camera_px[0])
    body_y = origin_px[1] + camera_px[1] + 0.35 * (pose.y_px - origin_px[1] - camera_px[1])
    head = np.array([pose.x_px, pose.y_px])
    body = np.array([body_x, body_y])
    neck = np.array([[-0.62, 0.55], [0.62, 0.55], [0.66, 1.55], [0.95, 2.6], [-0.95, 2.6], [-0.66, 1.55]]) * s
    neck[:2] += head
    neck[2:] += body
    alpha = _soft_polygon(neck, size, 1.0)
    shadow = np.clip((np.arange(size[0])[:, None] - head[1]) / s - 0.9, 0.25, 1.0).astype(np.float32)
    picture += alpha[..., None] * (scene.neck * shadow[..., None] * 0.95 - picture)
    half = np.array(
        [[scene.collar * 0.55, 1.72], [0.72, 1.42], [1.25, 1.52], [1.9, 1.68], [2.6, 2.1], [2.6, 3.0]]
    )
    outline = np.concatenate([half, (half * (-1, 1))[::-1]]) * s + body
    alpha = _soft_polygon(outline, size, 1.2)
    clothes = _shift(scene.clothes, body_x - origin_px[0], body_y - origin_px[1], size)
    return picture + alpha[..., None] * (0.8 * clothes - picture)
