"""VideoSBIDataset: any worker reproduces every clip; unreadable clips are replaced and counted."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from stf.config import DataParams, SbiParams
from stf.data.blend import BlendDraw
from stf.data.face_clip import read_face_clip
from stf.data.ffpp import FFPPTree, split_file
from stf.data.pairs import PairBatchSampler, make_loader
from stf.data.video_sbi_dataset import VideoSBIDataset, collate_fn, replay
from stf.errors import ConfigError, DataError
from tests.reference.data_video_sbi_sets import S, T, config_for, dataset_for, drawn, everything_on


@pytest.mark.parametrize("phase", ["train", "val", "test"])
def test_items(shared_tree, phase):
    dataset = everything_on(shared_tree, phase)
    n_videos = {"train": 4, "val": 2, "test": 2}[phase]
    assert len(dataset) == 2 * n_videos
    for index in range(len(dataset)):
        item = dataset[index]
        assert item["video"].shape == (3, T, S, S)
        assert item["video"].dtype == torch.float32
        assert item["video"].is_contiguous()
        assert item["label"] == index % 2
        assert item["video"].min() >= 0
        assert item["video"].max() <= 1
        assert item["video"].max() > 0.2
    for index in range(0, len(dataset), 2):
        real, fake = dataset[index], dataset[index + 1]
        assert real["provenance"] == fake["provenance"]
        assert real["provenance"].codec == "h264"
        assert not torch.equal(real["video"], fake["video"])
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    with pytest.raises(IndexError):
        dataset.pair(0, n_videos)


def test_val_is_the_same_in_every_epoch_and_never_mirrored(shared_tree):
    flips = []

    def reader(video, start, num_frames, flip):
        flips.append(flip)
        return read_face_clip(video, start, num_frames, flip)

    dataset = dataset_for(shared_tree, "val", reader=reader)
    assert torch.equal(dataset[(0, 1)]["video"], dataset[(5, 1)]["video"])
    assert dataset[(5, 1)]["provenance"].seed[1] == 0
    assert all(drawn(dataset, (s, 0, 0, 0))[1].train is None for s in range(3))
    for seed in range(4):  # eight pairs in total, each mirrored with p = .5 in training
        others = dataset_for(shared_tree, "val", seed=seed, reader=reader)
        for index in range(others.n_pairs):
            others.pair(0, index)
    assert len(flips) >= 9
    assert not any(flips)
    train = dataset_for(shared_tree, "train", reader=reader)
    for epoch in range(8):
        train[(epoch, 0)]
    assert set(flips[-8:]) == {True, False}
    assert not torch.equal(train[(0, 0)]["video"], train[(1, 0)]["video"])
    assert not torch.equal(train[(0, 0)]["video"], dataset_for(shared_tree, seed=1)[(0, 0)]["video"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_same_clips_with_any_number_of_workers(shared_tree):
    dataset = everything_on(shared_tree)
    sampler = PairBatchSampler(dataset.n_pairs, 4, seed=5, shuffle=True)

    def batches(num_workers):
        loader = make_loader(dataset, sampler, num_workers)
        loaded = []
        for epoch in (1, 2):
            sampler.set_epoch(epoch)
            loaded += list(loader)
        return loaded

    expected = batches(0)
    assert len(expected) == 4
    assert expected[0]["label"].tolist() == [0, 1, 0, 1]
    for num_workers in (1, 3):
        for one, two in zip(expected, batches(num_workers), strict=True):
            assert torch.equal(one["video"], two["video"])
            assert one["provenance"] == two["provenance"]


def test_a_plain_data_loader_with_collate_fn_gives_the_same_batches(shared_tree):
    """torch's own DataLoader in the data set's order equals our loader at epoch 0."""
    dataset = dataset_for(shared_tree)
    plain = torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=collate_fn)
    ours = make_loader(dataset, PairBatchSampler(dataset.n_pairs, 4, seed=0, shuffle=False), 0)
    for one, two in zip(plain, ours, strict=True):
        assert set(one) == set(two) == {"video", "label", "provenance"}
        assert torch.equal(one["video"], two["video"])
        assert torch.equal(one["label"], two["label"])
        assert one["provenance"] == two["provenance"]


def test_a_pair_is_computed_once_for_both_members(shared_tree, monkeypatch):
    dataset = dataset_for(shared_tree)
    seeds = []
    plain = VideoSBIDataset._attempt
    monkeypatch.setattr(
        VideoSBIDataset, "_attempt", lambda self, seed, stage: seeds.append(seed) or plain(self, seed, stage)
    )
    real, fake = dataset[(2, 4)], dataset[(2, 5)]
    assert seeds == [(0, 2, 2, 0)]
    again = dataset[(3, 4)], dataset[(2, 5)], dataset[(2, 4)]  # another epoch gives another pair
    assert [seed[1] for seed in seeds] == [2, 3, 2]
    assert torch.equal(again[1]["video"], fake["video"])
    assert torch.equal(again[2]["video"], real["video"])


def test_a_pickled_data_set_contains_no_clips(shared_tree):
    dataset = dataset_for(shared_tree)
    item = dataset[(1, 3)]
    data = pickle.dumps(dataset)
    assert len(data) < 100_000
    assert torch.equal(pickle.loads(data)[(1, 3)]["video"], item["video"])


def test_replay(shared_tree, make_tree):
    dataset = everything_on(shared_tree)
    pair = dataset.pair(4, 1)
    again = replay(everything_on(shared_tree), pair.provenance)
    assert again.provenance == pair.provenance
    assert np.array_equal(again.real, pair.real)
    assert np.array_equal(again.fake, pair.fake)
    assert np.array_equal(again.mask, pair.mask)
    other_seed = dataset_for(shared_tree, sbi=SbiParams(compression_probability=1.0), seed=9)
    with pytest.raises(DataError, match="use the data, split and parameters"):
        replay(other_seed, pair.provenance)  # its config has no H.264
    longer = make_tree(splits={"train": [["010", "011"]], "val": [["012", "013"]], "test": [["014", "015"]]})
    with pytest.raises(DataError, match="use the data, split and parameters"):
        replay(everything_on(longer), pair.provenance)
    with pytest.raises(DataError, match="does not exist, this data set has 2 pairs"):
        replay(everything_on(shared_tree, "val"), dataset.pair(0, 3).provenance)


def damage(video, frame=5):
    path = video.frame_paths[frame]
    path.write_bytes(path.read_bytes()[:200])


def test_a_broken_video_is_replaced_for_both_members_and_counted(tiny_tree, caplog):
    dataset = dataset_for(tiny_tree, "train")
    damage(dataset.videos[0])  # frame 5 is in every possible clip
    real, fake = dataset[(0, 0)], dataset[(0, 1)]
    provenance = real["provenance"]
    attempt = provenance.seed[3]
    assert attempt >= 3
    assert provenance.failures == ("unreadable data",) * attempt
    assert provenance == fake["provenance"]
    assert provenance.video_id != dataset.videos[0].video_id
    assert (real["label"], fake["label"]) == (0, 1)
    assert str(dataset.videos[0].frame_paths[5]) in caplog.text
    again = dataset.replay(provenance)
    assert np.array_equal(again.fake, fake["video"].numpy())
    assert again.provenance == provenance
    for index in range(2, len(dataset)):
        assert dataset[(0, index)]["provenance"].failures == ()


def test_a_partly_broken_video_keeps_its_intact_clips(tiny_tree):
    dataset = dataset_for(tiny_tree, "train")
    damage(dataset.videos[0], frame=0)  # only the clip that starts at 0 contains it
    provenances = [dataset.pair(epoch, 0).provenance for epoch in range(12)]
    assert any(p.failures for p in provenances)
    assert {p.video_id for p in provenances} == {dataset.videos[0].video_id}
    assert 0 not in {p.start_frame for p in provenances}


def test_after_ten_replacements_the_failure_is_an_error(tiny_tree):
    dataset = dataset_for(tiny_tree, "val")
    for video in dataset.videos:
        damage(video)
    with pytest.raises(
        DataError, match=r"val/real/c23/004.*all 11 attempts failed \(11 × unreadable data\).*005\.png"
    ):
        dataset[0]


def test_an_empty_or_invisible_blend_is_drawn_again(shared_tree, monkeypatch):
    dataset = dataset_for(shared_tree, "val")
    plain, calls = BlendDraw.sample, []

    def first_two_are_empty(rng):
        calls.append(1)
        draw = plain(rng)
        return draw if len(calls) > 2 else dataclasses.replace(draw, ratio=0.0)

    monkeypatch.setattr(BlendDraw, "sample", first_two_are_empty)
    pair = dataset.pair(0, 0)
    assert pair.provenance.failures == ("empty mask",) * 2  # the mask is multiplied by ratio 0
    assert pair.provenance.seed == (0, 0, 0, 2)
    assert not np.array_equal(pair.real, pair.fake)
    monkeypatch.setattr(BlendDraw, "sample", lambda rng: dataclasses.replace(plain(rng), ratio=0.002))
    with pytest.raises(DataError, match="11 × invisible blend"):
        dataset.pair(0, 1)


def test_an_unexpected_error_is_not_swallowed(shared_tree):
    def crash(*_):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        dataset_for(shared_tree, reader=crash)[0]


def test_pairs_per_video_draw_different_clips(shared_tree):
    data = DataParams(train_pairs_per_video=3, val_pairs_per_video=2)
    train, val = dataset_for(shared_tree, data=data), dataset_for(shared_tree, "val", data=data)
    assert train.n_pairs == 12
    assert len(val) == 8
    pairs = [train.pair(0, p) for p in range(3)]
    assert {p.provenance.video_id for p in pairs} == {train.videos[0].video_id}
    assert not np.array_equal(pairs[0].real, pairs[1].real)
    assert not np.array_equal(pairs[1].real, pairs[2].real)


def test_clips_consist_of_consecutive_frames(make_tree):
    root = make_tree(n_frames=9)
    dataset = dataset_for(root, "val")
    assert [len(starts) for starts in dataset._starts] == [2, 2]
    dataset.videos[0].frame_paths[0].unlink()
    assert (
        dataset_for(root, "val")[0]["provenance"].start_frame == 1
    )  # the number on disk, not the list index
    dataset.videos[1].frame_paths[4].unlink()  # neither side of the gap has 8 frames
    with pytest.raises(
        DataError, match=r"val/real/c23/005 has no 8 consecutive frames with a face \(8 frames"
    ):
        dataset_for(root, "val")
    strided = dataset_for(root, "val", data=DataParams(allow_strided=True))
    assert strided[2]["video"].shape == (3, T, S, S)


def test_wrong_arguments_are_refused(shared_tree, make_tree):
    with pytest.raises(ConfigError, match="unknown phase 'training'"):
        dataset_for(shared_tree, "training")
    with pytest.raises(ConfigError, match="seed is -1"):
        dataset_for(shared_tree, seed=-1)
    with pytest.raises(DataError, match="raw"):
        dataset_for(shared_tree, data=DataParams(quality="raw"))
    root = make_tree()
    split_file(root, "val").write_text(json.dumps([["100", "101"]]))
    with pytest.raises(DataError, match="no real val video in c23"):
        dataset_for(root, "val")
    assert FFPPTree(root).real_videos("train", "c23")


def test_uint8_items_become_the_float_items_bit_for_bit(shared_tree):
    floats = everything_on(shared_tree)
    bytes_ = VideoSBIDataset("train", config_for(shared_tree), as_uint8=True)
    bytes_.recipe = floats.recipe
    for index in range(2):
        one, two = floats[index], bytes_[index]
        assert two["video"].dtype == torch.uint8
        assert two["video"].is_contiguous()
        assert torch.equal(two["video"].float() * (1 / 255), one["video"])
        assert one["label"] == two["label"]
        assert one["provenance"] == two["provenance"]
