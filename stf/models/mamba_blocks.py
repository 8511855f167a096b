"""V7.3's temporal mixer: one selective state-space model forward in time and one backward, along every location.

Shapes: M sequences (clip × location), T frames, D model channels, E = ssm_expand·D inner channels per direction,
N states, R rank of the step size.
"""

from __future__ import annotations

import math

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from stf.models.scan import selective_scan

DT_MIN, DT_MAX = 1.0e-3, 1.0e-1
DIRECTIONS = 2


def dt_rank(dim: int) -> int:
    """Rank R of the projection that makes the step size, Mamba's "auto": ⌈dim / 16⌉."""
    return math.ceil(dim / 16)


def causal_depthwise(x_MTGE: Tensor, weight_KGE: Tensor, bias_GE: Tensor) -> Tensor:
    """y_t = Σ_k w_k·x_{t-k} + bias, per channel, zeros before the start: K fused passes, no transposes."""
    T = x_MTGE.shape[1]
    y = torch.addcmul(bias_GE, x_MTGE, weight_KGE[0])
    padded = F.pad(x_MTGE, (0, 0, 0, 0, weight_KGE.shape[0] - 1, 0))
    for k in range(1, weight_KGE.shape[0]):
        start = weight_KGE.shape[0] - 1 - k
        y = torch.addcmul(y, padded[:, start : start + T], weight_KGE[k])
    return y


class MambaVisionMixer(nn.Module):
    """Two Mamba-1 models of (M, T, D), forward and backward in time, concatenated, gated and projected to (M, T, D).

    Per direction: in-projection, causal depthwise convolution of d_conv taps, SiLU, data-dependent dt, B, C, selective
    scan with skip D (Gu & Dao 2023, algorithm 2). The directions share no parameter. Own design; the gate covers both.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.rank = expand * d_model, d_state, dt_rank(d_model)
        G, E, R = DIRECTIONS, self.d_inner, self.rank
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
        nn.init.uniform_(
            self.conv_weight, -(self.conv_weight.shape[0] ** -0.5), self.conv_weight.shape[0] ** -0.5
        )
        nn.init.uniform_(self.x_proj, -(self.d_inner**-0.5), self.d_inner**-0.5)
        nn.init.uniform_(self.dt_proj, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            dt = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX)))
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus

    def forward(self, x_MTD: Tensor) -> Tensor:
        M, T, _ = x_MTD.shape
        x, gate = self.in_proj(x_MTD).view(M, T, 2, DIRECTIONS, self.d_inner).unbind(2)
        u = F.silu(causal_depthwise(_reverse_second(x), self.conv_weight, self.conv_bias))
        low, B, C = torch.einsum("mtge,ger->mtgr", u, self.x_proj).split(
            [self.rank, self.d_state, self.d_state], -1
        )
        dt = F.softplus(torch.einsum("mtgr,gre->mtge", low, self.dt_proj).float() + self.dt_bias)
        y = selective_scan(u, dt, -torch.exp(self.A_log.float()), B, C)
        y = _reverse_second(torch.addcmul(y, u, self.D))
        return self.out_proj((y.to(gate.dtype) * F.silu(gate)).flatten(2))


def _reverse_second(x_MTGE: Tensor) -> Tensor:
    """The second group read backwards in time; its own inverse."""
    return torch.stack((x_MTGE[:, :, 0], x_MTGE[:, :, 1].flip(1)), dim=2)


class MambaBlock(nn.Module):
    """h = x + Mixer(Norm x) along time at every location; out = h + MLP(Norm h); (B, T, H, W, D) → the same."""

    def __init__(self, dim: int, mixer: nn.Module, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer = mixer
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTHWD: Tensor) -> Tensor:
        B, T, H, W, D = x_BTHWD.shape
        sequences = self.norm1(x_BTHWD).permute(0, 2, 3, 1, 4).reshape(B * H * W, T, D)
        mixed = self.mixer(sequences).view(B, H, W, T, D).permute(0, 3, 1, 2, 4)
        h = x_BTHWD + self.drop_path(mixed)
        return h + self.drop_path(self.mlp(self.norm2(h)))
