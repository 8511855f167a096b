"""A process's share of the batches, and the buckets of gradients; whole steps are in test_torchrun.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stf.config import DataParams, Params, SbiParams, STFV8Config
from stf.data.pairs import PairBatchSampler
from stf.io.distributed import ALONE, World
from stf.training.distributed import _buckets, sum_gradients
from stf.training.loaders import RankShare, build_loaders, collate_share
from stf.training.step import Batch
from stf.training.train_state import TrainState
from stf.training.validation import ValidationFigures, validate
from tests.reference.worlds import play


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(("n_pairs", "batch_size"), [(10, 8), (9, 4), (1, 4), (5, 2)])
def test_shares_put_together_are_the_global_batches(size: int, n_pairs: int, batch_size: int) -> None:
    sampler = PairBatchSampler(n_pairs, batch_size, seed=3, shuffle=True)
    shares = [RankShare(sampler, World(rank, size)) for rank in range(size)]
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        wanted = list(sampler)
        assert [len(share) for share in shares] == [
            len(wanted)
        ] * size  # nobody waits for a batch that never comes
        dealt = zip(*shares, strict=True)
        for batch, parts in zip(wanted, dealt, strict=True):
            assert [index for part in parts for index in part] == batch
            for part in parts:  # whole pairs: a real, then its fake
                assert [index % 2 for _, index in part] == [0, 1] * (len(part) // 2)


def test_no_items_are_a_batch_without_clips() -> None:
    batch = collate_share([])
    assert all(len(part) == 0 for part in batch)


def test_loaders_of_several_processes_yield_the_clips_of_one(shared_tree: Path) -> None:
    config = STFV8Config.debug()
    config.data_root, config.num_workers = str(shared_tree), 0
    data = DataParams(root=str(shared_tree), num_frames=8, img_size=32, val_pairs_per_video=2)
    params = Params(data=data, sbi=SbiParams(tps_probability=0.0), seed=3)

    def batches_of(world: World) -> list[Batch]:
        train, val, _ = build_loaders(config, params, world=world)
        train.set_epoch(1)
        return [*train, *val, *val]  # the second time from memory

    one, (first, second) = batches_of(ALONE), play(2, batches_of)
    assert len(one) == len(first) == len(second)
    for whole, *parts in zip(one, first, second, strict=True):
        clips = torch.cat([part.video for part in parts if len(part.label)])
        assert torch.equal(clips, whole.video)
        assert torch.equal(torch.cat([part.label for part in parts]), whole.label)
        assert [p for part in parts for p in part.provenance] == whole.provenance


@pytest.mark.parametrize("size", [2, 3])
def test_processes_validate_to_the_figures_of_one(
    make_train_state: Callable[..., TrainState], make_batch: Callable[..., Batch], size: int
) -> None:
    batches = [make_batch(3, seed=1, failures=("empty mask",)), make_batch(1, seed=2)]
    train_states = [make_train_state() for _ in range(size)]

    def part(world: World) -> ValidationFigures:
        train_states[world.rank].world = world
        return validate(train_states[world.rank], [cut(batch, world) for batch in batches], "epoch 1")

    wanted = validate(make_train_state(), batches, "epoch 1")
    for figures in play(size, part):
        assert figures.loss == pytest.approx(wanted.loss, abs=1e-6)
        assert figures.auc == pytest.approx(wanted.auc)
        assert (figures.accuracy, figures.f1) == (wanted.accuracy, wanted.f1)
        assert figures.failures == wanted.failures == {"empty mask": 3}


def cut(batch: Batch, world: World) -> Batch:
    """The pairs of a batch that fall to this process."""
    pairs = world.share(len(batch.label) // 2)
    clips = slice(2 * pairs.start, 2 * pairs.stop)
    return Batch(*(values[clips] for values in batch))


def test_buckets_hold_every_tensor_once_and_are_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stf.training.distributed._BUCKET_ELEMENTS", 10)
    tensors = [torch.zeros(n) for n in (3, 4, 30, 1, 9, 2)]
    buckets = list(_buckets(tensors))
    assert [len(tensor) for bucket in buckets for tensor in bucket] == [3, 4, 30, 1, 9, 2]
    assert [len(bucket) for bucket in buckets] == [3, 2, 1]


def test_one_process_sums_nothing_and_touches_no_gradient() -> None:
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    used.sum().backward()
    gradient = used.grad
    sum_gradients([used, unused], [[True, False]])
    assert used.grad is gradient
    assert unused.grad is None
