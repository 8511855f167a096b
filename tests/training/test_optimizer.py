"""Parameter groups and the learning rate's curve."""

from __future__ import annotations

import math

import pytest
import torch

from stf.config import STFV8Config
from stf.models.backbone_v73 import STFMambaV73
from stf.models.losses import STFV8Loss
from stf.training.optimizer import build_optimizer, build_schedule, learning_rates, parameter_groups


def parts(**fields: object) -> tuple[STFMambaV73, STFV8Loss, STFV8Config]:
    config = STFV8Config.debug()
    config.use_contrastive_hll = True
    for name, value in fields.items():
        setattr(config, name, value)
    return STFMambaV73(config), STFV8Loss(config), config


def test_every_parameter_is_in_exactly_one_group() -> None:
    model, loss, config = parts()
    groups = parameter_groups(model, loss, weight_decay=config.weight_decay, backbone_lr_scale=0.01)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in (*model.parameters(), *loss.parameters()))


def test_norms_biases_state_space_parameters_and_margin_do_not_decay() -> None:
    model, loss, _ = parts()
    groups = parameter_groups(model, loss, weight_decay=0.05, backbone_lr_scale=0.01)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    decayed = 0
    for name, parameter in model.named_parameters():
        ssm = name.rsplit(".", 1)[-1] in ("A_log", "D", "dt_bias")
        exempt = ssm or parameter.ndim <= 1 or name.endswith("bias")
        decayed += not exempt
        assert decay[id(parameter)] == (0.0 if exempt else 0.05), name
    assert decayed > 10
    assert all(decay[id(p)] == 0.0 for p in loss.parameters())
    assert len(list(loss.parameters())) == 1


def test_stem_and_early_stages_alone_are_scaled() -> None:
    model, loss, _ = parts()
    groups = parameter_groups(model, loss, weight_decay=0.05, backbone_lr_scale=0.01)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        early = name.startswith(("early.stem.", "early.stage1.", "early.stage2."))
        assert scale[id(parameter)] == (0.01 if early else 1.0), name
    assert all(scale[id(p)] == 1.0 for p in loss.parameters())


def curve(
    epochs: int, steps_per_epoch: int, scale: float = 0.01, **fields: object
) -> list[tuple[float, float]]:
    model, loss, config = parts(**fields)
    optimizer = build_optimizer(model, loss, config, scale)
    schedule = build_schedule(optimizer, config, epochs, steps_per_epoch)
    rates = []
    for step in range(1, epochs * steps_per_epoch + 1):
        rates.append(learning_rates(optimizer))
        schedule.step_update(step)
    return [*rates, learning_rates(optimizer)]


def plain_curve(step: int, total: int, warmup: int, lr: float, min_lr: float) -> float:
    if step < warmup:
        return lr * (1 / warmup + step * (1 - 1 / warmup) / warmup)
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def test_the_curve_is_a_line_then_a_cosine_down_to_min_lr() -> None:
    rates = curve(10, 7, lr=1e-3, min_lr=1e-5, warmup_epochs=2)
    for step, (lr, _) in enumerate(rates[:-1]):
        assert lr == pytest.approx(plain_curve(step, 70, 14, 1e-3, 1e-5), rel=1e-9)
    assert rates[-1][0] == pytest.approx(1e-5)
    assert max(lr for lr, _ in rates) == pytest.approx(1e-3)


def test_no_step_has_a_rate_of_zero() -> None:
    assert all(lr > 0 and backbone > 0 for lr, backbone in curve(4, 3))


@pytest.mark.parametrize("scale", [0.01, 1.0])
@pytest.mark.parametrize("warmup_epochs", [0, 1])
def test_early_stages_have_their_scaled_rate_from_first_to_last_step(
    scale: float, warmup_epochs: int
) -> None:
    for lr, backbone in curve(5, 4, scale, warmup_epochs=warmup_epochs):
        assert backbone == pytest.approx(scale * lr, rel=1e-9)


def test_a_short_run_completes_its_warm_up() -> None:
    rates = [lr for lr, _ in curve(2, 6, lr=1e-3, min_lr=1e-6, warmup_epochs=5)]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-6)


def test_a_single_step_has_a_rate_above_zero() -> None:
    assert curve(1, 1, lr=1e-3)[0][0] == pytest.approx(1e-3)


def test_margin_without_contrastive_loss_needs_no_group() -> None:
    model, loss, config = parts(use_contrastive_hll=False)
    optimizer = build_optimizer(model, loss, config, 0.01)
    assert {group["name"] for group in optimizer.param_groups} == {"backbone", "temporal"}
    assert isinstance(optimizer, torch.optim.AdamW)
