"""Everything once through the author's import paths: presets, losses with backward, drift, V7.3, Hydra, Mamer, V8.0.

Runs under pytest and as a script: `python tests/test_integration.py`.
"""

import sys

import numpy as np
import pytest
import torch

from stf.config import FLAGS, PHASE_A_FLAGS
from stf.data.augmentations import CompressionAugmentation, MultiScaleBrownianDrift
from stf.models.backbone_v8 import STFMambaV8
from stf.models.backbone_v73 import STFMambaV73
from stf.models.config import STFV8Config
from stf.models.hydra_mixer import HydraQuasiseparableMixer, MamerBlock, PNMamerStage
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
        assert not losses["ce"].requires_grad
        assert not losses["hll"].requires_grad
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


def check_drift_without_a_generator():
    """At full size, by step range and number of frames alone: 32 masks of the mask's size."""
    mask = np.zeros((224, 224), np.float32)
    mask[50:180, 50:180] = 1.0
    masks = MultiScaleBrownianDrift(step_range=(0.5, 5.0)).apply_drift(mask, 32)
    assert len(masks) == 32
    assert all(m.shape == mask.shape for m in masks)


def check_compression():
    """H.264 changes frames and keeps their size and type."""
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    coded = CompressionAugmentation(qp_range=(23, 40), probability=1.0)(frames)
    assert (coded.shape, coded.dtype) == (frames.shape, frames.dtype)
    assert not np.array_equal(coded, frames)


def check_hydra_mamer_and_stage():
    """Sequences (B, T, D) keep their shape, and the first frame hears of the last."""
    x_BTD = torch.randn(2, 32, 128, requires_grad=True)
    modules = (
        HydraQuasiseparableMixer(d_model=128, d_state=16),
        MamerBlock(d_model=128, d_state=16, n_heads=4),
        PNMamerStage(d_model=128, d_state=16, n_hydra=3, n_heads=4, use_mamer=True),
        PNMamerStage(d_model=128, d_state=16, n_hydra=3, n_heads=4, use_mamer=False),
    )
    for module in modules:
        y_BTD = module(x_BTD)
        assert y_BTD.shape == x_BTD.shape
        (grad,) = torch.autograd.grad(y_BTD[:, 0].square().sum(), x_BTD)
        assert grad[:, -1].abs().sum() > 0


def check_v8_in_both_modes():
    """Phase A's flags and all eight: outputs of the same shapes, and every parameter gets a gradient."""
    for flags in (PHASE_A_FLAGS, FLAGS):
        config = STFV8Config.debug()
        for flag in flags:
            setattr(config, flag, True)
        torch.manual_seed(0)
        model, criterion = STFMambaV8(config), STFV8Loss(config)
        out = model(torch.rand(2, 3, config.num_frames, config.img_size, config.img_size))
        assert out["logits"].shape == (2, 2)
        assert out["hll_energy"].shape == out["all_band_energy"].shape == (2,)
        criterion(out, torch.tensor([0, 1]))["total"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


CHECKS = [
    check_config_presets,
    check_losses_with_backward,
    check_drift,
    check_drift_without_a_generator,
    check_compression,
    check_v73,
    check_hydra_mamer_and_stage,
    check_v8_in_both_modes,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_integration(check):
    check()


if __name__ == "__main__":
    for one in CHECKS:
        one()
        print(f"passed  {one.__name__.removeprefix('check_')}: {one.__doc__}")
    sys.exit(0)
