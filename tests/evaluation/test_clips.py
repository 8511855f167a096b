"""Which test videos are scored, and their clips: validation's crop of untouched frames; what is missing is reported."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from stf.config import METHODS, STFV8Config
from stf.data.ffpp import FFPPTree, video_folder
from stf.data.pairs import as_floats, make_loader
from stf.data.video_sbi import random_streams
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.errors import DataError, UsageError
from stf.evaluation.clips import EvaluationClips, collate_evaluation, parse_methods, select_videos
from tests.reference.evaluation_sets import METHODS_ON_DISK, write_three_pairs


def test_the_headline_comes_first_and_every_quality_on_disk_follows(three_pairs):
    selection = select_videos(FFPPTree(three_pairs), METHODS, "c23")
    assert selection.qualities == ("c23", "raw")
    assert [(g.quality, g.method, len(g.videos)) for g in selection.groups] == [
        (quality, method, 6) for quality in ("c23", "raw") for method in (None, *METHODS_ON_DISK)
    ]
    assert selection.not_on_disk == {
        "c23": ("Face2Face", "NeuralTextures"),
        "raw": ("Face2Face", "NeuralTextures"),
    }
    assert selection.methods("raw") == METHODS_ON_DISK
    for group in selection.groups:
        assert {video.split for video in group.videos} == {"test"}
        assert not group.missing
        assert not group.outside_splits


def test_missing_videos_and_fakes_of_unknown_people_are_reported(tmp_path, write_one_video):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",), n_frames=8)
    shutil.rmtree(video_folder(root, None, "c23", "frames", "008"))
    shutil.rmtree(video_folder(root, "FaceSwap", "c23", "frames", "010_011"))
    write_one_video(root, "555_006", method="FaceSwap", n_frames=1)
    write_one_video(
        root, "000_001", method="FaceSwap", n_frames=1
    )  # of the train split: no test video, no defect
    selection = select_videos(FFPPTree(root), ("FaceSwap", "Deepfakes"), "c23")
    real, swap, deepfakes = selection.groups
    assert (real.missing, real.outside_splits) == (("008",), ())
    assert (swap.missing, swap.outside_splits, len(swap.videos)) == (("010",), ("555_006",), 5)
    assert (deepfakes.missing, len(deepfakes.videos)) == ((), 6)


def test_a_method_without_a_single_test_video_is_not_on_disk(tmp_path, write_one_video):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",), n_frames=1, methods=("Deepfakes",))
    write_one_video(root, "000_001", method="FaceSwap", n_frames=1)
    selection = select_videos(FFPPTree(root), METHODS_ON_DISK, "c23")
    assert selection.not_on_disk == {"c23": ("FaceSwap",)}
    with pytest.raises(DataError, match="no test video of FaceSwap in c23; methods on disk there: Deepfakes"):
        select_videos(FFPPTree(root), ("FaceSwap",), "c23")


def test_nothing_to_score_is_an_error_that_lists_what_is_on_disk(three_pairs):
    with pytest.raises(
        DataError, match=r"no test video of Face2Face in c23.*on disk there: Deepfakes, FaceSwap"
    ):
        select_videos(FFPPTree(three_pairs), ("Face2Face",), "c23")
    with pytest.raises(DataError, match=r"c40.*raw, c23"):
        select_videos(FFPPTree(three_pairs), METHODS, "c40")


def test_a_split_without_real_videos_is_an_error(tmp_path):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",), n_frames=1, methods=("FaceSwap",))
    for video_id in ("006", "007", "008", "009", "010", "011"):
        shutil.rmtree(video_folder(root, None, "c23", "frames", video_id))
    with pytest.raises(DataError, match="no real test video in c23"):
        select_videos(FFPPTree(root), ("FaceSwap",), "c23")


def test_methods_are_read_with_commas_or_repeated():
    assert parse_methods(()) == ()
    assert parse_methods(("FaceSwap,Deepfakes", " Face2Face", "FaceSwap")) == (
        "FaceSwap",
        "Deepfakes",
        "Face2Face",
    )


def test_an_unknown_method_is_a_usage_error_with_the_nearest_name():
    with pytest.raises(UsageError, match=r'"deepfake".*did you mean "Deepfakes"'):
        parse_methods(("FaceSwap,deepfake",))
    with pytest.raises(UsageError, match="names no method"):
        parse_methods((" , ",))


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


def test_clips_equal_the_unmodified_targets_of_validation(shared_tree):
    """A validation pair whose source got the colour change has the unmodified frames as its real clip."""
    dataset = VideoSBIDataset("val", config_for(shared_tree))
    clips = EvaluationClips(dataset.videos, config_for(shared_tree), clips_per_video=50)
    starts = {(i["video_index"], i["clip_index"]): i["video"] for i in (clips[n] for n in range(len(clips)))}
    compared = 0
    for seed in range(6):
        dataset = VideoSBIDataset("val", config_for(shared_tree), seed=seed)
        pair = dataset.pair(0, 1)
        rngs = random_streams(pair.provenance.seed)
        if rngs["colour"].random() < 0.5:
            plain = starts[(1, pair.provenance.start_frame)]
            assert np.array_equal(pair.real, as_floats(plain).numpy())
            compared += 1
    assert compared


def test_an_unreadable_video_is_reported_and_not_scored(tiny_tree):
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


def test_a_missing_frame_drops_only_the_clips_that_contain_it(tiny_tree):
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
def test_batches_skip_unreadable_videos_and_report_their_errors(tiny_tree, num_workers):
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
