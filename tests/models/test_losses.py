"""The HLL losses by hand-worked cases: pairing, one-class batches, the log share, V7.3's fallback, no NaN."""

import math

import pytest
import torch
from torch.nn import functional as F

from stf.config import STFV8Config
from stf.errors import ConfigError
from stf.models.losses import ContrastiveHLLLoss, STFV8Loss, log_share


def batch(energies, labels, all_bands=None):
    """The network's output for given HLL energies, logits 0."""
    energy = torch.tensor(energies, requires_grad=True)
    total = torch.ones_like(energy) if all_bands is None else torch.tensor(all_bands)
    out = {"logits": torch.zeros(len(energy), 2), "hll_energy": energy, "all_band_energy": total}
    return out, torch.tensor(labels)


def contrastive(**changes) -> STFV8Loss:
    return STFV8Loss(STFV8Config(use_contrastive_hll=True, **changes))


def test_the_kth_real_is_paired_with_the_kth_fake():
    """Reals 1 and 2, fakes 1.2 and 5 in batch order: hinges 1 - 0.2 and max(0, 1 - 3) with margin 1."""
    out, labels = batch([1.2, 1.0, 2.0, 5.0], [1, 0, 0, 1])
    loss = contrastive()
    result = loss(out, labels)
    assert result["hll"].item() == pytest.approx((0.8 + 0.0) / 2, abs=1e-6)
    assert loss.diagnostics() == pytest.approx(
        {"e_real": 1.5, "e_fake": 3.1, "margin": 1.0, "active_share": 0.5}
    )


def test_unequal_counts_compare_class_means():
    out, labels = batch([1.0, 2.0, 3.0, 2.5], [0, 0, 0, 1])
    assert contrastive()(out, labels)["hll"].item() == pytest.approx(1 - (2.5 - 2.0), abs=1e-6)


@pytest.mark.parametrize("flags", [{}, {"use_contrastive_hll": True}])
@pytest.mark.parametrize("label", [0, 1])
def test_a_one_class_batch_is_differentiable(flags, label):
    out, labels = batch([1.0, 2.0], [label, label])
    loss = STFV8Loss(STFV8Config(**flags))
    result = loss(out, labels)
    result["total"].backward()
    assert out["hll_energy"].grad.isfinite().all()
    assert all(p.grad is not None and p.grad == 0 for p in loss.parameters())
    contrastive_or_no_real = bool(flags) or label == 1
    assert (result["hll"].item() == 0) == contrastive_or_no_real


def test_normalised_energy_is_the_log_of_the_share():
    out, labels = batch([0.3, 0.9], [0, 1], all_bands=[4.0, 9.0])
    difference = math.log(0.9 / 3.0) - math.log(0.3 / 2.0)
    result = contrastive(use_hll_normalization=True)(out, labels)
    assert result["hll"].item() == pytest.approx(max(0.0, 1 - difference), abs=1e-5)


def test_normalised_loss_ignores_the_scale_of_features():
    loss = contrastive(use_hll_normalization=True)
    out, labels = batch([0.3, 0.9], [0, 1], all_bands=[4.0, 9.0])
    scaled, _ = batch([30.0, 90.0], [0, 1], all_bands=[4.0e4, 9.0e4])
    assert loss(out, labels)["hll"].item() == pytest.approx(loss(scaled, labels)["hll"].item(), abs=1e-5)


def test_a_factor_e_reaches_a_margin_of_one():
    out, labels = batch([1.0, math.e * 1.001], [0, 1])
    loss = contrastive(use_hll_normalization=True)
    assert loss(out, labels)["hll"].item() == pytest.approx(0, abs=1e-6)
    assert loss.diagnostics()["active_share"] == 0


def test_silent_clips_have_finite_energy_and_gradient():
    silent = torch.zeros(2, requires_grad=True)
    log_share(silent, torch.zeros(2)).sum().backward()
    assert log_share(silent, torch.zeros(2)).isfinite().all()
    assert silent.grad.isfinite().all()


def test_flag_off_is_the_mean_square_of_reals_exactly():
    out, labels = batch([1.0, 2.0, 7.0, 3.0], [0, 0, 1, 1])
    loss = STFV8Loss(STFV8Config())
    result = loss(out, labels)
    assert result["hll"].item() == F.mse_loss(torch.tensor([1.0, 2.0]), torch.zeros(2)).item() == 2.5
    assert loss.diagnostics() == {"e_real": 1.5, "e_fake": 5.0}
    assert list(loss.parameters()) == []


def test_total_is_cross_entropy_plus_weighted_hll():
    config = STFV8Config(hll_loss_weight=0.3, label_smoothing=0.1)
    out, labels = batch([1.0, 2.0], [0, 1])
    out["logits"] = torch.tensor([[1.0, -1.0], [0.5, 0.2]], requires_grad=True)
    result = STFV8Loss(config)(out, labels)
    ce = F.cross_entropy(out["logits"], labels, label_smoothing=0.1)
    assert result["ce"].item() == pytest.approx(ce.item())
    assert result["total"].item() == pytest.approx(ce.item() + 0.3 * 1.0)
    assert result["total"].requires_grad
    assert not result["ce"].requires_grad
    assert not result["hll"].requires_grad
    assert set(result) == {"total", "ce", "hll"}


def test_gradient_lowers_real_and_raises_fake_energy():
    out, labels = batch([1.0, 1.0], [0, 1])
    contrastive()(out, labels)["total"].backward()
    assert out["hll_energy"].grad[0] > 0 > out["hll_energy"].grad[1]


@pytest.mark.parametrize("margin", [0.05, 1.0, 4.0])
def test_margin_starts_at_its_configured_value_and_travels_with_the_state(margin):
    loss = ContrastiveHLLLoss(margin)
    assert loss.margin.item() == pytest.approx(margin, rel=1e-5)
    with torch.no_grad():
        loss.raw_margin -= 0.5
    other = ContrastiveHLLLoss(margin)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.margin, loss.margin)
    assert [n for n, p in loss.named_parameters() if p._no_weight_decay] == ["raw_margin"]


def test_bfloat16_logits_are_scored_in_float32():
    out, labels = batch([1.0, 1.0], [0, 1])
    out["logits"] = torch.tensor([[1.0, 0.0], [0.3, 0.4]]).bfloat16()
    assert STFV8Loss(STFV8Config())(out, labels)["total"].dtype == torch.float32


def test_a_contradictory_config_is_refused():
    config = STFV8Config()
    config.label_smoothing = 2.0
    with pytest.raises(ConfigError, match="label_smoothing"):
        STFV8Loss(config)


def test_normalised_real_loss_is_the_mean_squared_share_of_the_reals():
    out, labels = batch([3.0, 1.0, 9.0], [0, 0, 1])
    out["all_band_energy"] = torch.tensor([36.0, 4.0, 1.0])
    result = STFV8Loss(STFV8Config(use_hll_normalization=True))(out, labels)
    assert result["hll"].item() == pytest.approx((0.5**2 + 0.5**2) / 2, rel=1e-6)
