"""Clips for scoring: validation's crop of untouched frames; a video that cannot be read is named."""

import dataclasses

import numpy as np
import pytest
import torch

from stf.config import STFV8Config
from stf.data.ffpp import FFPPTree
from stf.data.pairs import as_floats, make_loader
from stf.data.video_sbi import streams
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.evaluation.clips import EvaluationClips, collate_evaluation

T, S = 8, 48


def config_for(root):
    return dataclasses.replace(STFV8Config.debug(), img_size=S, num_frames=T, data_root=str(root))


def test_clips_are_spread_over_each_video(shared_tree):
    tree = FFPPTree(shared_tree)
    videos = tree.real_videos("test", "c23") + tree.fake_videos("test", "FaceSwap", "c23")
    clips = EvaluationClips(videos, config_for(shared_tree), clips_per_video=3)
    items = [clips[i] for i in range(len(clips))]
    assert [(i["video_index"], i["clip_index"]) for i in items] == [
        (v, c) for v in range(4) for c in range(3)
    ]
    for item in items:
        assert item["video"].shape == (3, T, S, S)
        assert item["video"].dtype == torch.uint8
        assert item["video"].is_contiguous()
        assert item["video"].max() > 50
    assert not torch.equal(items[0]["video"], items[2]["video"])
    assert torch.equal(items[0]["video"], clips[0]["video"])
    # 12 frames hold 5 clips of 8: more cannot be had
    assert len(EvaluationClips(videos[:1], config_for(shared_tree), clips_per_video=50)) == 5


def test_equals_validations_untouched_target(shared_tree):
    """A validation pair whose colour went to the source has the plain frames as its real member."""
    dataset = VideoSBIDataset("val", config_for(shared_tree))
    clips = EvaluationClips(dataset.videos, config_for(shared_tree), clips_per_video=50)
    starts = {(i["video_index"], i["clip_index"]): i["video"] for i in (clips[n] for n in range(len(clips)))}
    compared = 0
    for seed in range(6):
        dataset = VideoSBIDataset("val", config_for(shared_tree), seed=seed)
        pair = dataset.pair(0, 1)
        rngs = streams(pair.provenance.seed)
        if rngs["colour"].random() < 0.5:
            plain = starts[(1, pair.provenance.start_frame)]
            assert np.array_equal(pair.real, as_floats(plain).numpy())
            compared += 1
    assert compared


def test_an_unreadable_video_is_named_and_not_scored(tiny_tree):
    tree = FFPPTree(tiny_tree)
    videos = tree.real_videos("train", "c23")
    broken = videos[1].frame_paths[5]
    broken.write_bytes(broken.read_bytes()[:100])
    empty = dataclasses.replace(videos[2], frame_paths=(), frame_numbers=(), landmark_paths=(), box_paths=())
    clips = EvaluationClips([videos[0], videos[1], empty], config_for(tiny_tree), clips_per_video=2)
    items = [clips[i] for i in range(len(clips))]
    assert [i["video_index"] for i in items] == [0, 0, 1, 1, 2]
    assert ["error" in i for i in items] == [False, False, True, True, True]
    assert all("video" not in i for i in items if "error" in i)
    assert str(broken) in items[2]["error"]
    assert "no 8 consecutive frames" in items[4]["error"]
    assert empty.name in items[4]["error"]


def test_a_gap_costs_the_clips_that_hold_it(tiny_tree):
    FFPPTree(tiny_tree).real_videos("train", "c23")[0].frame_paths[2].unlink()
    video = FFPPTree(tiny_tree).real_videos("train", "c23")[0]
    clips = EvaluationClips([video], config_for(tiny_tree), clips_per_video=4)
    assert len(clips) == 2
    assert "video" in clips[0]
    strided = EvaluationClips([video], config_for(tiny_tree), clips_per_video=4, allow_strided=True)
    assert len(strided) == 4


def test_a_fake_without_geometry_uses_its_targets(tiny_tree):
    tree = FFPPTree(tiny_tree)
    own = tree.fake_videos("test", "FaceSwap", "c23")[0]
    target = next(v for v in tree.real_videos("test", "c23") if v.video_id == own.target_id)
    for paths in (own.landmark_paths, own.box_paths):
        for path in paths:
            path.unlink()
    borrowed = tree.fake_videos("test", "FaceSwap", "c23")[0]
    assert borrowed.borrowed_geometry
    assert borrowed.landmark_paths == target.landmark_paths
    item = EvaluationClips([borrowed], config_for(tiny_tree), clips_per_video=1)[0]
    assert item["video"].shape == (3, T, S, S)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches(tiny_tree, num_workers):
    videos = FFPPTree(tiny_tree).real_videos("train", "c23")
    videos[0].frame_paths[5].write_bytes(b"no picture")
    clips = EvaluationClips(videos[:3], config_for(tiny_tree), clips_per_video=2)
    loader = make_loader(clips, [[0, 1], [2, 3], [4, 5]], num_workers, collate=collate_evaluation)
    batches = list(loader)
    assert batches[0]["video"] is None
    assert [v for v, _ in batches[0]["errors"]] == [0, 0]
    assert batches[1]["video"].shape == (2, 3, T, S, S)
    assert batches[1]["video_index"] == [1, 1]
    assert batches[2]["errors"] == []
    assert torch.equal(batches[2]["video"][1], clips[5]["video"])
    assert batches[2]["video"].dtype == torch.uint8
