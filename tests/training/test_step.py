"""One optimizer step: accumulation, clipping, moving average, and what a NaN leaves behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stf.errors import TrainingError
from stf.training.step import Batch, train_step
from stf.training.train_state import TrainState

MakeTrainState = Callable[..., TrainState]
MakeBatch = Callable[..., Batch]


def weights_of(train_state: TrainState) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in train_state.model.state_dict().items()}


def joined(*batches: Batch) -> Batch:
    return Batch(
        torch.cat([batch.video for batch in batches]),
        torch.cat([batch.label for batch in batches]),
        [p for batch in batches for p in batch.provenance],
    )


def test_accumulation_over_two_batches_is_one_big_batch(
    make_train_state: MakeTrainState, make_batch: MakeBatch
) -> None:
    parts = [make_batch(2, seed=1), make_batch(2, seed=2)]
    split, whole = make_train_state(), make_train_state()
    figures_split = train_step(split, parts, "here")
    figures_whole = train_step(whole, [joined(*parts)], "here")
    for name in ("loss", "ce", "hll", "e_real", "e_fake", "margin", "active_share", "grad_norm"):
        assert getattr(figures_split, name) == pytest.approx(getattr(figures_whole, name), rel=1e-4), name
    assert figures_split.correct == figures_whole.correct
    assert figures_split.clips == 8
    # AdamW's first step is ±lr wherever the gradient is above noise: compare the gradients instead
    for (name, a), b in zip(split.model.named_parameters(), whole.model.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_a_step_lowers_the_loss_on_its_own_clips(
    make_train_state: MakeTrainState, make_batch: MakeBatch
) -> None:
    train_state, batch = make_train_state(lr=3e-3, warmup_epochs=0), make_batch(4)
    losses = [train_step(train_state, [batch], "here").loss for _ in range(12)]
    assert losses[-1] < losses[0] - 0.05


def test_the_margin_is_trained(make_train_state: MakeTrainState, make_batch: MakeBatch) -> None:
    train_state, batch = make_train_state(), make_batch(2)
    batch = batch._replace(label=1 - batch.label)  # the calmer clip is the fake: every pair is active
    before = [p.detach().clone() for p in train_state.loss.parameters()]
    assert train_step(train_state, [batch], "here").active_share == 1.0
    assert all(not torch.equal(a, b) for a, b in zip(before, train_state.loss.parameters(), strict=True))
    assert len(before) == 1


def test_gradients_are_clipped_and_the_norm_before_is_reported(
    make_train_state: MakeTrainState, make_batch: MakeBatch
) -> None:
    train_state = make_train_state(max_grad_norm=1e-3)
    figures = train_step(train_state, [make_batch(2)], "here")
    norms = [p.grad.norm() for p in train_state.objective.parameters() if p.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert figures.grad_norm > 1e-2


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_before_any_weight_changes(
    make_train_state: MakeTrainState, make_batch: MakeBatch, poison: float
) -> None:
    train_state = make_train_state(ema_decay=0.5)
    good, bad = make_batch(2, seed=1), make_batch(2, seed=2)
    bad.video[3, 0, 0, 0, 0] = poison
    before, average = weights_of(train_state), train_state.evaluation_model.state_dict()
    average = {name: value.clone() for name, value in average.items()}
    with pytest.raises(TrainingError) as caught:
        train_step(train_state, [good, bad], "epoch 3, step 17")
    message = str(caught.value)
    assert "epoch 3, step 17" in message
    assert "002-1 from frame 5, seed (7, 0, 1, 0)" in message
    assert "001-" not in message  # the valid batch is not reported
    assert all(torch.equal(before[name], value) for name, value in train_state.model.state_dict().items())
    assert all(
        torch.equal(average[name], value) for name, value in train_state.evaluation_model.state_dict().items()
    )


def test_a_non_finite_gradient_stops_too(make_train_state: MakeTrainState, make_batch: MakeBatch) -> None:
    train_state = make_train_state()
    train_state.model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights_of(train_state)
    with pytest.raises(TrainingError, match=r"gradient.*epoch 1, step 2.*000-0 from frame 0"):
        train_step(train_state, [make_batch(2)], "epoch 1, step 2")
    assert all(torch.equal(before[name], value) for name, value in train_state.model.state_dict().items())


def test_float16_overflow_skips_the_step_until_the_scale_is_spent(
    make_train_state: MakeTrainState, make_batch: MakeBatch
) -> None:
    train_state, batch = make_train_state(), make_batch(1)
    train_state.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=True)
    train_state.model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights_of(train_state)
    train_step(train_state, [batch], "here")
    assert train_state.scaler.get_scale() == 2.0
    assert all(torch.equal(before[name], value) for name, value in train_state.model.state_dict().items())
    train_step(train_state, [batch], "here")
    with pytest.raises(TrainingError, match="float16"):
        train_step(train_state, [batch], "here")


def test_a_scaled_step_equals_a_plain_one(make_train_state: MakeTrainState, make_batch: MakeBatch) -> None:
    plain, scaled, batch = make_train_state(), make_train_state(), make_batch(2)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=True)
    a, b = train_step(plain, [batch], "here"), train_step(scaled, [batch], "here")
    assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-5)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(scaled.model.state_dict()[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_the_moving_average_moves_by_its_decay(
    make_train_state: MakeTrainState, make_batch: MakeBatch
) -> None:
    train_state = make_train_state(ema_decay=0.9)
    start = weights_of(train_state)
    train_step(train_state, [make_batch(2)], "here")
    for name, now in train_state.model.state_dict().items():
        expected = 0.9 * start[name] + 0.1 * now
        torch.testing.assert_close(
            train_state.evaluation_model.state_dict()[name], expected, rtol=1e-5, atol=1e-6, msg=name
        )
    assert make_train_state(ema_decay=0.0).ema is None


def test_mixed_precision_stays_off_on_the_cpu(make_train_state: MakeTrainState) -> None:
    assert make_train_state(amp_dtype="bfloat16").amp_dtype is None
    assert not make_train_state(amp_dtype="float16").scaler.is_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp_dtype", ["bfloat16", "float16", "float32"])
def test_mixed_precision_trains_on_cuda(
    make_train_state: MakeTrainState, make_batch: MakeBatch, amp_dtype: str
) -> None:
    train_state, batch = make_train_state(amp_dtype=amp_dtype, device="cuda"), make_batch(2)
    losses = [train_step(train_state, [batch], "here").loss for _ in range(8)]
    assert losses[-1] < losses[0]
