"""V7.3's temporal mixer: at every location, one state-space model forward in time and one backward.

Shapes: M sequences (clip × location), T frames, D model channels, E = ssm_expand·D inner channels per
direction, N states, R rank of the step size.
"""

from __future__ import annotations

import math

import torch
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from stf.models.checkpointing import CheckpointedBlock
from stf.models.scan import selective_scan
from stf.models.scan_backends import KernelBackend

SCAN_DIRECTIONS = 2
DT_MIN, DT_MAX = 1.0e-3, 1.0e-1
# Numbers of a mixer's input on a CPU when nothing is stored for backward: 42 of a full-size clip's 196 sequences, whose
# inner channels stay in cache and in memory that malloc reuses. All 196 at once took Mamba's mixer 1.3 and Hydra's 1.4
# times as long.
NUMBERS_AT_ONCE = 1 << 19


def dt_rank(dim: int) -> int:
    """Rank R of the projection that makes the scan's step size, Mamba's "auto": ⌈dim / 16⌉."""
    return math.ceil(dim / 16)


class CausalDepthwise(torch.autograd.Function):
    """y_t = Σ_k w_k·x_{t-k} + bias per channel, zeros before the start: K fused passes over contiguous memory.

    x (T, M, G, E), weight (K, G, E), bias (G, E) → (T, M, G, E) in x's type. The gradient of the weights is summed
    frame by frame on a CPU, whose products then stay in cache: through autograd's slices it took nine times as long.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(x, weight)
        w = weight.to(x.dtype)
        y = torch.addcmul(bias.to(x.dtype), x, w[0])
        for k in range(1, min(len(w), len(x))):
            y[k:].addcmul_(x[:-k], w[k])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        w, grad_w = weight.to(x.dtype), torch.zeros_like(weight)
        grad_x = grad_y * w[0]
        for k in range(1, min(len(w), len(x))):
            grad_x[:-k].addcmul_(grad_y[k:], w[k])
        frames = 1 if x.device.type == "cpu" else len(x)
        for k in range(min(len(w), len(x))):
            for rows, grad in zip(x[: len(x) - k].split(frames), grad_y[k:].split(frames), strict=True):
                grad_w[k] += (rows * grad).sum((0, 1), dtype=weight.dtype)
        return grad_x, grad_w, grad_y.sum((0, 1), dtype=weight.dtype)


class MambaVisionMixer(nn.Module):
    """Two Mamba-1 models, forward and backward in time, concatenated, gated, projected; (M, T, D) → the same.

    Per direction: in-projection, causal depthwise convolution of d_conv taps, SiLU, data-dependent dt, B, C,
    selective scan with skip D (Gu & Dao 2023, algorithm 2). The directions share no parameter. Own design;
    the gate covers both.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        backend: KernelBackend = "torch",
    ) -> None:
        super().__init__()
        self.backend: KernelBackend = backend
        self.d_inner, self.d_state, self.rank = expand * d_model, d_state, dt_rank(d_model)
        G, E, R = SCAN_DIRECTIONS, self.d_inner, self.rank
        self.in_proj = nn.Linear(d_model, 2 * G * E, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(d_conv, G, E))
        self.conv_bias = nn.Parameter(torch.zeros(G, E))
        self.x_proj = nn.Parameter(torch.empty(G, E, R + 2 * d_state))
        self.dt_proj = nn.Parameter(torch.empty(G, R, E))
        self.dt_bias = nn.Parameter(torch.empty(G, E))
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().expand(G, E, d_state).clone())
        self.D = nn.Parameter(torch.ones(G, E))
        self.out_proj = nn.Linear(G * E, d_model, bias=False)
        self._initialise()
        for parameter in (self.A_log, self.D, self.dt_bias):
            parameter._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]  # as mamba-ssm marks them

    def _initialise(self) -> None:
        """Step sizes log-uniform in [DT_MIN, DT_MAX] (Mamba, section 3.6); projections uniform by fan-in."""
        inputs = {self.conv_weight: len(self.conv_weight), self.x_proj: self.d_inner, self.dt_proj: self.rank}
        for parameter, fan_in in inputs.items():
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)
        with torch.no_grad():
            dt = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX)))
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus

    def forward(self, x_MTD: Tensor, open_MN: Tensor | None = None) -> Tensor:
        """`open_MN` in [0, 1] weighs the read-out of every state, in both directions; None opens all of them.

        y is linear in C, so weights w_n = Σ_{k: N_k > n} p_k give the mixture Σ_k p_k·y^{(N_k)} of mixers that have
        their first N_k states only.
        """
        x_TMD = x_MTD.transpose(0, 1)  # time first: steps, shifts and reversals are then contiguous slabs
        x, gate = self.in_proj(x_TMD).unflatten(-1, (2, SCAN_DIRECTIONS, self.d_inner)).unbind(2)
        u = F.silu(CausalDepthwise.apply(_reverse_second(x), self.conv_weight, self.conv_bias))
        widths = [self.rank, self.d_state, self.d_state]
        low, B, C = torch.einsum("tmge,ger->tmgr", u, self.x_proj).split(widths, -1)
        if open_MN is not None:
            C = C * open_MN.unsqueeze(1)
        dt = F.softplus(torch.einsum("tmgr,gre->tmge", low, self.dt_proj).float() + self.dt_bias)
        y = selective_scan(u, dt, -torch.exp(self.A_log.float()), B, C, self.backend)
        y = _reverse_second(torch.addcmul(y, u, self.D))
        return self.out_proj((y.to(gate.dtype) * F.silu(gate)).flatten(2)).transpose(0, 1)


def _reverse_second(x_TMGE: Tensor) -> Tensor:
    """The second group read backwards in time; its own inverse."""
    return torch.stack((x_TMGE[:, :, 0], x_TMGE[:, :, 1].flip(0)), dim=2)


def mix_sequences(mixer: nn.Module, x_BxTD: Tensor, open_BN: Tensor | None = None) -> Tensor:
    """`mixer` along time at every location, (B, …, T, D) → the same; a clip's open states serve all of them."""
    sequences_MTD = x_BxTD.flatten(0, -3)
    states = [] if open_BN is None else [open_BN.repeat_interleave(len(sequences_MTD) // len(open_BN), dim=0)]
    at_once = max(1, NUMBERS_AT_ONCE // sequences_MTD[0].numel())
    if torch.is_grad_enabled() or x_BxTD.device.type != "cpu" or len(sequences_MTD) <= at_once:
        return mixer(sequences_MTD, *states).reshape(x_BxTD.shape)
    parts = zip(*(z.split(at_once) for z in (sequences_MTD, *states)), strict=True)
    return torch.cat([mixer(*part) for part in parts]).reshape(x_BxTD.shape)


class MambaBlock(CheckpointedBlock):
    """h = x + Mixer(Norm x) along time at every location; out = h + MLP(Norm h); (B, …, T, D) → the same."""

    def __init__(self, dim: int, mixer: nn.Module, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer = mixer
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BxTD: Tensor, open_BN: Tensor | None = None) -> Tensor:
        """`open_BN` are the clips' weights of the mixer's states; a mixer without states takes none."""
        h = x_BxTD + self.drop_path(mix_sequences(self.mixer, self.norm1(x_BxTD), open_BN))
        return h + self.drop_path(self.mlp(self.norm2(h)))
