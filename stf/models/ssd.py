"""Hydra's quasiseparable mixing: two scans with one decay per head, past and future, and a diagonal, as one matrix.

Shapes: M sequences, T frames, G = 2 directions (forward, backward in time), H heads of P channels, N states.
Source: Hwang, Lahoti et al. 2024, "Hydra", section 3.1; Dao & Gu 2024, "Transformers are SSMs", eq. 16, for the scan.

A scan whose decay is a scalar per head is a product with a lower triangular (T, T) matrix. Hydra's forward scan fills
the triangle below the diagonal, its backward scan the one above and its skip the diagonal, so one exponential and one
batched product do for all three; benchmarks/scan.py compares it with the recurrence. For backward, two (M, H, T, T)
tensors are kept, 4·M·H·T² bytes in float32 and as many or half (bfloat16) for the product, beside x with heads first.
With P >= T neither is larger than x. At full size (M = 16·196, H = 12, P = 64, T = 32) they are 154 MB each, x in
float32 308 MB.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stf.models.precision import without_autocast
from stf.models.scan_backends import KernelBackend

SMALLEST_CHUNK = 64  # frames that mamba-ssm's kernels take at once; their blocks are of 32 to 128


def quasiseparable_matrix(
    dt_MTGH: Tensor, A_H: Tensor, B_MTGN: Tensor, C_MTGN: Tensor, diagonal_MTH: Tensor
) -> Tensor:
    """(M, H, T, T): what weighs x_s in y_t, with c_t = Σ_{k<=t} A·dt_k per direction.

    s < t:  C_{t-1}·B_s · exp(c_{t-1} - c_s) · dt_s   of the forward direction: its scan, one frame late
    s = t:  diagonal_t
    s > t:  C_{t+1}·B_s · exp(c_{s-1} - c_t) · dt_s   of the backward direction: its scan, one frame early
    """
    T = dt_MTGH.shape[1]
    frame = torch.arange(T, device=dt_MTGH.device)
    past, present = frame[:, None] > frame, frame[:, None] == frame
    dt_GMHT = dt_MTGH.permute(2, 0, 3, 1)
    a = dt_GMHT * A_H[:, None]
    c = a.cumsum(-1)
    late = c - a
    log_dt = dt_GMHT.clamp_min(torch.finfo(dt_GMHT.dtype).tiny).log()
    exponent_MHTT = torch.where(
        past,
        late[0].unsqueeze(-1) + (log_dt[0] - c[0]).unsqueeze(-2),
        (late[1] + log_dt[1]).unsqueeze(-2) - c[1].unsqueeze(-1),
    )
    # Masked before exp: on the diagonal the exponent is positive, and infinity times its zero gradient is NaN.
    weight_MHTT = exponent_MHTT.masked_fill_(present, 0.0).exp_()
    C_late, C_early = F.pad(C_MTGN[:, :-1, 0], (0, 0, 1, 0)), F.pad(C_MTGN[:, 1:, 1], (0, 0, 0, 1))
    product_MTT = torch.where(past, C_late @ B_MTGN[:, :, 0].mT, C_early @ B_MTGN[:, :, 1].mT)
    matrix_MHTT = weight_MHTT * product_MTT.unsqueeze(1)
    matrix_MHTT.diagonal(dim1=-2, dim2=-1).copy_(diagonal_MTH.mT)
    return matrix_MHTT


def quasiseparable_mix(
    x_MTHP: Tensor,
    dt_MTGH: Tensor,
    A_H: Tensor,
    B_MTGN: Tensor,
    C_MTGN: Tensor,
    diagonal_MTH: Tensor,
    backend: KernelBackend = "torch",
) -> Tensor:
    """y = shift(SS(x)) + flip(shift(SS(flip x))) + diagonal·x, (M, T, H, P).

    SS is the scan y_t = C_t·h_t with h_t = exp(A·dt_t)·h_{t-1} + dt_t·B_t⊗x_t and h_{-1} = 0. dt is positive (after
    softplus), A negative. All but the last product is in float32 at least, whatever autocast says, and that product
    in x's type. `backend` is resolve_backend's choice (scan_backends.py); "mamba_ssm" needs CUDA tensors.
    """
    with without_autocast(x_MTHP):
        if backend == "mamba_ssm":
            x = x_MTHP.float()
            scans = _mamba_ssm_scans(x, dt_MTGH.float(), A_H.float(), B_MTGN.float(), C_MTGN.float())
            return torch.addcmul(scans, x, diagonal_MTH.unsqueeze(-1).float()).to(x_MTHP.dtype)
        kind = torch.promote_types(x_MTHP.dtype, torch.float32)
        dt, A, B, C, diagonal = (z.to(kind) for z in (dt_MTGH, A_H, B_MTGN, C_MTGN, diagonal_MTH))
        matrix_MHTT = quasiseparable_matrix(dt, A, B, C, diagonal)
        return (matrix_MHTT.to(x_MTHP.dtype) @ x_MTHP.transpose(1, 2)).transpose(1, 2)


def _mamba_ssm_scans(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """shift(SS(x)) + flip(shift(SS(flip x))) by mamba-ssm's Triton kernels, both directions as one batch.

    Shift first, then flip: the other order would make the backward scan's y_t read x_t and x_{t-1} too. In float32,
    whose products Triton takes as TF32: equal to the torch backend to about three digits, not to rounding.
    """
    from mamba_ssm.ops.triton.ssd_combined import (  # pyright: ignore[reportMissingImports]
        mamba_chunk_scan_combined,
    )

    def both(forward: Tensor, backward: Tensor) -> Tensor:
        return torch.cat((forward, backward.flip(1)))

    dt_2, B_2, C_2 = (both(z[:, :, 0], z[:, :, 1]) for z in (dt, B, C))
    chunk = max(SMALLEST_CHUNK, 1 << (x.shape[1] - 1).bit_length())
    y = mamba_chunk_scan_combined(both(x, x), dt_2, A, B_2.unsqueeze(2), C_2.unsqueeze(2), chunk)
    forward, backward = F.pad(y[:, :-1], (0, 0, 0, 0, 1, 0)).chunk(2)
    return forward + backward.flip(1)
