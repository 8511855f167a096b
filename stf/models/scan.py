"""Mamba-1's selective scan in plain torch, exact on CPU and GPU, or by mamba-ssm's CUDA kernel.

Shapes: T time steps, M sequences, G independent groups (scan directions), D channels per group, N states per
channel.
Source: Gu & Dao 2023, "Mamba", eq. 2, with section 3.2's discretisation (zero-order hold for A, Euler for B).

A loop over time, not a parallel scan: with one decay per channel and state, the dense (T, T) form costs 9-270
times more than the loop at T = 32 (benchmarks/scan.py). What makes the loop fast is its layout (time first and D
innermost, so every step and every broadcast runs over contiguous memory), sums over states as small matrix
products, and sequences in blocks whose state stays in cache. The backward pass computes the states again, block
by block, instead of storing all (T, M, G, N, D).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stf.models.precision import without_autocast
from stf.models.scan_backends import KernelBackend

# Elements of the state per block. CPU: half of a 1 MB L2 cache, the fastest in benchmarks/scan.py. GPU: 32 MB, so that
# the backward pass, which holds T states and T decays, takes 2.1 GB at T = 32.
BLOCK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 23, "meta": 1 << 62}


def _blocks(u_TMGD: Tensor, n_states: int) -> list[slice]:
    """Slices of the M sequences whose state (m, G, N, D) stays within the device's block size."""
    per_sequence = u_TMGD.shape[2] * u_TMGD.shape[3] * n_states
    limit = BLOCK_ELEMENTS.get(u_TMGD.device.type, BLOCK_ELEMENTS["cuda"])
    size = max(1, limit // per_sequence)
    return [slice(start, start + size) for start in range(0, u_TMGD.shape[1], size)]


def _states(
    dt: Tensor, dtu: Tensor, A_GND: Tensor, B: Tensor, h_SmGND: Tensor, decay_SmGND: Tensor
) -> Iterator[Tensor]:
    """h_t = exp(dt_t·A)·h_{t-1} + B_t⊗(dt_t·u_t) for t = 0 … T-1, one at a time.

    States and decays are written round the S slots of the last two arguments: S = T keeps them all.
    """
    slots, previous = len(h_SmGND), None
    for t in range(len(dt)):
        h, decay = h_SmGND[t % slots], decay_SmGND[t % slots]
        torch.mul(B[t].unsqueeze(-1), dtu[t].unsqueeze(-2), out=h)
        if previous is not None:  # the state before the first step is zero
            torch.exp(torch.mul(dt[t].unsqueeze(-2), A_GND, out=decay), out=decay)
            h.addcmul_(decay, previous)
        previous = h
        yield h


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(u, dt, A, B, C)
        y = torch.empty_like(u)
        blocks = _blocks(u, A.shape[1])
        buffers = u.new_empty(2, 2, min(u.shape[1], blocks[0].stop), *A.shape)
        for rows in blocks:
            dt_m, B_m, C_m = dt[:, rows], B[:, rows], C[:, rows]
            h, decay = buffers[:, :, : dt_m.shape[1]]
            for t, state in enumerate(_states(dt_m, dt_m * u[:, rows], A, B_m, h, decay)):
                y[t, rows] = (C_m[t].unsqueeze(-2) @ state).squeeze(-2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore
        u, dt, A, B, C = ctx.saved_tensors
        grads = (
            torch.empty_like(u),
            torch.empty_like(dt),
            torch.zeros_like(A),
            torch.empty_like(B),
            torch.empty_like(C),
        )
        blocks = _blocks(u, A.shape[1])
        buffers = u.new_empty(2, len(u), min(u.shape[1], blocks[0].stop), *A.shape)
        for rows in blocks:
            inputs = [x[:, rows] for x in (u, dt, B, C, grad_y)]
            outputs = [grads[2], *(x[:, rows] for i, x in enumerate(grads) if i != 2)]
            _backward_block(A, inputs, outputs, buffers)
        return grads


def _backward_block(A: Tensor, inputs: list[Tensor], outputs: list[Tensor], buffers: Tensor) -> None:
    """Reverse-mode of one block: fills grad_u, grad_dt, grad_B, grad_C and adds to grad_A."""
    u, dt, B, C, grad_y = inputs
    grad_A, grad_u, grad_dt, grad_B, grad_C = outputs
    dtu = dt * u
    h, decay = buffers[:, :, : u.shape[1]]
    for _ in _states(dt, dtu, A, B, h, decay):
        pass
    grad_h, A_sum, scratch = torch.zeros_like(h[0]), torch.zeros_like(h[0]), torch.empty_like(h[0])
    for t in reversed(range(len(u))):
        grad_h.addcmul_(C[t].unsqueeze(-1), grad_y[t].unsqueeze(-2))
        grad_C[t] = torch.mul(h[t], grad_y[t].unsqueeze(-2), out=scratch).sum(-1)
        grad_B[t] = torch.mul(grad_h, dtu[t].unsqueeze(-2), out=scratch).sum(-1)
        grad_dtu = (B[t].unsqueeze(-2) @ grad_h).squeeze(-2)
        torch.mul(grad_dtu, dt[t], out=grad_u[t])
        torch.mul(grad_dtu, u[t], out=grad_dt[t])
        if t > 0:
            grad_h.mul_(decay[t])
            exponent = torch.mul(grad_h, h[t - 1], out=scratch)  # gradient with respect to dt·A
            A_sum.addcmul_(exponent, dt[t].unsqueeze(-2))
            grad_dt[t] += exponent.mul_(A).sum(-2)
    grad_A += A_sum.sum(0)


@torch.compiler.disable()  # a loop over time and blocks that writes in place: unrolled, it takes minutes to compile
def selective_scan(
    u_TMGD: Tensor,
    dt_TMGD: Tensor,
    A_GDN: Tensor,
    B_TMGN: Tensor,
    C_TMGN: Tensor,
    backend: KernelBackend = "torch",
) -> Tensor:
    """y_t = C_t·h_t with h_t = exp(dt_t·A)·h_{t-1} + dt_t·B_t·u_t and h_{-1} = 0; (T, M, G, D).

    dt is positive (after softplus), A negative. Computed in float32 at least, whatever autocast says: a
    bfloat16 state loses the product of many decays near 1. The skip term D·u is the caller's. `backend` is
    resolve_backend's choice (scan_backends.py); "mamba_ssm" needs CUDA tensors.
    """
    with without_autocast(u_TMGD):
        if backend == "mamba_ssm":
            return _mamba_ssm_scan(u_TMGD, dt_TMGD, A_GDN, B_TMGN, C_TMGN)
        kind = torch.promote_types(u_TMGD.dtype, torch.float32)
        u, dt, B, C = (x.to(kind).contiguous() for x in (u_TMGD, dt_TMGD, B_TMGN, C_TMGN))
        return _SelectiveScan.apply(u, dt, A_GDN.to(kind).mT.contiguous(), B, C)


def _mamba_ssm_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The same by mamba-ssm's CUDA kernel, in float32, the only precision in which it takes all five alike.

    Its layout is (M, channels, T), time innermost, with one B and C (M, G, N, T) per G-th of the channels: our
    groups side by side are its channels, and each keeps the rows of A, B and C that are its own.
    """
    from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore[reportMissingImports]
        selective_scan_fn,
    )

    by_channel = [x.float().permute(1, 2, 3, 0).flatten(1, 2).contiguous() for x in (u, dt)]
    by_group = [x.float().permute(1, 2, 3, 0).contiguous() for x in (B, C)]
    y_McT = selective_scan_fn(*by_channel, A.float().flatten(0, 1).contiguous(), *by_group)
    return y_McT.unflatten(1, u.shape[2:]).permute(3, 0, 1, 2)
