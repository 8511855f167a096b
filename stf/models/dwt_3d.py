"""Orthonormal Symlet-2 wavelet transform of a clip in time, height and width, and the energies of its bands.

Shapes: B clips, T frames, H and W rows and columns of features, C channels; halves are marked by a trailing
2, as in `hll_BT2H2W2C`. Features are channels-last throughout the network. Band names read
temporal-height-width: HLL is high in time (flicker), low in both spatial directions.
"""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor, nn

from stf.errors import ConfigError
from stf.models.precision import without_autocast
from stf.models.wavelet_constants import SYM2_DEC_HI, SYM2_DEC_LO

BANDS = tuple("".join(letters) for letters in itertools.product("LH", repeat=3))
WRAPPED_AT_EACH_END = 1  # coefficients of a periodised 4-tap filter that mix the clip's first and last frames


@functools.lru_cache(maxsize=64)
def _analysis_rows(n: int, band: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The (n/2, n) low-pass ("L") or high-pass ("H") rows of the periodised transform of n samples.

    Row i reads samples 2i-1 … 2i+2 modulo n, PyWavelets' alignment of mode="periodization". The two together
    are an orthogonal matrix, so the inverse is its transpose and energy is kept (Parseval).
    """
    if n < 4 or n % 2:
        raise ConfigError(f"the wavelet transform needs an even length of at least 4 on every axis, not {n}")
    taps = SYM2_DEC_LO if band == "L" else SYM2_DEC_HI
    with torch.inference_mode(False):  # the cached rows serve training too
        rows = torch.zeros(n // 2, n, dtype=torch.float64)
        for i, (j, tap) in itertools.product(range(n // 2), enumerate(taps)):
            rows[i, (2 * i + 2 - j) % n] += tap
        return rows.to(device=device, dtype=dtype)


def filter_axis(x: Tensor, band: str, axis: int) -> Tensor:
    """The low ("L") or high ("H") half band of `x` along `axis`, whose length halves.

    A product with the analysis matrix rather than a strided convolution: n is at most 56 here, where a GEMM
    is cheaper than four strided passes, and its gradient is the exact transpose.
    """
    rows = _analysis_rows(x.shape[axis], band, x.dtype, x.device)
    return (rows @ x.flatten(axis + 1)).reshape(*x.shape[:axis], len(rows), *x.shape[axis + 1 :])


def dwt_3d(x_BTHWC: Tensor) -> dict[str, Tensor]:
    """All eight bands {"LLL": (B, T/2, H/2, W/2, C), …, "HHH": …}; T, H and W even."""
    halves = {band: filter_axis(x_BTHWC, band, 1) for band in "LH"}
    return {t + hw: band for t, x in halves.items() for hw, band in _split_in_space(x).items()}


def _split_in_space(x_BTHWC: Tensor) -> dict[str, Tensor]:
    """{"LL", "LH", "HL", "HH"}: the bands of height and width, each (B, T, H/2, W/2, C)."""
    bands = {"": x_BTHWC}
    for axis in (2, 3):
        bands = {name + b: filter_axis(x, b, axis) for name, x in bands.items() for b in "LH"}
    return bands


def hll_band(x_BTHWC: Tensor) -> Tensor:
    """Only the HLL band, (B, T/2, H/2, W/2, C): a fraction of the work of all eight."""
    return filter_axis(filter_axis(filter_axis(x_BTHWC, "H", 1), "L", 2), "L", 3)


def inner(x_BT2: Tensor) -> Tensor:
    """Without the temporal coefficients that wrap: the first reads frame -1, the last frame T."""
    return x_BT2[:, WRAPPED_AT_EACH_END:-WRAPPED_AT_EACH_END]


class STF3DDWTModule(nn.Module):
    """The transform of a learned projection of features, (B, T, H, W, in_channels) → bands of dwt_channels.

    The projection is what lets the HLL loss have a gradient: on raw pixels the energies would be constants.
    It has no bias, because the high-pass bands would give that bias no gradient. `gain` scales its initial
    weights.
    """

    def __init__(self, in_channels: int, dwt_channels: int, gain: float = 1.0) -> None:
        super().__init__()
        self.projection = nn.Linear(in_channels, dwt_channels, bias=False)
        nn.init.normal_(self.projection.weight, std=gain * in_channels**-0.5)

    def forward(self, x_BTHWC: Tensor) -> dict[str, Tensor]:
        """The eight bands of the projected features, by name."""
        return dwt_3d(self.projection(x_BTHWC))

    def hll(self, x_BTHWC: Tensor) -> Tensor:
        """forward(x)["HLL"]: both steps are linear, so the band is taken first, at an eighth of the cost."""
        return self.projection(hll_band(x_BTHWC))

    def energies(self, x_BTHWC: Tensor) -> tuple[Tensor, Tensor]:
        """(hll_energy, all_band_energy), each (B,), in float32 even under autocast.

        hll_energy = ‖HLL‖₂ / √n and all_band_energy = Σ_b ‖S_b‖₂² / n, n being the number of HLL coefficients
        kept per clip. The temporal coefficients that wrap are left out of every band: a brightness ramp would
        otherwise put its jump from the last frame to the first into HLL. The spatial transforms keep energy,
        so the sum over bands is taken after the temporal one alone.
        """
        with without_autocast(x_BTHWC):
            projected = self._project_precisely(x_BTHWC)
            low, high = (inner(filter_axis(projected, band, 1)) for band in "LH")
            return _energies(low, high, filter_axis(filter_axis(high, "L", 2), "L", 3))

    def bands_and_energies(self, x_BTHWC: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """(forward(x), *energies(x)) from one projection and one transform, all in float32 even under autocast."""
        with without_autocast(x_BTHWC):
            projected = self._project_precisely(x_BTHWC)
            halves = {band: filter_axis(projected, band, 1) for band in "LH"}
            bands = {t + hw: band for t, x in halves.items() for hw, band in _split_in_space(x).items()}
            return bands, *_energies(inner(halves["L"]), inner(halves["H"]), inner(bands["HLL"]))

    def _project_precisely(self, x_BTHWC: Tensor) -> Tensor:
        kind = torch.promote_types(x_BTHWC.dtype, torch.float32)
        return nn.functional.linear(x_BTHWC.to(kind), self.projection.weight.to(kind))


def _energies(low_BTHWC: Tensor, high_BTHWC: Tensor, hll_BTHWC: Tensor) -> tuple[Tensor, Tensor]:
    """(hll_energy, all_band_energy) from the two temporal half bands and HLL, the wrapped coefficients left out."""
    hll = hll_BTHWC.flatten(1)
    n = hll.shape[1]
    total = low_BTHWC.square().flatten(1).sum(1) + high_BTHWC.square().flatten(1).sum(1)
    return torch.linalg.vector_norm(hll, dim=1) * n**-0.5, total / n
