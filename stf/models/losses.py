"""L = cross-entropy + λ·L_HLL: fakes must flicker more than reals.

Shapes: B clips. Symbols: E_real and E_fake energies, m margin, λ hll_loss_weight. Label 1 is fake.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stf.config import STFV8Config

EPSILON = 1.0e-8


def log_share(hll_energy_B: Tensor, all_band_energy_B: Tensor) -> Tensor:
    """E = ln(hll_energy / √(all_band_energy + ε)): a difference of 1 is a factor e, at any scale of the features.

    The same ε is added to the numerator's square, so that a clip that does not change in time has a finite E.
    """
    return 0.5 * (torch.log(hll_energy_B.square() + EPSILON) - torch.log(all_band_energy_B + EPSILON))


class ContrastiveHLLLoss(nn.Module):
    """L_HLL = mean_k max(0, m - (E_fake,k - E_real,k)) + m₀·(r - 1 - ln r), r = m/m₀.

    The k-th real of the batch is paired with the k-th fake; with unequal counts the hinge is on the two class
    means; a batch of one class gives a differentiable 0. The margin m is learned. The hinge alone would train
    it to 0, its gradient being the share a ∈ [0, 1] of active pairs; the second term, 0 at the start m = m₀
    and infinite at m = 0, stops it where a = (1 - r)/r, so m rests at m₀/(1 + a): between m₀/2 and m₀,
    whatever λ and the schedule.
    """

    def __init__(self, margin: float = 1.0, normalize: bool = False) -> None:
        super().__init__()
        self.initial_margin, self.normalize = margin, normalize
        self.raw_margin = nn.Parameter(torch.tensor(_inverse_softplus(margin)))
        self.raw_margin._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def margin(self) -> Tensor:
        """m > 0, a scalar."""
        return F.softplus(self.raw_margin)

    def forward(
        self, hll_energy_B: Tensor, all_band_energy_B: Tensor, labels_B: Tensor
    ) -> tuple[Tensor, dict]:
        """(L_HLL, what to log): e_real, e_fake, margin, active_share, detached; of one class only the margin."""
        energy = log_share(hll_energy_B, all_band_energy_B) if self.normalize else hll_energy_B
        real, fake, m = energy[labels_B == 0], energy[labels_B == 1], self.margin
        if len(real) == 0 or len(fake) == 0:
            return 0.0 * (energy.sum() + m), {"margin": m.detach()}
        difference = fake - real if len(fake) == len(real) else (fake.mean() - real.mean())[None]
        hinge = F.relu(m - difference)
        r = m / self.initial_margin
        barrier = self.initial_margin * (r - 1 - torch.log(r))
        diagnostics = {
            "e_real": real.mean(),
            "e_fake": fake.mean(),
            "margin": m,
            "active_share": (hinge > 0).float().mean(),
        }
        return hinge.mean() + barrier, {name: value.detach() for name, value in diagnostics.items()}


def _inverse_softplus(y: float) -> float:
    return y + math.log(-math.expm1(-y))


class RealHLLLoss(nn.Module):
    """V7.3's MSE(HLL_real, 0): the mean of hll_energy² over the reals, a differentiable 0 without any.

    With `normalize` the energy is hll_energy / √(all_band_energy + ε), the share itself: its logarithm, as in
    ContrastiveHLLLoss, would be driven to a share of 1 instead of 0.
    """

    def __init__(self, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(
        self, hll_energy_B: Tensor, all_band_energy_B: Tensor, labels_B: Tensor
    ) -> tuple[Tensor, dict]:
        """(L_HLL, {"e_real", "e_fake"} for the classes present)."""
        energy = hll_energy_B / (all_band_energy_B + EPSILON).sqrt() if self.normalize else hll_energy_B
        classes = {"e_real": energy[labels_B == 0], "e_fake": energy[labels_B == 1]}
        real = classes["e_real"]
        loss = real.square().mean() if len(real) else 0.0 * (hll_energy_B.sum() + all_band_energy_B.sum())
        return loss, {name: energy.mean().detach() for name, energy in classes.items() if len(energy)}


class STFV8Loss(nn.Module):
    """Cross-entropy with label smoothing + λ·L_HLL of `config`; L_HLL by use_contrastive_hll, use_hll_normalization."""

    def __init__(self, config: STFV8Config) -> None:
        super().__init__()
        config.validate()
        self.label_smoothing, self.hll_weight = config.label_smoothing, config.hll_loss_weight
        contrastive = ContrastiveHLLLoss(config.hll_loss_margin, config.use_hll_normalization)
        self.hll = contrastive if config.use_contrastive_hll else RealHLLLoss(config.use_hll_normalization)
        self._diagnostics: dict[str, Tensor] = {}

    def forward(self, out: dict[str, Tensor], labels_B: Tensor) -> dict[str, Tensor]:
        """{"total", "ce", "hll"}: scalars, the latter two detached; `out` is what the network returns."""
        with torch.autocast(out["logits"].device.type, enabled=False):
            ce = F.cross_entropy(out["logits"].float(), labels_B, label_smoothing=self.label_smoothing)
            hll, self._diagnostics = self.hll(out["hll_energy"], out["all_band_energy"], labels_B)
        return {"total": ce + self.hll_weight * hll, "ce": ce.detach(), "hll": hll.detach()}

    def diagnostics(self) -> dict[str, float]:
        """Of the last batch: e_real, e_fake (means), margin, active_share (of pairs); those that apply to it."""
        return {name: value.item() for name, value in self._diagnostics.items()}
