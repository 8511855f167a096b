"""A convolution in the place of stage 3's state-space model, for machines or studies that want none.

Shapes: M sequences (clip × location), T frames, D model channels, E = expand·D inner channels, K = 2·reach + 1 taps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stf.mixer_size import REACH_PER_D_CONV


class Conv1DSequenceMixer(nn.Module):
    """Gated depthwise convolution over past and future; (M, T, D) → the same. An *approximation*, chosen by name only.

    A state-space model whose step size, B and C did not depend on the data would be exactly a convolution with the
    kernel Σ_n C_n·exp(A_n·dt·lag)·B_n·dt per channel (Gu et al. 2022, eq. 5). This mixer learns such a kernel
    freely, in both directions at once, and so gives up two things: selectivity (its taps are the same for
    every clip and frame) and memory beyond its reach of 4·d_conv - 1 frames (15 at d_conv 4: a frame sees the
    31 frames around it, two blocks see all of a 32-frame clip). It has other parameters than the mixers that it
    stands for, and no state, so `use_adaptive_sdim` does not go with it.
    """

    def __init__(self, d_model: int, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_inner, self.reach = expand * d_model, REACH_PER_D_CONV * d_conv - 1
        n_taps = 2 * self.reach + 1
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(self.d_inner, n_taps))
        self.conv_bias = nn.Parameter(torch.zeros(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        nn.init.uniform_(self.conv_weight, -(n_taps**-0.5), n_taps**-0.5)

    def forward(self, x_MTD: Tensor) -> Tensor:
        x, gate = self.in_proj(x_MTD.transpose(0, 1)).chunk(2, -1)
        y = F.silu(symmetric_depthwise(x, self.conv_weight) + self.conv_bias)
        return self.out_proj(y * F.silu(gate)).transpose(0, 1)


def symmetric_depthwise(x_TME: Tensor, weight_EK: Tensor) -> Tensor:
    """y_t = Σ_k w_k·x_{t+r-k} per channel, r = (K-1)/2, zeros outside the clip.

    As one T × T Toeplitz matrix per channel: at T = 16 … 32 and K = 31 a batched product is several times as fast as
    K shifted additions or conv1d (forward and backward, one core).
    """
    T, reach = len(x_TME), weight_EK.shape[1] // 2
    lags = F.pad(weight_EK, (T - 1 - reach, T - 1 - reach))  # of -(T-1) … T-1; negative widths crop
    toeplitz_ETT = lags.unfold(1, T, 1)  # row t: lags t-(T-1) … t, so it reads the clip backwards
    return torch.einsum("etu,ume->tme", toeplitz_ETT, x_TME.flip(0))
