"""How training's clips are divided among processes; whole steps are in test_torchrun.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stf.config import DataParams, Params, SbiParams, STFV8Config
from stf.data.pairs import PairBatchSampler
from stf.errors import ConfigError
from stf.io.distributed import ALONE, World
from stf.training.loaders import RankBatches, build_loaders, require_whole_pairs
from stf.training.step import Batch
from stf.training.train_state import TrainState
from stf.training.validation import ValidationFigures, validate
from tests.reference.worlds import play


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("n_pairs", [6, 14, 24])
def test_the_shares_of_all_processes_together_are_the_global_batches(size: int, n_pairs: int) -> None:
    """In the global order, in whole pairs, and equally many in each process."""
    sampler = PairBatchSampler(n_pairs, batch_size=12, seed=3, shuffle=True, drop_last=True)
    parts_by_rank = [RankBatches(sampler, World(rank, size)) for rank in range(size)]
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        expected = list(sampler)
        assert [len(parts) for parts in parts_by_rank] == [len(expected)] * size
        for batch, *parts in zip(expected, *parts_by_rank, strict=True):
            assert [index for part in parts for index in part] == batch
            for part in parts:
                assert [index % 2 for _, index in part] == [0, 1] * (6 // size)


@pytest.mark.parametrize(
    ("batch_size", "n_processes", "sizes"), [(6, 2, "4 or 8"), (2, 2, "4"), (16, 3, "12 or 18")]
)
def test_a_batch_that_cannot_be_divided_is_refused(batch_size: int, n_processes: int, sizes: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"batch_size is {batch_size} clips.*Set it to {sizes}, or start fewer"
    ):
        require_whole_pairs(batch_size, n_processes)


@pytest.mark.parametrize(("batch_size", "n_processes"), [(2, 1), (6, 1), (4, 2), (12, 3)])
def test_a_batch_that_can_be_divided_is_accepted(batch_size: int, n_processes: int) -> None:
    assert require_whole_pairs(batch_size, n_processes) is None


def settings(root: Path, pairs_per_video: int = 2) -> tuple[STFV8Config, Params]:
    """4 training videos and 2 validation videos; batches of 4 clips."""
    config = STFV8Config.debug()
    config.data_root, config.num_workers = str(root), 0
    data = DataParams(root=str(root), num_frames=8, img_size=32, val_pairs_per_video=pairs_per_video)
    return config, Params(data=data, sbi=SbiParams(tps_probability=0.0), seed=3)


def test_loaders_of_two_processes_yield_the_clips_of_one(shared_tree: Path) -> None:
    config, params = settings(shared_tree, pairs_per_video=3)
    assert config.batch_size == 4

    def batches_of(world: World) -> tuple[list[Batch], list[Batch]]:
        train, val, _ = build_loaders(config, params, world=world)
        train.set_epoch(1)
        assert [b.provenance for b in val] == [b.provenance for b in val]  # the second time from memory
        return list(train), list(val)

    (train, val), (train_parts, val_parts) = batches_of(ALONE), zip(*play(2, batches_of), strict=True)
    assert len(train) == 2
    for whole, *parts in zip(train, *train_parts, strict=True):
        assert [len(part.label) for part in parts] == [2, 2]
        require_same_clips([whole], parts)
    assert [len(batches) for batches in val_parts] == [3, 3]
    require_same_clips(val, [batch for batches in zip(*val_parts, strict=True) for batch in batches])


def require_same_clips(one: list[Batch], other: list[Batch]) -> None:
    assert torch.equal(torch.cat([b.video for b in one]), torch.cat([b.video for b in other]))
    assert torch.equal(torch.cat([b.label for b in one]), torch.cat([b.label for b in other]))
    assert [p for b in one for p in b.provenance] == [p for b in other for p in b.provenance]


@pytest.mark.parametrize("size", [1, 2])
def test_training_drops_a_last_short_batch_and_validation_does_not(shared_tree: Path, size: int) -> None:
    config, params = settings(shared_tree)
    config.batch_size = 12  # 4 training pairs would be 8 clips
    with pytest.raises(ConfigError, match=r"4 pairs, which do not fill one batch of 12 clips"):
        build_loaders(config, params)
    config.batch_size = 4
    train, val, _ = build_loaders(config, params, max_pairs=3, world=World(0, size))
    assert (len(train), train.dropped_clips) == (1, 2)
    assert [len(batch.label) for batch in train] == [4 // size]
    assert [len(batch.label) for batch in val] == ([4, 2] if size == 1 else [2, 2])
    train, _, _ = build_loaders(config, params, world=World(0, size))
    assert (len(train), train.dropped_clips) == (2, 0)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_validate_to_the_figures_of_one(
    make_train_state: Callable[..., TrainState], make_batch: Callable[..., Batch], size: int
) -> None:
    """Also where they have different numbers of batches."""
    batches = [make_batch(3, seed=1, failures=("empty mask",)), *(make_batch(1, seed=n) for n in range(2, 5))]
    train_states = [make_train_state() for _ in range(size)]

    def part(world: World) -> ValidationFigures:
        train_states[world.rank].world = world
        return validate(train_states[world.rank], world.shard(batches), "epoch 1")

    expected = validate(make_train_state(), batches, "epoch 1")
    assert expected.failures == {"empty mask": 3}
    assert play(size, part) == [expected] * size
