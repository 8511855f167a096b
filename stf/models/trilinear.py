"""Trilinear sampling of channels-last features on a CPU, its adjoint, and its slope along each axis.

Shapes: P positions, S channels, C corners of the cell that a place lies in, A = 3 axes in the order (x, y, t), as
the steps of a snake have them. Features are a table (P, S) of whole clips, one row a position, t slowest.

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


class Cells(NamedTuple):
    """The cells that P places lie in."""

    first_P: Tensor  # int32: the row of the lowest corner
    strides: tuple[int, int, int]  # rows from a corner to the next along x, y and t
    shares_AP: Tensor  # how far between lower and upper corner, 0 … 1


def cells_of(places_ABTHW: Tensor) -> Cells:
    """The cells of places in pixels, clamped to the clip, whose axes are longer than 1; clips follow one another."""
    _, n_clips, length, height, width = places_ABTHW.shape
    last = _last_pixels(places_ABTHW)
    shares = places_ABTHW.clamp(torch.zeros_like(last), last)
    low = torch.fmin(
        shares.floor(), last - 1
    )  # for NaN a row that exists: its share is NaN, and so is the sample
    shares -= low
    x, y, t = low.int().clamp_(min=0)  # a place that is NaN gives a sample that is NaN, not a crash
    rows = t.mul_(height).add_(y).mul_(width).add_(x)
    rows += torch.arange(n_clips, dtype=torch.int32).mul_(width * height * length).view(-1, 1, 1, 1)
    return Cells(rows.flatten(), (1, width, width * height), shares.flatten(1))


def _last_pixels(places_ABTHW: Tensor) -> Tensor:
    sizes = places_ABTHW.shape[:1:-1]  # (W, H, T)
    return torch.tensor(sizes, dtype=places_ABTHW.dtype).sub_(1).view(3, 1, 1, 1, 1)


def corners(cells: Cells, axes: tuple[int, ...] = (0, 1, 2)) -> tuple[Tensor, Tensor]:
    """(rows int32, weights), each (P, 2^n), of the cells' corners along n `axes`, at the lower end of the others.

    Corner by corner into a strided column: as one broadcast product the weights take six times as long.
    """
    first_P, rows, planes = cells.first_P, [0], [torch.ones(())]
    for axis in axes:
        share_P = cells.shares_AP[axis]
        rows += [row + cells.strides[axis] for row in rows]
        planes = [plane * side for side in (1 - share_P, share_P) for plane in planes]
    rows_PC = first_P.new_empty(len(first_P), len(rows))
    weights_PC = cells.shares_AP.new_empty(rows_PC.shape)
    for corner, (row, plane) in enumerate(zip(rows, planes, strict=True)):
        torch.add(first_P, row, out=rows_PC[:, corner])
        weights_PC[:, corner] = plane
    return rows_PC, weights_PC


def sample(table_PS: Tensor, rows_PC: Tensor, weights_PC: Tensor) -> Tensor:
    """(P, S): each position's weighted sum of rows."""
    return torch.nn.functional.embedding_bag(rows_PC, table_PS, mode="sum", per_sample_weights=weights_PC)


def scatter(grad_PS: Tensor, rows_PC: Tensor, weights_PC: Tensor) -> Tensor:
    """(P, S): the adjoint of `sample`: every position's row, by its weights, onto those it was made from."""
    n, n_corners = rows_PC.shape
    starts = np.arange(0, n_corners * n + 1, n_corners, dtype=np.int32)
    matrix = csc_matrix(
        (weights_PC.numpy().ravel(), rows_PC.numpy().ravel(), starts), shape=(n, n), copy=False
    )
    return torch.from_numpy(matrix @ grad_PS.numpy())


def slopes(table_PS: Tensor, cells: Cells, grad_PS: Tensor) -> Tensor:
    """(3, P): Σ_s grad · ∂sample/∂place, before clamping, for each axis.

    Along an axis a sample changes by the difference of the two rows, interpolated over the other axes.
    """
    out_AP = torch.empty_like(cells.shares_AP)
    for axis, stride in enumerate(cells.strides):
        others = tuple(other for other in range(3) if other != axis)
        change_PS = sample(table_PS[stride:] - table_PS[:-stride], *corners(cells, others))
        torch.linalg.vecdot(change_PS, grad_PS, out=out_AP[axis])
    return out_AP


def inside(places_ABTHW: Tensor) -> Tensor:
    """False where a place is on or beyond the clip's border, where its sample does not change with it."""
    return (places_ABTHW > 0) & (places_ABTHW < _last_pixels(places_ABTHW))
