"""Both members of a pair stay in one batch, for any epoch, order and number of workers."""

import sys

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from stf.data.face_clip import to_model_input, to_planes
from stf.data.pairs import (
    PairBatchSampler,
    _without_lost_connections,
    as_floats,
    collate_clips,
    make_loader,
)
from stf.errors import ConfigError


class Numbers(Dataset):
    """Clips whose pixels encode the requested (epoch, index)."""

    def __getitem__(self, key):
        epoch, index = key
        video = torch.full((3, 2, 4, 4), epoch * 1000.0 + index)
        return {"video": video, "label": index % 2, "provenance": (epoch, index, torch.get_num_threads())}


class Hooks(Numbers):
    """Clips whose provenance is the name of their process's sys.excepthook."""

    def __getitem__(self, key):
        return super().__getitem__(key) | {"provenance": sys.excepthook.__name__}


@pytest.mark.parametrize("n_pairs", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("batch_size", [2, 4, 6])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_pair_appears_once_with_both_members(n_pairs, batch_size, shuffle):
    sampler = PairBatchSampler(n_pairs, batch_size, seed=3, shuffle=shuffle)
    sampler.set_epoch(5)
    batches = list(sampler)
    assert len(batches) == len(sampler) == -(-n_pairs // (batch_size // 2))
    seen = []
    for batch in batches:
        assert {epoch for epoch, _ in batch} == {5}
        indices = [index for _, index in batch]
        assert [i % 2 for i in indices] == [0, 1] * (len(indices) // 2)
        assert all(real + 1 == fake for real, fake in zip(indices[::2], indices[1::2], strict=True))
        seen += indices
    assert sorted(seen) == list(range(2 * n_pairs))
    if not shuffle:
        assert seen == sorted(seen)


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        sampler = PairBatchSampler(50, 4, seed=seed, shuffle=True)
        sampler.set_epoch(epoch)
        return [index for batch in sampler for _, index in batch]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_drop_last_drops_the_short_batch_only():
    sampler = PairBatchSampler(7, 4, seed=0, shuffle=True, drop_last=True)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3
    assert all(len(batch) == 4 for batch in batches)


@pytest.mark.parametrize("arguments", [(0, 4), (3, 3), (3, 0), (3, 1)])
def test_impossible_batches_are_refused(arguments):
    with pytest.raises(ConfigError):
        PairBatchSampler(*arguments, seed=0, shuffle=True)
    with pytest.raises(ConfigError, match="do not fill one batch"):
        PairBatchSampler(1, 4, seed=0, shuffle=True, drop_last=True)


def test_collate():
    items = [Numbers()[(0, i)] for i in range(4)]
    batch = collate_clips(items)
    assert batch["video"].shape == (4, 3, 2, 4, 4)
    assert batch["video"].dtype == torch.float32
    assert batch["label"].tolist() == [0, 1, 0, 1]
    assert batch["label"].dtype == torch.long
    assert [p[1] for p in batch["provenance"]] == [0, 1, 2, 3]


def test_as_floats_equals_the_data_sets_floats_bit_for_bit():
    clip_TSSC = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    bytes_BCTHW = torch.from_numpy(to_planes(clip_TSSC))[None]
    floats_BCTHW = as_floats(bytes_BCTHW)
    assert floats_BCTHW.dtype == torch.float32
    assert np.array_equal(floats_BCTHW[0].numpy(), to_model_input(clip_TSSC))
    assert as_floats(floats_BCTHW) is floats_BCTHW


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_follows_set_epoch_and_does_not_touch_the_global_generator(num_workers):
    sampler = PairBatchSampler(5, 4, seed=0, shuffle=True)
    loader = make_loader(Numbers(), sampler, num_workers)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for epoch in (0, 1, 2):
        sampler.set_epoch(epoch)
        expected = list(sampler)
        batches = list(loader)
        assert len(loader) == len(batches) == 3
        for keys, batch in zip(expected, batches, strict=True):
            assert [p[:2] for p in batch["provenance"]] == keys
            values = batch["video"][:, 0, 0, 0, 0].tolist()
            assert values == [e * 1000 + i for e, i in keys]
            if num_workers:
                assert {p[2] for p in batch["provenance"]} == {1}
    assert np.array_equal(before, torch.get_rng_state())


def test_a_worker_is_silent_when_its_parent_is_gone_and_prints_any_other_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """multiprocessing's thread that hands tensors over calls sys.excepthook; the parent has printed its own line."""
    [batch] = make_loader(Hooks(), [[(0, 0), (0, 1)]], num_workers=1)
    assert batch["provenance"] == ["_without_lost_connections"] * 2
    for error in (EOFError(), ConnectionResetError(), BrokenPipeError()):
        _without_lost_connections(type(error), error, None)
    assert capsys.readouterr().err == ""
    _without_lost_connections(ValueError, ValueError("odd clip"), None)
    assert "ValueError: odd clip" in capsys.readouterr().err
