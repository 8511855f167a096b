"""Phase A's schedule, simulated: the margin stays between m₀/2 and m₀, and a network can reach it."""

import math

import pytest
import torch

from stf.config import STFV8Config
from stf.models.backbone_v73 import STFMambaV73
from stf.models.losses import ContrastiveHLLLoss, STFV8Loss
from tests.reference.models_clips import pairs

EPOCHS, STEPS_PER_EPOCH = 70, 45  # 720 videos, 1,440 clips, batches of 16, two accumulated


def train_margin(active_share, weight: float = 0.1, margin: float = 1.0) -> list[float]:
    """m after each epoch of AdamW with warm-up and cosine, when `active_share(progress)` of pairs stay active."""
    config = STFV8Config()
    loss = ContrastiveHLLLoss(margin)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=config.lr, weight_decay=0.0)
    labels, margins = torch.tensor([0, 1] * 4), []
    for step in range(EPOCHS * STEPS_PER_EPOCH):
        progress = step / (EPOCHS * STEPS_PER_EPOCH)
        warm = min(1.0, step / (config.warmup_epochs * STEPS_PER_EPOCH))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = warm * (config.min_lr + (config.lr - config.min_lr) * cosine)
        fakes = torch.where(torch.arange(4) < 4 * active_share(progress), 0.0, 100.0)
        energy = torch.stack((torch.zeros(4), fakes), 1).flatten()
        optimizer.zero_grad()
        (weight * loss(energy, torch.ones(8), labels)[0]).backward()
        optimizer.step()
        if step % STEPS_PER_EPOCH == 0:
            margins.append(loss.margin.item())
    return [*margins, loss.margin.item()]


def test_margin_stays_alive_when_nothing_can_be_separated():
    """The case that took a free margin from 1.0 to 0.19: here it stays above m₀/2."""
    margins = train_margin(lambda progress: 1.0)
    assert min(margins) > 0.5
    assert margins[-1] < 0.75  # learned, not clamped


def test_margin_stays_at_its_start_when_every_pair_is_separated():
    assert train_margin(lambda progress: 0.0)[-1] == pytest.approx(1.0, abs=1e-3)


def test_margin_stays_in_range_when_pairs_become_separable():
    margins = train_margin(lambda progress: max(0.0, 1 - 2 * progress))
    assert all(0.49 < m < 1.01 for m in margins)
    assert margins[-1] > min(margins)  # it recovers once few pairs are active


@pytest.mark.parametrize(("weight", "margin"), [(0.001, 1.0), (10.0, 1.0), (0.1, 0.3)])
def test_the_range_depends_on_neither_weight_nor_scale(weight, margin):
    margins = train_margin(lambda progress: 1.0, weight, margin)
    assert all(0.49 * margin < m < 1.01 * margin for m in margins)


def test_a_free_margin_would_collapse():
    """The control: without the second term the same schedule takes the margin below a quarter."""
    margin = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.AdamW([margin], lr=STFV8Config().lr, weight_decay=0.0)
    steps = EPOCHS * STEPS_PER_EPOCH
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.5 * STFV8Config().lr * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        margin.backward(torch.tensor(0.1))
        optimizer.step()
    assert margin.item() < 0.25


@pytest.mark.parametrize("normalise", [True, False])
def test_the_hinge_can_be_reached(normalise):
    """Faint flicker (2 % of the brightness): at first every pair is active, after 30 steps on L_HLL none."""
    config = STFV8Config.debug()
    config.use_contrastive_hll, config.use_hll_normalization = True, normalise
    torch.manual_seed(0)
    model, loss = STFMambaV73(config), STFV8Loss(config)
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=3e-3)
    shares = []
    video, labels = pairs(4, config.num_frames, config.img_size, strength=0.02)
    for _ in range(30):
        out = model(video)
        value, diagnostics = loss.hll(out["hll_energy"], out["all_band_energy"], labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        shares.append(diagnostics["active_share"].item())
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert 0.9 < loss.hll.margin <= 1.0
