"""Linear interpolation along one axis as a product with a small matrix.

A matrix product because its gradient, the transpose, adds in one order: torch's own trilinear and bilinear
kernels add gradients atomically on CUDA. n is at most a few hundred here, where a GEMM costs next to nothing.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from stf.models.precision import without_autocast


@functools.lru_cache(maxsize=64)
def _linear_rows(n_in: int, n_out: int, skipped: int, device: torch.device) -> Tensor:
    """(n_out, n_in) float64 weights, at most two in a row, that sum to 1; see `resize_axis` for the alignment."""
    with torch.inference_mode(False):  # the cached rows serve training too
        scale = (n_in + 2 * skipped) / n_out
        place = (torch.arange(n_out, dtype=torch.float64) + 0.5) * scale - 0.5 - skipped
        distance = (place.clamp(0, n_in - 1)[:, None] - torch.arange(n_in)).abs()
        return (1 - distance).clamp(min=0).to(device)


def resize_axis(x: Tensor, n_out: int, axis: int, skipped: int = 0) -> Tensor:
    """`x` with `axis` interpolated linearly to length n_out; beyond the outermost samples theirs repeat.

    Samples and outputs are the centres of equal parts of one interval (align_corners=False). From a half band
    to full length this puts coefficient i at 2i + 0.5, the middle of the samples 2i-1 … 2i+2 that
    `dwt_3d._analysis_rows` reads for it: sample 2i takes ¾ of coefficient i and ¼ of i-1, sample 2i+1 ¾ of i
    and ¼ of i+1. `skipped` counts the samples that are missing at each end of `x` and keeps the others where
    they are (dwt_3d.inner leaves out one). Never below x's precision, also under autocast.
    """
    if x.shape[axis] == n_out and not skipped:
        return x
    rows = _linear_rows(x.shape[axis], n_out, skipped, x.device).to(x.dtype)
    with without_autocast(x):
        return (rows @ x.reshape(*x.shape[: axis + 1], -1)).reshape(
            *x.shape[:axis], n_out, *x.shape[axis + 1 :]
        )
