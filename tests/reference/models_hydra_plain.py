"""Hydra and Mamer written out: every entry of the matrix by itself, every step of time by itself."""

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F


def matrix(dt_MTGH: Tensor, A_H: Tensor, B_MTGN: Tensor, C_MTGN: Tensor, diagonal_MTH: Tensor) -> Tensor:
    """(M, H, T, T), entry by entry, every decay a product of its frames' factors."""
    M, T, _, H = dt_MTGH.shape
    out = torch.zeros(M, H, T, T, dtype=dt_MTGH.dtype)
    for m, h, t, s in itertools.product(range(M), range(H), range(T), range(T)):
        if s == t:
            out[m, h, t, s] = diagonal_MTH[m, t, h]
            continue
        direction, read, between = (0, t - 1, slice(s + 1, t)) if s < t else (1, t + 1, slice(t + 1, s))
        decay = torch.exp(A_H[h] * dt_MTGH[m, between, direction, h]).prod()
        product = C_MTGN[m, read, direction] @ B_MTGN[m, s, direction]
        out[m, h, t, s] = product * decay * dt_MTGH[m, s, direction, h]
    return out


def scan(x_MTHP: Tensor, dt_MTH: Tensor, A_H: Tensor, B_MTN: Tensor, C_MTN: Tensor) -> Tensor:
    """y_t = C_t·h_t, h_t = exp(A·dt_t)·h_{t-1} + dt_t·B_t⊗x_t: the recurrence, autograd does the rest."""
    M, T, H, P = x_MTHP.shape
    state = x_MTHP.new_zeros(M, H, P, B_MTN.shape[-1])
    ys = []
    for t in range(T):
        decay = torch.exp(A_H * dt_MTH[:, t])[..., None, None]
        state = decay * state + (dt_MTH[:, t, :, None] * x_MTHP[:, t])[..., None] * B_MTN[:, t, None, None]
        ys.append((state * C_MTN[:, t, None, None]).sum(-1))
    return torch.stack(ys, 1)


def mix(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, diagonal: Tensor) -> Tensor:
    """shift(SS(x)) + flip(shift(SS(flip x))) + diagonal·x by the recurrence, (M, T, H, P)."""

    def shift(y: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(y[:, :1]), y[:, :-1]), 1)

    past = shift(scan(x, dt[:, :, 0], A, B[:, :, 0], C[:, :, 0]))
    reversed_inputs = [z.flip(1) for z in (x, dt[:, :, 1], B[:, :, 1], C[:, :, 1])]
    x_r, dt_r, B_r, C_r = reversed_inputs
    future = shift(scan(x_r, dt_r, A, B_r, C_r)).flip(1)
    return past + future + x * diagonal[..., None]


def core_inputs(xBC_MTF: Tensor, raw_dt_MTF: Tensor, mixer: torch.nn.Module) -> tuple[Tensor, ...]:
    """x, dt, A, B, C and diagonal of HydraQuasiseparableMixer, from what its convolution and its projection give."""
    H, N = len(mixer.D), mixer.d_state
    E = xBC_MTF.shape[-1] - 4 * N
    x, B_0, B_1, C_0, C_1 = xBC_MTF.split([E, N, N, N, N], -1)
    dt = torch.stack([F.softplus(raw + mixer.dt_bias) for raw in raw_dt_MTF.split(H, -1)], 2)
    diagonal = x @ mixer.skip_proj.weight.T + mixer.D
    heads = x.reshape(*x.shape[:2], H, E // H)
    return heads, dt, -mixer.A_log.exp(), torch.stack((B_0, B_1), 2), torch.stack((C_0, C_1), 2), diagonal


def mixer(x_MTD: Tensor, module: torch.nn.Module) -> Tensor:
    """HydraQuasiseparableMixer's formula."""
    E, H, N = module.out_proj.in_features, len(module.D), module.d_state
    z, xBC, raw_dt = (x_MTD @ module.in_proj.weight.T).split([E, E + 4 * N, 2 * H], -1)
    weight = module.conv.weight[:, :, 0]
    convolved = F.conv1d(xBC.mT, weight, module.conv.bias, padding=weight.shape[2] // 2, groups=len(weight))
    y = mix(*core_inputs(F.silu(convolved.mT), raw_dt, module)).flatten(2)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.norm.weight
    return (y * F.silu(z)) @ module.out_proj.weight.T


def attention(x_MTD: Tensor, module: torch.nn.Module) -> Tensor:
    """softmax(q·k / √d)·v per head, every frame to every frame of its sequence."""
    outputs = []
    q, k, v = (x_MTD @ module.qkv.weight.T + module.qkv.bias).chunk(3, -1)
    for q_h, k_h, v_h in zip(*(z.chunk(module.num_heads, -1) for z in (q, k, v)), strict=True):
        outputs.append((q_h @ k_h.mT / math.sqrt(q_h.shape[-1])).softmax(-1) @ v_h)
    return torch.cat(outputs, -1) @ module.proj.weight.T + module.proj.bias


def chunk_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, **settings: object
) -> Tensor:
    """Stands in for mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined: its demands, the loop's numbers.

    x (M, T, H, P), dt (M, T, H) after softplus, A (H,), B and C (M, T, groups, N); version 2.3.2, where none of
    the optional arguments (D, z, dt_bias, dt_softplus, initial_states, …) has a use for us.
    """
    (M, T, H, _), (groups, N) = x.shape, B.shape[2:]
    assert not settings
    assert H % groups == 0
    assert groups == 1  # all that this stand-in can do
    assert dt.shape == (M, T, H)
    assert A.shape == (H,)
    assert B.shape == C.shape == (M, T, groups, N)
    assert {z.dtype for z in (x, dt, A, B, C)} == {torch.float32}
    assert x.stride(-1) == B.stride(-1) == C.stride(-1) == 1
    assert isinstance(chunk_size, int)
    assert chunk_size >= 16
    assert chunk_size & (chunk_size - 1) == 0
    return scan(x, dt, A, B[:, :, 0], C[:, :, 0])
