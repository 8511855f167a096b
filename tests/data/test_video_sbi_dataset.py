"""Video-SBI: a pair differs inside the mask and nowhere else, and every clip can be made again."""

import dataclasses
import json
import pickle

import cv2
import numpy as np
import pytest
import torch

from stf.config import DataParams, SbiParams, STFV8Config
from stf.data import video_sbi_dataset as module
from stf.data.blend import BlendDraw
from stf.data.face_clip import FaceClip, read_face_clip
from stf.data.faces import draw_side_factors, final_crop_window
from stf.data.ffpp import FFPPTree, split_file
from stf.data.pairs import PairBatchSampler, make_loader
from stf.data.video_sbi import (
    Blend,
    Recipe,
    Rejected,
    blend_members,
    degrade,
    draw_sbi,
    moving_masks,
    require_visible,
    streams,
)
from stf.data.video_sbi_dataset import VideoSBIDataset, replay
from stf.errors import ConfigError, DataError
from tests.reference.data_video_sbi_plain import plain_face_clip, plain_final, plain_members

T, S = 8, 48


def config_for(root, **changes):
    config = dataclasses.replace(STFV8Config.debug(), img_size=S, num_frames=T, data_root=str(root))
    return dataclasses.replace(config, **changes)


def dataset_for(root, phase="train", sbi=None, seed=0, data=None, **flags):
    return VideoSBIDataset(phase, config_for(root, **flags), sbi=sbi, seed=seed, data=data)


def everything_on(root, phase="train", **more):
    sbi = SbiParams(compression_probability=1.0, tps_probability=1.0, **more)
    return dataset_for(root, phase, sbi, use_compression_aug=True, use_multiscale_drift=True)


def drawn(dataset, seed):
    """(clip, draw, window) of one attempt, as the data set makes them."""
    rngs = streams(seed)
    place = seed[2] // dataset.pairs_per_video
    start = int(rngs["start"].choice(dataset._starts[place]))
    clip = read_face_clip(dataset.videos[place], start, T, bool(rngs["flip"].random() < 0.5))
    height, width = clip.frames_THWC.shape[1:3]
    factors = draw_side_factors(rngs["crop"], dataset.recipe.train)
    window = final_crop_window(clip.box_22, height, width, factors)
    return clip, draw_sbi(rngs, dataset.recipe, clip, window), window


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


@pytest.mark.parametrize("more", [{}, {"mask_anchor": "tracked"}, {"elastic_on_source": True}])
def test_members_differ_inside_the_mask_only(shared_tree, more):
    sbi = SbiParams(tps_probability=1.0, **more)
    dataset = dataset_for(shared_tree, "val", sbi, use_multiscale_drift=True)
    for index in range(dataset.n_pairs):
        pair = dataset.pair(0, index, stage="native")
        assert pair.real.dtype == pair.fake.dtype == np.uint8
        assert pair.real.shape == pair.fake.shape
        assert pair.mask.shape == pair.real.shape[:3]
        assert pair.mask.dtype == np.float32
        changed = (pair.real != pair.fake).any(-1)
        assert not changed[pair.mask == 0].any()
        assert changed.any(axis=(1, 2)).all()  # in every frame
        assert 0.02 < (pair.mask > 0).mean() < 0.8


def test_train_transforms_touch_both_members_alike(shared_tree):
    dataset = dataset_for(shared_tree, "train")
    for index in range(dataset.n_pairs):
        pair = dataset.pair(3, index, stage="native")
        # JPEG spreads a change over its 16 px blocks of chroma, and no further
        near = np.stack([cv2.dilate((m > 0).astype(np.uint8), np.ones((33, 33))) for m in pair.mask]) > 0
        changed = (pair.real != pair.fake).any(-1)
        assert changed.any()
        assert not changed[~near].any()


def test_real_member_is_the_transformed_target(shared_tree):
    dataset = dataset_for(shared_tree, "train")
    seen = set()
    for epoch in range(8):
        clip, draw, _ = drawn(dataset, (0, epoch, 0, 0))
        real = blend_members(clip, draw, dataset.recipe).real
        seen.add(draw.colour_on_source)
        assert np.array_equal(real, clip.frames_THWC) == draw.colour_on_source
    assert seen == {True, False}


@pytest.mark.parametrize("phase", ["train", "val"])
def test_blend_ratio_zero_makes_a_bit_identical_pair(shared_tree, phase):
    dataset = everything_on(shared_tree, phase)
    clip, draw, _ = drawn(dataset, (0, 0, 1, 0))
    none = dataclasses.replace(draw, blend=dataclasses.replace(draw.blend, ratio=0.0))
    pair = degrade(blend_members(clip, none, dataset.recipe), none)
    assert draw.qp is not None
    assert np.array_equal(pair.real, pair.fake)
    some = degrade(blend_members(clip, draw, dataset.recipe), draw)
    assert np.array_equal(some.real, pair.real)
    assert not np.array_equal(some.real, some.fake)


@pytest.mark.parametrize("anchor", ["first", "tracked"])
@pytest.mark.parametrize("elastic_on_source", [False, True])
def test_equals_the_plain_recipe(shared_tree, anchor, elastic_on_source):
    more = {"mask_anchor": anchor, "elastic_on_source": elastic_on_source}
    dataset = everything_on(shared_tree, "train", **more)
    flips = set()
    for epoch in (0, 1, 2):
        pair = dataset.pair(epoch, 2, stage="native")
        final = dataset.pair(epoch, 2)
        seed = pair.provenance.seed
        rngs = streams(seed)
        start = int(rngs["start"].choice(dataset._starts[2]))
        flip = bool(rngs["flip"].random() < 0.5)
        flips.add(flip)
        frames, landmarks, box = plain_face_clip(dataset.videos[2], start, T, flip)
        factors = draw_side_factors(rngs["crop"], True)
        window = final_crop_window(box, frames.shape[1], frames.shape[2], factors)
        clip = FaceClip(frames, landmarks, box)
        draw = draw_sbi(rngs, dataset.recipe, clip, window)
        real, fake, mask = plain_members(frames, landmarks, draw, dataset.recipe)
        np.testing.assert_array_equal(pair.real, real)
        np.testing.assert_array_equal(pair.fake, fake)
        np.testing.assert_allclose(pair.mask, mask, atol=1e-6)
        np.testing.assert_allclose(final.fake, plain_final(fake, box, window, S), atol=1e-6)
        assert pair.provenance.start_frame == start
    assert flips == {True, False}


FLAGS_OF_THE_MASK = [
    {"use_multiscale_drift": True},
    {"sbi": SbiParams(tps_probability=1.0)},
    {"sbi": SbiParams(mask_anchor="tracked")},
    {"sbi": SbiParams(elastic_on_source=True)},
]


@pytest.mark.parametrize("change", FLAGS_OF_THE_MASK)
def test_a_flag_of_the_mask_changes_the_fake_and_nothing_else(shared_tree, change):
    base = dataset_for(shared_tree, sbi=SbiParams(tps_probability=0.0))
    other = dataset_for(shared_tree, **({"sbi": SbiParams(tps_probability=0.0)} | change))
    one, two = base.pair(1, 0), other.pair(1, 0)
    assert one.provenance == two.provenance
    assert np.array_equal(one.real, two.real)
    assert not np.array_equal(one.fake, two.fake)


def test_the_codec_flag_changes_compression_and_nothing_else(shared_tree):
    base = dataset_for(shared_tree)
    other = dataset_for(shared_tree, use_compression_aug=True)
    qps = set()
    for index in range(base.n_pairs):
        one, two = base.pair(0, index, stage="native"), other.pair(0, index, stage="native")
        qp = two.provenance.qp
        qps.add(qp is not None)
        assert one.provenance == dataclasses.replace(two.provenance, qp=None, codec="none")
        assert np.array_equal(one.mask, two.mask)
        assert np.array_equal(one.real, two.real) == (qp is None)
    assert qps == {True, False}


def test_flags_reach_the_recipe():
    off = Recipe.of("train", STFV8Config(), SbiParams())
    on = Recipe.of("val", STFV8Config.phase_a(), SbiParams())
    assert off.drift.step_range == (2.0, 2.0)
    assert on.drift.step_range == (0.5, 5.0)
    rng = np.random.default_rng(0)
    assert {off.compression.sample(rng) for _ in range(50)} == {None}
    qps = [on.compression.sample(rng) for _ in range(400)]
    assert 120 < sum(qp is None for qp in qps) < 280
    assert {q for q in qps if q} == set(range(23, 41))
    assert off.train
    assert not on.train


def test_val_is_the_same_in_every_epoch_and_never_mirrored(shared_tree, monkeypatch):
    flips = []
    plain = module.read_face_clip
    monkeypatch.setattr(
        module, "read_face_clip", lambda v, s, n, flip: flips.append(flip) or plain(v, s, n, flip)
    )
    dataset = dataset_for(shared_tree, "val")
    assert torch.equal(dataset[(0, 1)]["video"], dataset[(5, 1)]["video"])
    assert dataset[(5, 1)]["provenance"].seed[1] == 0
    assert all(drawn(dataset, (s, 0, 0, 0))[1].train is None for s in range(3))
    assert flips
    assert not any(flips)
    train = dataset_for(shared_tree, "train")
    for epoch in range(8):
        train[(epoch, 0)]
    assert set(flips[-8:]) == {True, False}
    assert not torch.equal(train[(0, 0)]["video"], train[(1, 0)]["video"])
    assert not torch.equal(train[(0, 0)]["video"], dataset_for(shared_tree, seed=1)[(0, 0)]["video"])


def test_the_same_clips_with_any_number_of_workers(shared_tree):
    dataset = everything_on(shared_tree)
    sampler = PairBatchSampler(dataset.n_pairs, 4, seed=5, shuffle=True)

    def batches(num_workers):
        loader = make_loader(dataset, sampler, num_workers)
        found = []
        for epoch in (1, 2):
            sampler.set_epoch(epoch)
            found += list(loader)
        return found

    expected = batches(0)
    assert len(expected) == 4
    assert expected[0]["label"].tolist() == [0, 1, 0, 1]
    for num_workers in (1, 3):
        for one, two in zip(expected, batches(num_workers), strict=True):
            assert torch.equal(one["video"], two["video"])
            assert one["provenance"] == two["provenance"]


def test_a_pair_is_computed_once_for_both_members(shared_tree, monkeypatch):
    dataset = dataset_for(shared_tree)
    seeds = []
    plain = VideoSBIDataset._attempt
    monkeypatch.setattr(
        VideoSBIDataset, "_attempt", lambda self, seed: seeds.append(seed) or plain(self, seed)
    )
    real, fake = dataset[(2, 4)], dataset[(2, 5)]
    assert seeds == [(0, 2, 2, 0)]
    again = dataset[(3, 4)], dataset[(2, 5)], dataset[(2, 4)]  # another epoch is another pair
    assert [seed[1] for seed in seeds] == [2, 3, 2]
    assert torch.equal(again[1]["video"], fake["video"])
    assert torch.equal(again[2]["video"], real["video"])


def test_pickles_without_its_clips(shared_tree):
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
    with pytest.raises(DataError, match="other data"):
        replay(other_seed, pair.provenance)  # no H.264 in that one
    longer = make_tree(splits={"train": [["010", "011"]], "val": [["012", "013"]], "test": [["014", "015"]]})
    with pytest.raises(DataError, match="other data"):
        replay(everything_on(longer), pair.provenance)


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


def test_a_partly_broken_video_keeps_its_good_clips(tiny_tree):
    dataset = dataset_for(tiny_tree, "train")
    damage(dataset.videos[0], frame=0)  # only the clip that starts at 0 holds it
    made = [dataset.pair(epoch, 0).provenance for epoch in range(12)]
    assert any(p.failures for p in made)
    assert {p.video_id for p in made} == {dataset.videos[0].video_id}
    assert 0 not in {p.start_frame for p in made}


def test_after_ten_replacements_the_failure_is_an_error(tiny_tree):
    dataset = dataset_for(tiny_tree, "val")
    for video in dataset.videos:
        damage(video)
    with pytest.raises(
        DataError, match=r"val/real/c23/004.*failed 11 times \(11 × unreadable data\).*005\.png"
    ):
        dataset[0]


def test_an_empty_or_invisible_blend_is_drawn_again(shared_tree, monkeypatch):
    dataset = dataset_for(shared_tree, "val")
    plain, calls = BlendDraw.sample, []

    def first_is_nothing(rng):
        calls.append(1)
        draw = plain(rng)
        return draw if len(calls) > 2 else dataclasses.replace(draw, ratio=0.0)

    monkeypatch.setattr(BlendDraw, "sample", first_is_nothing)
    pair = dataset.pair(0, 0)
    assert pair.provenance.failures == ("empty mask",) * 2  # ratio 0 leaves nothing of the mask
    assert pair.provenance.seed == (0, 0, 0, 2)
    assert not np.array_equal(pair.real, pair.fake)
    monkeypatch.setattr(BlendDraw, "sample", lambda rng: dataclasses.replace(plain(rng), ratio=0.002))
    with pytest.raises(DataError, match="11 × invisible blend"):
        dataset.pair(0, 1)


def test_what_counts_as_visible():
    real = np.full((2, 4, 5, 3), 100, np.uint8)
    mask = np.zeros((2, 4, 5), np.float32)
    with pytest.raises(Rejected, match="empty mask"):
        require_visible(Blend(real, real, mask))
    mask[:, 1:3, 1:3] = 0.5
    with pytest.raises(Rejected, match="invisible blend"):
        require_visible(Blend(real, real, mask))
    fake = real.copy()
    fake[:, 1:3, 1:3] -= 1
    require_visible(Blend(real, fake, mask))  # exactly one grey level everywhere in the mask
    fake[0, 1, 1, 0] += 1
    with pytest.raises(Rejected, match="invisible blend"):
        require_visible(Blend(real, fake, mask))


def test_an_unexpected_error_is_not_swallowed(shared_tree, monkeypatch):
    def crash(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(module, "read_face_clip", crash)
    with pytest.raises(ValueError, match="a bug"):
        dataset_for(shared_tree)[0]


def centroids(masks_THW):
    ys, xs = np.mgrid[: masks_THW.shape[1], : masks_THW.shape[2]]
    return np.array([[(m * xs).sum() / m.sum(), (m * ys).sum() / m.sum()] for m in masks_THW])


def test_the_tracked_mask_follows_the_face(shared_tree):
    dataset = dataset_for(shared_tree, sbi=SbiParams(tps_probability=0.0))
    clip, draw, _ = drawn(dataset, (0, 0, 0, 0))
    steps_T2 = np.arange(T)[:, None] * np.array([2.0, 1.0])
    moving = dataclasses.replace(clip, landmarks_TN2=clip.landmarks_TN2[:1] + steps_T2[:, None])
    still = dataclasses.replace(draw.elastic, keys_Khw2=np.zeros_like(draw.elastic.keys_Khw2))
    stay = dataclasses.replace(draw.drift, offsets_T2=np.zeros((T, 2)))
    draw = dataclasses.replace(draw, elastic=still, drift=stay)
    first = centroids(moving_masks(moving, draw, dataset.recipe))
    tracked = centroids(
        moving_masks(moving, draw, dataclasses.replace(dataset.recipe, mask_anchor="tracked"))
    )
    assert np.abs(first - first[0]).max() < 0.01
    scale = np.array([draw.affine.scale_x, draw.affine.scale_y])
    np.testing.assert_allclose(tracked - tracked[0], steps_T2 * scale, atol=0.3)


def test_drift_is_measured_in_pixels_of_img_size(shared_tree):
    dataset = dataset_for(shared_tree, use_multiscale_drift=True)
    clip, _, window = drawn(dataset, (0, 0, 0, 0))

    def offsets(img_size):
        recipe = dataclasses.replace(dataset.recipe, img_size=img_size)
        return draw_sbi(streams((0, 0, 0, 0)), recipe, clip, window).drift.offsets_T2

    y0, y1, x0, x1 = window
    np.testing.assert_allclose(offsets(S), 2 * offsets(2 * S))
    longest = max(np.linalg.norm(offsets(S), axis=1))
    assert 0 < longest <= 8 * (y1 - y0 + x1 - x0) / (2 * S) + 1e-9


def test_streams_are_all_different():
    seeds = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0)]
    first = [rng.random() for seed in seeds for rng in streams(seed).values()]
    assert len(set(first)) == len(first) == 5 * len(streams(seeds[0]))
    assert streams(seeds[1])["drift"].random() == streams(seeds[1])["drift"].random()


def test_pairs_per_video_draw_different_clips(shared_tree):
    data = DataParams(train_pairs_per_video=3, val_pairs_per_video=2)
    train, val = dataset_for(shared_tree, data=data), dataset_for(shared_tree, "val", data=data)
    assert train.n_pairs == 12
    assert len(val) == 8
    made = [train.pair(0, p) for p in range(3)]
    assert {p.provenance.video_id for p in made} == {train.videos[0].video_id}
    assert not np.array_equal(made[0].real, made[1].real)
    assert not np.array_equal(made[1].real, made[2].real)


def test_consecutive_frames_only(make_tree):
    root = make_tree(n_frames=9)
    dataset = dataset_for(root, "val")
    assert [len(starts) for starts in dataset._starts] == [2, 2]
    dataset.videos[1].frame_paths[4].unlink()  # neither side of the gap holds 8 frames
    with pytest.raises(
        DataError, match=r"val/real/c23/005 has no 8 consecutive frames with a face \(8 frames"
    ):
        dataset_for(root, "val")
    strided = dataset_for(root, "val", data=DataParams(allow_strided=True))
    assert strided[2]["video"].shape == (3, T, S, S)


def test_wrong_arguments_are_named(shared_tree, make_tree):
    with pytest.raises(ConfigError, match="phase is 'training'"):
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
