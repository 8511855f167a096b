"""Hydra's mixer along time: one projection and convolution for past and future, mixed by one quasiseparable matrix.

Shapes: M sequences (clip × location), T frames, D model channels, E = ssm_expand·D inner channels, H heads of P
channels (E = H·P), N states, G = 2 directions (forward, backward in time), K taps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stf.mixer_size import SCAN_DIRECTIONS, hydra_head_dim, odd_kernel
from stf.models.mamba_blocks import DT_MAX, DT_MIN
from stf.models.scan_backends import KernelBackend
from stf.models.ssd import quasiseparable_mix


class HydraQuasiseparableMixer(nn.Module):
    """(M, T, D) → the same; every frame sees past and future (Hwang, Lahoti et al. 2024, "Hydra", section 3.2).

        z, x, B, C, dt = W_in·input                 B, C and dt for either direction
        x, B, C        = SiLU(conv(x, B, C))        depthwise, as far ahead as back, zeros outside the clip
        y              = shift(SS(x)) + flip(shift(SS(flip x))) + x·(W_D·x + D)
        output         = W_out·(RMSNorm(y)·SiLU(z))

    The directions share everything but the rows of W_in and of the convolution that make their B, C and dt, hence
    half of MambaVisionMixer's parameters. Decay A, D and the bias of dt are one number per head.
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
        G, E, N = SCAN_DIRECTIONS, expand * d_model, d_state
        P = hydra_head_dim(E)
        H, convolved, kernel = E // P, E + 2 * G * N, odd_kernel(d_conv)
        self.head_dim, self.d_state = P, N
        self.widths = [E, convolved, G * H]  # of z; x, B and C; dt
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = nn.Conv2d(convolved, convolved, (1, kernel), padding=(0, kernel // 2), groups=convolved)
        self.skip_proj = nn.Linear(E, H, bias=False)
        self.A_log, self.D = nn.Parameter(torch.zeros(H)), nn.Parameter(torch.ones(H))
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.norm = nn.RMSNorm(E, eps=1.0e-5)
        self.out_proj = nn.Linear(E, d_model, bias=False)
        with torch.no_grad():  # step sizes log-uniform, as in MambaVisionMixer
            dt = torch.exp(torch.empty(H).uniform_(math.log(DT_MIN), math.log(DT_MAX)))
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        for parameter in (self.A_log, self.D, self.dt_bias):
            parameter._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]  # as mamba-ssm marks them

    def forward(self, x_MTD: Tensor, open_MN: Tensor | None = None) -> Tensor:
        """`open_MN` in [0, 1] weighs the read-out of every state, in both directions; None opens all of them."""
        z, xBC, dt = self.in_proj(x_MTD).split(self.widths, -1)
        y = self.mix(self.convolve(xBC), dt, open_MN)
        weight = self.norm.weight.to(y.dtype)  # torch has no fused kernel for two types
        return self.out_proj(F.rms_norm(y, y.shape[-1:], weight, self.norm.eps) * F.silu(z))

    def convolve(self, xBC_MTF: Tensor) -> Tensor:
        """SiLU of the convolution along time, as a channels-last picture of height 1: conv1d is 4 times slower."""
        picture_MF1T = xBC_MTF.contiguous().mT.unsqueeze(2)
        return F.silu(self.conv(picture_MF1T).squeeze(2).mT)

    def mix(self, xBC_MTF: Tensor, dt_MTF: Tensor, open_MN: Tensor | None = None) -> Tensor:
        """What stands between convolution and gate: (M, T, E) from x, B and C side by side, and dt before softplus.

        y - x·(W_D·x + D) is linear in C, so the weights w_n = Σ_{k: N_k > n} p_k, Σ_k p_k = 1, give the mixture
        Σ_k p_k·y^{(N_k)} of mixers that have their first N_k states only.
        """
        G, N = SCAN_DIRECTIONS, self.d_state
        x, B, C = xBC_MTF.split([self.widths[0], G * N, G * N], -1)
        B, C = B.unflatten(-1, (G, N)), C.unflatten(-1, (G, N))
        if open_MN is not None:
            C = C * open_MN[:, None, None]
        kind = torch.promote_types(x.dtype, torch.float32)
        dt = F.softplus(dt_MTF.to(kind).unflatten(-1, (G, -1)) + self.dt_bias)
        A, diagonal = -torch.exp(self.A_log.to(kind)), self.skip_proj(x).to(kind) + self.D
        heads = x.unflatten(-1, (-1, self.head_dim))
        return quasiseparable_mix(heads, dt, A, B, C, diagonal, self.backend).flatten(2)
