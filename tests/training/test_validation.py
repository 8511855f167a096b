"""Validation figures against scikit-learn, and the memory that saves making the clips again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from stf.errors import TrainingError
from stf.training.loaders import RememberedBatches
from stf.training.step import Batch
from stf.training.train_state import TrainState
from stf.training.validation import failures_in, validate

MakeTrainState = Callable[..., TrainState]
MakeBatch = Callable[..., dict[str, Any]]


class CountingLoader:
    """A loader that counts how often it is asked."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        yield from self.batches


def test_figures_are_scikit_learns_over_all_clips(
    make_train_state: MakeTrainState, make_batch: MakeBatch
) -> None:
    train_state, batches = make_train_state(dropout=0.5), [make_batch(3, seed=1), make_batch(1, seed=2)]
    figures = validate(train_state, batches, "epoch 1")
    train_state.model.eval()
    with torch.no_grad():
        outs = [train_state.model(batch.video) for batch in batches]
        losses = [
            train_state.loss(out, batch.label)["total"].item()
            for out, batch in zip(outs, batches, strict=True)
        ]
    score = np.concatenate([out["logits"].softmax(1)[:, 1].numpy() for out in outs])
    label = np.concatenate([batch.label.numpy() for batch in batches])
    assert figures.auc == pytest.approx(roc_auc_score(label, score))
    assert figures.accuracy == pytest.approx(accuracy_score(label, score > 0.5))
    assert figures.f1 == pytest.approx(f1_score(label, score > 0.5))
    assert figures.loss == pytest.approx((6 * losses[0] + 2 * losses[1]) / 8)


def test_validation_changes_nothing_and_repeats_itself(
    make_train_state: MakeTrainState, make_batch: MakeBatch
) -> None:
    train_state, batches = make_train_state(dropout=0.5, drop_path=0.3), [make_batch(2)]
    before = {name: value.clone() for name, value in train_state.model.state_dict().items()}
    random_state = torch.get_rng_state()
    assert validate(train_state, batches, "epoch 1") == validate(train_state, batches, "epoch 1")
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in train_state.model.state_dict().items())


def test_the_moving_average_is_what_is_validated(
    make_train_state: MakeTrainState, make_batch: MakeBatch
) -> None:
    plain, averaged, batch = make_train_state(), make_train_state(ema_decay=0.9), make_batch(2)
    with torch.no_grad():
        for parameter in averaged.model.parameters():
            parameter.mul_(3.0)
    assert validate(averaged, [batch], "epoch 1") == validate(plain, [batch], "epoch 1")


def test_a_nan_loss_is_an_error_with_its_clips(
    make_train_state: MakeTrainState, make_batch: MakeBatch
) -> None:
    bad = make_batch(1, seed=3)
    bad.video[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"validation loss.*epoch 4.*003-0 from frame 0"):
        validate(make_train_state(), [make_batch(1), bad], "epoch 4")


def test_failures_count_once_per_pair_and_include_the_codecs_fallback(make_batch: MakeBatch) -> None:
    batch = make_batch(3, failures=("empty mask", "empty mask"))
    assert failures_in(batch) == Counter({"empty mask": 6})
    jpegs = [replace(p, failures=(), codec="jpeg") for p in batch.provenance]
    batch = batch._replace(provenance=jpegs)
    assert failures_in(batch) == Counter({"H.264 replaced by JPEG": 3})


def test_remembered_batches_equal_the_loaders_which_is_read_once(make_batch: MakeBatch) -> None:
    loader = CountingLoader([make_batch(2, seed=1), make_batch(1, seed=2)])
    remembered = RememberedBatches(loader)
    for _ in range(3):
        for got, expected in zip(remembered, loader.batches, strict=True):
            assert torch.equal(got.video, expected.video)
            assert got.video.dtype == torch.float32
            assert torch.equal(got.label, expected.label)
            assert got.provenance == expected.provenance
    assert loader.passes == 1


def test_remembered_uint8_clips_stay_uint8_in_their_own_memory() -> None:
    video = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16)
    shared = video.clone()
    remembered = RememberedBatches(CountingLoader([Batch(shared, torch.empty(0), [])]), max_bytes=257)
    assert next(iter([*remembered])).video is shared
    shared.zero_()  # as when the loader's memory is used again
    assert torch.equal(next(iter([*remembered])).video, video)


def test_batches_beyond_the_memory_limit_are_read_each_time(make_batch: MakeBatch) -> None:
    loader = CountingLoader([make_batch(2, seed=1), make_batch(1, seed=2), make_batch(1, seed=3)])
    remembered = RememberedBatches(loader, max_bytes=loader.batches[0].video.nbytes + 1)
    for _ in range(2):
        for got, expected in zip(remembered, loader.batches, strict=True):
            assert torch.equal(got.video, expected.video)
    assert loader.passes == 2


def test_an_interrupted_pass_is_not_remembered(make_batch: MakeBatch) -> None:
    loader = CountingLoader([make_batch(1, seed=1), make_batch(1, seed=2)])
    remembered = RememberedBatches(loader)
    next(iter(remembered))
    assert len([*remembered]) == 2
    assert len([*remembered]) == 2
    assert loader.passes == 2
