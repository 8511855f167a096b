"""How much of the state-space model's state a clip gets, from the statistics of its HLL band.

Shapes: B clips, T2 = T/2 temporal coefficients of which the first and last are left out, C channels, N states,
K state sizes, S statistics.

HLL is flicker that is smooth in space. Compression changes its share and its location (blocks are coded anew from
frame to frame, fine detail is quantised away), and so does a blend: a gate on it can give a clip more or less memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stf.models.dwt_3d import BANDS, inner
from stf.models.precision import without_autocast

STATISTICS = ("share of temporal-high", "share of all bands", "energy", "spread in time", "spread in space")
OPEN_LOGIT = 4.0  # of the full state at first: its probability is e⁴ / (e⁴ + 3) = .948
EPSILON = 1.0e-6  # energy per coefficient, where features of unit variance have 0.1 … 50 in HLL


def state_sizes(n_states: int) -> tuple[int, ...]:
    """⌈N/4⌉, ⌈N/2⌉, ⌈3N/4⌉, N without repetitions: what an adaptive state chooses among."""
    return tuple(sorted({math.ceil(n_states * quarters / 4) for quarters in (1, 2, 3, 4)}))


def hll_statistics(bands: dict[str, Tensor]) -> Tensor:
    """(B, S) logarithms, in float32 at least and finite for any clip: how strong HLL is and how unevenly it is spread.

    Energies are means per coefficient with EPSILON added, so a clip without change in time has HLL's neutral
    shares, 1/4 of the temporal-high bands and 1/8 of all. A spread is ln(1 + variance / mean²) of the energy of
    frames or of locations, 0 where it is even.
    """
    with without_autocast(bands["HLL"]):
        kind = torch.promote_types(bands["HLL"].dtype, torch.float32)
        mean = {name: inner(bands[name]).to(kind).square().flatten(1).mean(1) + EPSILON for name in BANDS}
        hll_BTHW = inner(bands["HLL"]).to(kind).square().mean(-1) + EPSILON
        high = torch.stack([mean[name] for name in BANDS if name[0] == "H"]).sum(0)
        everything = torch.stack(list(mean.values())).sum(0)
        energy = mean["HLL"].log()
        spreads = _spread(hll_BTHW.mean((2, 3))), _spread(hll_BTHW.mean(1).flatten(1))
        return torch.stack((energy - high.log(), energy - everything.log(), energy, *spreads), dim=1)


def _spread(energy_BX: Tensor) -> Tensor:
    return torch.log1p(energy_BX.var(1, correction=0) / energy_BX.mean(1).square())


class AdaptiveStateGate(nn.Module):
    """Bands of a clip → weights (B, N) in [0, 1], non-increasing over n, with which its states are read.

    p = softmax over the sizes N_k of a linear function of the statistics, and w_n = Σ_{k: N_k > n} p_k, which makes
    a mixer that is linear in its read-out the mixture Σ_k p_k·y^{(N_k)}. The first N_1 states are always open.
    Starts nearly fully open and the same for all clips, so that weights trained without it stay valid.
    """

    def __init__(self, d_state: int) -> None:
        super().__init__()
        sizes = state_sizes(d_state)
        opens_KN = torch.arange(d_state) < torch.tensor(sizes)[:, None]
        self.register_buffer("opens_KN", opens_KN.float(), persistent=False)
        self.choice = nn.Linear(len(STATISTICS), len(sizes))
        nn.init.zeros_(self.choice.weight)
        nn.init.zeros_(self.choice.bias)
        with torch.no_grad():
            self.choice.bias[-1] = OPEN_LOGIT

    def forward(self, bands: dict[str, Tensor]) -> Tensor:
        """open_BN from the eight bands, (B, T/2, H/2, W/2, C) each."""
        statistics_BS = hll_statistics(bands)
        with without_autocast(statistics_BS):
            p_BK = self.choice(statistics_BS).softmax(-1)
            return p_BK @ self.opens_KN  # pyright: ignore[reportOperatorIssue]  # a buffer

    def open_share(self, bands: dict[str, Tensor]) -> Tensor:
        """(B,): the mean weight of a clip's states; 1 is the whole state."""
        return self(bands).mean(-1)
