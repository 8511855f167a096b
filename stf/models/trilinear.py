"""Trilinear sampling of channels-last features on a CPU, its adjoint, and its slope along each axis.

Shapes: P positions, S channels, 8 corners of the cell a place lies in, A = 3 axes in the order (x, y, t), as the steps of
a snake have them. Features are a table (P, S) of whole clips, one row a position, t slowest.

torch's grid_sampler_3d reads S planes, so that each of the 8·S numbers of a sample comes from a cache line of its own.
With the channels side by side a corner is one row, and sampling is what embedding_bag does: a weighted sum of rows. Its
adjoint is a product with the transposed sparse matrix, for which scipy's loop is 10 to 20 times as fast as torch's own
(benchmarks/dcconv.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csc_matrix
from torch import Tensor

CORNERS = 8


class Cells(NamedTuple):
    """The cells that P places lie in."""

    rows_P8: Tensor  # int32: the corners' rows, x fastest
    shares_AP: Tensor  # how far between lower and upper corner, 0 … 1
    inside_AP: Tensor  # False where a place was clamped to the border, beyond which nothing changes


def cells_of(places_ABTHW: Tensor) -> Cells:
    """The cells of places in pixels, clamped to the clip. Places of clip b lie in rows b·T·H·W …; axes are longer than 1."""
    n_clips, sizes = places_ABTHW.shape[1], places_ABTHW.shape[:1:-1]  # (W, H, T)
    last = torch.tensor(sizes, dtype=places_ABTHW.dtype).sub_(1).view(3, 1, 1, 1, 1)
    inside = (places_ABTHW > 0) & (places_ABTHW < last)
    shares = places_ABTHW.clamp(torch.zeros_like(last), last)
    low = torch.minimum(shares.floor(), last - 1)
    shares -= low
    x, y, t = low.int()
    width, height, length = sizes
    rows = t.mul_(height).add_(y).mul_(width).add_(x)
    rows += torch.arange(n_clips, dtype=torch.int32).mul_(width * height * length).view(-1, 1, 1, 1)
    offsets = [(c & 1) + (c >> 1 & 1) * width + (c >> 2) * width * height for c in range(CORNERS)]
    first = rows.flatten()
    rows_P8 = torch.stack([first + offset for offset in offsets], 1)
    return Cells(rows_P8, shares.flatten(1), inside.flatten(1))


def corner_weights(cells: Cells, slope_along: int | None = None) -> Tensor:
    """(P, 8) weights of the corners' rows, or their derivatives with respect to a place's coordinate on one axis.

    Corner by corner into a strided column: as one broadcast product it takes six times as long.
    """
    sides = []
    for axis, share_P in enumerate(cells.shares_AP):
        if axis == slope_along:
            inside_P = cells.inside_AP[axis].to(share_P.dtype)
            sides.append((-inside_P, inside_P))
        else:
            sides.append((1 - share_P, share_P))
    x, y, t = sides
    out_P8 = x[0].new_empty(len(x[0]), CORNERS)
    planes = [y_side * x_side for y_side in y for x_side in x]
    for corner in range(CORNERS):
        torch.mul(t[corner >> 2], planes[corner & 3], out=out_P8[:, corner])
    return out_P8


def sample(table_PS: Tensor, rows_P8: Tensor, weights_P8: Tensor) -> Tensor:
    """(P, S): each position's weighted sum of eight rows."""
    return torch.nn.functional.embedding_bag(rows_P8, table_PS, mode="sum", per_sample_weights=weights_P8)


def scatter(grad_PS: Tensor, rows_P8: Tensor, weights_P8: Tensor) -> Tensor:
    """(P, S): the adjoint of `sample`: every position's row, by its weights, onto the eight it was made from."""
    n = len(grad_PS)
    starts = np.arange(0, CORNERS * n + 1, CORNERS, dtype=np.int32)
    matrix = csc_matrix(
        (weights_P8.numpy().ravel(), rows_P8.numpy().ravel(), starts), shape=(n, n), copy=False
    )
    return torch.from_numpy(matrix @ grad_PS.numpy())


def slopes(table_PS: Tensor, cells: Cells, grad_PS: Tensor) -> Tensor:
    """(3, P): the gradient with respect to the places, Σ_s grad · ∂sample/∂place."""
    along = [sample(table_PS, cells.rows_P8, corner_weights(cells, axis)) for axis in range(3)]
    return torch.stack([torch.linalg.vecdot(change_PS, grad_PS) for change_PS in along])
