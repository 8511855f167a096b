"""Thin-plate-spline deformation of the mask, a random walk over time (Bookstein, PAMI 1989).

Shape legend: T frames, H, W pixels, P control points, G grid nodes per axis.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from stf.data.augment.warps import check_frames, mask_at, pixel_grid, warp_image

Floats = NDArray[np.float32]
CONTROL_PER_AXIS = 4
GRID_NODES = 29  # the spline is evaluated on 29 × 29 nodes and resized: 24 ms instead of seconds


@dataclass(frozen=True, eq=False)
class TPSDraw:
    """The control points' displacements in each frame, (T, P, 2) px."""

    displacements_TP2: NDArray[np.float64]


def control_points() -> NDArray[np.float64]:
    """Returns (P, 2), a regular grid over the unit square, row by row."""
    ticks = np.linspace(0, 1, CONTROL_PER_AXIS)
    return np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)


def grid_nodes() -> NDArray[np.float64]:
    """Returns (G·G, 2), the centres of G × G cells of the unit square: the sample positions of cv2.resize."""
    ticks = (np.arange(GRID_NODES) + 0.5) / GRID_NODES
    return np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)


@functools.cache
def _influence() -> NDArray[np.float64]:
    """Returns (G·G, P), the displacement at each node for a unit displacement of each control point.

    The spline is linear in the displacements and the control points are fixed, so it is solved once per process.
    """
    points = control_points()
    return RBFInterpolator(points, np.eye(len(points)), kernel="thin_plate_spline")(grid_nodes())


def influence_on(height: int, width: int) -> Floats:
    """Returns (height, width, P), the displacement at each cell of a grid for a unit displacement of each point."""
    coarse_GGP = _influence().astype(np.float32).reshape(GRID_NODES, GRID_NODES, -1)
    return np.asarray(cv2.resize(coarse_GGP, (width, height)), np.float32)


@functools.cache
def overshoot() -> float:
    """Returns the largest ratio of a position's displacement to that of the farthest-moved control point."""
    return float(np.abs(_influence()).sum(1).max())


@dataclass(frozen=True)
class TPSMaskDeformation:
    """With `probability`, moves control points in a random walk of `step_px` a frame within `max_px` (at img_size)."""

    probability: float = 0.3
    step_px: float = 0.6
    max_px: float = 4.0

    def sample(self, rng: np.random.Generator, n_frames: int, scale: float = 1.0) -> TPSDraw | None:
        """Draws one clip's walk; None for a clip without deformation. `scale` = crop size / img_size."""
        if rng.random() >= self.probability:
            return None
        n_points = CONTROL_PER_AXIS**2
        radius = self.max_px * np.sqrt(rng.uniform(0, 1, n_points))
        angle = rng.uniform(0, 2 * math.pi, n_points)
        walk_TP2 = np.empty((n_frames, n_points, 2))
        walk_TP2[0] = 0.5 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
        for t in range(1, n_frames):
            moved_P2 = walk_TP2[t - 1] + rng.normal(0, self.step_px, (n_points, 2))
            length_P1 = np.linalg.norm(moved_P2, axis=1, keepdims=True)
            walk_TP2[t] = moved_P2 * np.minimum(1, self.max_px / np.maximum(length_P1, 1e-12))
        return TPSDraw(walk_TP2 * scale)

    def apply(self, mask: NDArray[np.generic], draw: TPSDraw) -> Floats:
        """Warps one mask for all frames, or one per frame → (T, H, W) float32; outside the image counts as 0."""
        n_frames = len(draw.displacements_TP2)
        check_frames("TPSMaskDeformation", mask, n_frames)
        height, width = mask_at(mask, 0).shape
        grid_HW2 = pixel_grid(height, width)
        out = np.empty((n_frames, height, width), np.float32)
        for t, displacement_P2 in enumerate(draw.displacements_TP2):
            coarse_GG2 = (
                (_influence() @ displacement_P2).reshape(GRID_NODES, GRID_NODES, 2).astype(np.float32)
            )
            field_HW2 = np.asarray(cv2.resize(coarse_GG2, (width, height)), np.float32)
            out[t] = warp_image(mask_at(mask, t), grid_HW2 + field_HW2)
        return out
