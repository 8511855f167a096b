"""The whole of V7.3 through its public names: presets, losses with backward, drift, one trained step.

Runs under pytest and as a script: `python tests/test_integration.py`.
"""

import sys

import numpy as np
import pytest
import torch

from stf.config import FLAGS, PHASE_A_FLAGS
from stf.data.augmentations import MultiScaleBrownianDrift
from stf.models.backbone_v73 import STFMambaV73
from stf.models.config import STFV8Config
from stf.models.losses import STFV8Loss


def check_config_presets():
    """Presets differ in flags and learning rate; describe() names features, parameters and work."""
    assert STFV8Config().active_flags() == ()
    assert STFV8Config.phase_a().active_flags() == PHASE_A_FLAGS
    assert STFV8Config.phase_b().active_flags() == FLAGS
    assert STFV8Config.phase_b().lr == 1e-4
    for config in (STFV8Config(), STFV8Config.phase_a(), STFV8Config.phase_b(), STFV8Config.debug()):
        text = config.describe()
        assert "active features" in text
        assert "parameters" in text
        assert "multiply-adds" in text
        assert all(flag in text for flag in config.active_flags())


def check_losses_with_backward():
    """Every combination of the two loss flags gives finite losses and gradients for logits and energies."""
    for contrastive, normalised in ((False, False), (True, False), (False, True), (True, True)):
        config = STFV8Config.debug()
        config.use_contrastive_hll, config.use_hll_normalization = contrastive, normalised
        out = {
            "logits": torch.randn(8, 2, requires_grad=True),
            "hll_energy": torch.rand(8, requires_grad=True),
            "all_band_energy": (torch.rand(8) + 1).requires_grad_(),
        }
        losses = STFV8Loss(config)(out, torch.tensor([0, 1] * 4))
        losses["total"].backward()
        assert set(losses) == {"total", "ce", "hll"}
        assert all(value.isfinite() for value in losses.values())
        assert out["logits"].grad.abs().sum() > 0
        assert out["hll_energy"].grad.abs().sum() > 0


def check_drift():
    """A mask drifts a little, smoothly enough to keep its area, and differently on each call."""
    mask = np.zeros((64, 64), np.float32)
    mask[20:44, 20:44] = 1.0
    drift = MultiScaleBrownianDrift(step_range=(0.5, 5.0), max_cumulative=8.0)
    masks = drift.apply_drift(mask, 16, np.random.default_rng(0))
    assert len(masks) == 16
    assert all(m.shape == mask.shape for m in masks)
    assert all(abs(m.sum() / mask.sum() - 1) < 0.05 for m in masks)
    assert any(not np.array_equal(m, masks[0]) for m in masks[1:])
    other = drift.apply_drift(mask, 16, np.random.default_rng(1))
    assert any(not np.array_equal(a, b) for a, b in zip(masks, other, strict=True))


def check_v73():
    """A step on a batch of pairs changes the weights and lowers the loss on that batch."""
    config = STFV8Config.debug()
    config.use_contrastive_hll = config.use_hll_normalization = True
    torch.manual_seed(0)
    model, criterion = STFMambaV73(config), STFV8Loss(config)
    video = torch.rand(4, 3, config.num_frames, config.img_size, config.img_size)
    labels = torch.tensor([0, 1, 0, 1])
    out = model(video)
    assert out["logits"].shape == (4, 2)
    assert out["hll_energy"].shape == out["all_band_energy"].shape == (4,)
    optimizer = torch.optim.AdamW([*model.parameters(), *criterion.parameters()], lr=3e-3)
    totals = []
    for _ in range(5):
        losses = criterion(model.eval()(video), labels)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        totals.append(losses["total"].item())
    assert totals[-1] < totals[0]


CHECKS = [check_config_presets, check_losses_with_backward, check_drift, check_v73]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_integration(check):
    check()


if __name__ == "__main__":
    for one in CHECKS:
        one()
        print(f"passed  {one.__name__.removeprefix('check_')}: {one.__doc__}")
    sys.exit(0)
