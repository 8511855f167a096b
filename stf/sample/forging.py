"""Functions shared by all forgeries: masks, colour matching, pasting, warps. H, W pixels, C = RGB.

Forgeries change a recorded frame only inside the hull of the target's landmarks.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.sample import exact, portable
from stf.sample.face import Rendering
from stf.sample.take import Take

Picture = NDArray[np.floating[Any]]
Mask = NDArray[np.floating[Any]]
Points = NDArray[np.floating[Any]]


def hull(points_N2: Points, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns (H, W), 1 for the pixels strictly inside the points' convex hull, else 0."""
    mask = np.zeros(size, np.uint8)
    corners = cv2.convexHull(points_N2.astype(np.float32))[:, 0]
    cv2.fillConvexPoly(mask, np.round(corners * 16).astype(np.int32), 1, cv2.LINE_8, 4)
    return np.asarray(cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0), np.uint8)


def feather(inside: NDArray[np.uint8], width_px: float) -> Mask:
    """Returns a mask that rises from 0 at the edge of `inside` to 1 at `width_px` further in; exactly 0 outside."""
    distance = exact.distance_inside(inside)
    ramp = np.clip(distance / width_px, 0, 1).astype(np.float32)
    return ramp * ramp * (3 - 2 * ramp)


def develop(take: Take, rendering: Rendering) -> Picture:
    """Converts a rendering to the grey levels of the take's camera, without lens blur, noise and flicker."""
    coded = portable.power(np.clip(rendering.colour_HWC, 0, 1), np.float32(1 / 2.2))
    return take.camera.black + coded * np.float32(take.camera.white - take.camera.black)


def match_colours(picture: Picture, reference: Picture, mask: Mask, spread: float) -> Picture:
    """Moves each channel's mean inside the mask to the reference's, and its deviation by the share `spread`."""
    weight = mask.sum() + 1e-6
    out = np.empty_like(picture)
    for k in range(3):
        values, targets = picture[..., k], reference[..., k]
        mean, goal = float((values * mask).sum() / weight), float((targets * mask).sum() / weight)
        std = float(np.sqrt(((values - mean) ** 2 * mask).sum() / weight)) + 1e-3
        ratio = float(np.sqrt(((targets - goal) ** 2 * mask).sum() / weight)) / std
        out[..., k] = (values - mean) * np.float32(1 + spread * (ratio - 1)) + np.float32(goal)
    return out


def paste(frame: NDArray[np.uint8], picture: Picture, mask: Mask) -> NDArray[np.uint8]:
    """Blends the picture over the frame; where the mask is 0 the frame is unchanged."""
    mixed = frame + mask[..., None] * (picture - frame)
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def fit_affine(source_N2: Points, target_N2: Points, similarity: bool) -> Points:
    """Fits a similarity or an affine map (2, 3) of source onto target points by least squares."""
    centre, goal = source_N2.mean(0), target_N2.mean(0)
    (x, y), (u, v) = (source_N2 - centre).T, (target_N2 - goal).T
    if similarity:
        size, a, b = ((p * q + r * s).sum() for p, q, r, s in ((x, x, y, y), (x, u, y, v), (x, v, -y, u)))
        linear = np.array([[a, -b], [b, a]]) / size
    else:
        spread = np.array([[(p * q).sum() for q in (x, y)] for p in (x, y)])
        carried = np.array([[(p * q).sum() for q in (x, y)] for p in (u, v)])
        linear = portable.product(carried, portable.inverse_22(spread))
    return np.concatenate([linear, (goal - portable.product(linear, centre))[:, None]], axis=1)


def move(points_N2: Points, matrix_23: Points) -> Points:
    """Applies the affine map to the points."""
    return points_N2[:, :1] * matrix_23[:, 0] + points_N2[:, 1:] * matrix_23[:, 1] + matrix_23[:, 2]


def _kernel(a_N2: Points, b_M2: Points) -> Points:
    squared = (a_N2[:, :1] - b_M2[:, 0]) ** 2 + (a_N2[:, 1:] - b_M2[:, 1]) ** 2
    return 0.5 * squared * portable.log(squared + 1e-9)


def warp_field(new_N2: Points, old_N2: Points, size: tuple[int, int], step_px: int = 6) -> tuple[Mask, Mask]:
    """Returns maps for cv2.remap that move old to new points: a smoothing thin-plate spline on a coarse grid."""
    n = len(new_N2)
    scale = 50.0
    centres = new_N2 / scale
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _kernel(centres, centres) + 2e-3 * np.eye(n)
    system[:n, n:] = np.concatenate([np.ones((n, 1)), centres], 1)
    system[n:, :n] = system[:n, n:].T
    weights = portable.solve(system, np.concatenate([old_N2 - new_N2, np.zeros((3, 2))]))
    rows, columns = size[0] // step_px + 2, size[1] // step_px + 2
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * (step_px / scale)
    shift = portable.product(_kernel(grid, centres), weights[:n]) + weights[n]
    shift += portable.product(grid, weights[n + 1 :])
    coarse = shift.reshape(rows, columns, 2)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    fine = cv2.remap(exact.on_grid(coarse), x / step_px, y / step_px, cv2.INTER_LINEAR).astype(np.float32)
    return x + fine[..., 0], y + fine[..., 1]
