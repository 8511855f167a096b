"""Wavelet-selective scan (W-SS): where and when texture is off, let through at the times that flicker.

    HLL ─── log energy per frame ── GRU, both ways ── σ ──┐
    HHH, HLH ─── texture of every location ── ⊙ gate ──── ⊙ ── projection ── to full size ── + features
    all eight ── log energies of the clip ── gate ─┘

The GRU reads the clip's flicker and decides, channel by channel, which times the texture is looked at.
Shapes: B clips, T frames, H and W rows and columns of features, C channels of a band, K hidden channels, D
channels of the features, halves marked by a trailing 2. n = T/2 - 2 times: the two temporal coefficients that
wrap around the clip's ends are left out of everything here (dwt_3d.inner).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stf.models.dwt_3d import BANDS, WRAPPED_AT_EACH_END, inner
from stf.models.resample import resize_axis

# Beside the energy of a coefficient, about 1 with dwt_3d's projection of normed features (ENERGY_GAIN): a still
# clip's log energy is -9, not -∞, and its gradient finite.
EPSILON = 1e-4


def log_energy(band: Tensor, dims: tuple[int, ...]) -> Tensor:
    """½·ln(ε + mean square over `dims`) - ¼·ln ε: 2.3 for unit energy, -2.3 for none.

    Never below float32: near ln ε, bfloat16 resolves energies in steps of 6 % only.
    """
    precise = band.to(torch.promote_types(band.dtype, torch.float32))
    return 0.5 * (precise.square().mean(dims) + EPSILON).log() - 0.25 * math.log(EPSILON)


class TemporalFlickerStream(nn.Module):
    """HLL, pooled over space, through a bidirectional GRU (Cho et al. 2014): the logits of the flicker gate.

    It is the coefficients' energy that is pooled: their sign alternates, and a plain mean would cancel.
    """

    def __init__(self, band_channels: int, hidden_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(band_channels, hidden_dim, batch_first=True, bidirectional=True)
        self.gate = nn.Linear(2 * hidden_dim, hidden_dim)

    def forward(self, hll_BT2H2W2C: Tensor) -> Tensor:
        """HLL without its wrapped ends, (B, n, H/2, W/2, C) → gate logits per time and channel, (B, n, K)."""
        return self.gate(self.gru(log_energy(hll_BT2H2W2C, (2, 3)))[0])


class SpatialTextureStream(nn.Module):
    """Texture of HHH and HLH, its channels weighted by a gate that sees how the clip's energy is spread over bands.

    The gate is squeeze-and-excitation (Hu et al. 2018) on the log energies of all eight bands, normed: it reads
    their proportions, in which compression and blending differ, and not the contrast of the clip.
    """

    def __init__(self, band_channels: int, hidden_dim: int) -> None:
        super().__init__()
        n_energies = len(BANDS) * band_channels
        self.texture = nn.Sequential(nn.Linear(2 * band_channels, hidden_dim), nn.GELU())
        self.channel_gate = nn.Sequential(
            nn.LayerNorm(n_energies),
            nn.Linear(n_energies, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
        )

    def forward(self, bands: Mapping[str, Tensor]) -> Tensor:
        """The eight bands without their wrapped ends, (B, n, H/2, W/2, C) each → (B, n, H/2, W/2, K)."""
        energies_B8C = torch.cat([log_energy(bands[name], (1, 2, 3)) for name in BANDS], dim=-1)
        gate_BK = torch.sigmoid(self.channel_gate(energies_B8C))
        # Magnitudes: the sign of a high-pass coefficient says only on which side of an edge the grid lies.
        texture = self.texture(torch.cat((bands["HHH"], bands["HLH"]), dim=-1).abs())
        return texture * gate_BK[:, None, None, None]


class WaveletSelectiveScan(nn.Module):
    """features + upsampled(P(F_spatial · σ(F_temporal))), (B, T, H, W, D) → the same.

    P is a projection without bias that starts at zero (as ReZero's α, Bachlechner et al. 2021): adding this module
    does not change what a network computes; P learns from the first step on and everything before P from the second.
    Coefficients return to their frames by resize_axis: coefficient i is at frame 2i + 0.5, and the
    frames before the first and after the last kept coefficient (at 2.5 and T - 3.5) take that one's value.
    `use_wss=False` is the identity and has no parameters.
    """

    def __init__(self, dim: int, band_channels: int, hidden_dim: int, use_wss: bool = True) -> None:
        super().__init__()
        self.use_wss = use_wss
        if use_wss:
            self.temporal = TemporalFlickerStream(band_channels, hidden_dim)
            self.spatial = SpatialTextureStream(band_channels, hidden_dim)
            self.project = nn.Linear(hidden_dim, dim, bias=False)
            nn.init.zeros_(self.project.weight)

    def forward(self, x_BTHWD: Tensor, bands: Mapping[str, Tensor]) -> Tensor:
        """`bands` are those of dwt_3d at x's size, (B, T/2, H/2, W/2, C) each."""
        if not self.use_wss:
            return x_BTHWD
        bands = {name: inner(band) for name, band in bands.items()}
        open_BnK = torch.sigmoid(self.temporal(bands["HLL"]))
        # Projected before it is resized: both are linear, and here there are an eighth of the positions.
        change = self.project(self.spatial(bands) * open_BnK[:, :, None, None])
        for axis, skipped in ((1, WRAPPED_AT_EACH_END), (2, 0), (3, 0)):
            change = resize_axis(change, x_BTHWD.shape[axis], axis, skipped)
        return x_BTHWD + change
