"""Which test videos are scored, and what becomes of those that are not there."""

import shutil

import pytest

from stf.config import METHODS
from stf.data.ffpp import FFPPTree, video_folder
from stf.errors import DataError, UsageError
from stf.evaluation.videos import parse_methods, select_videos
from tests.reference.evaluation_sets import METHODS_ON_DISK, write_three_pairs


def test_the_headline_comes_first_and_every_quality_on_disk_follows(three_pairs):
    found = select_videos(FFPPTree(three_pairs), METHODS, "c23")
    assert found.qualities == ("c23", "raw")
    assert [(g.quality, g.method, len(g.videos)) for g in found.groups] == [
        (quality, method, 6) for quality in ("c23", "raw") for method in (None, *METHODS_ON_DISK)
    ]
    assert found.not_on_disk == {
        "c23": ("Face2Face", "NeuralTextures"),
        "raw": ("Face2Face", "NeuralTextures"),
    }
    assert found.methods("raw") == METHODS_ON_DISK
    for group in found.groups:
        assert {video.split for video in group.videos} == {"test"}
        assert not group.missing
        assert not group.outside_splits


def test_missing_videos_and_fakes_of_unknown_people_are_named(tmp_path, write_one_video):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",), n_frames=8)
    shutil.rmtree(video_folder(root, None, "c23", "frames", "008"))
    shutil.rmtree(video_folder(root, "FaceSwap", "c23", "frames", "010_011"))
    write_one_video(root, "555_006", method="FaceSwap", n_frames=1)
    write_one_video(
        root, "000_001", method="FaceSwap", n_frames=1
    )  # of the train split: no test video, no defect
    found = select_videos(FFPPTree(root), ("FaceSwap", "Deepfakes"), "c23")
    real, swap, deepfakes = found.groups
    assert (real.missing, real.outside_splits) == (("008",), ())
    assert (swap.missing, swap.outside_splits, len(swap.videos)) == (("010",), ("555_006",), 5)
    assert (deepfakes.missing, len(deepfakes.videos)) == ((), 6)


def test_a_method_without_a_single_test_video_is_not_on_disk(tmp_path, write_one_video):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",), n_frames=1, methods=("Deepfakes",))
    write_one_video(root, "000_001", method="FaceSwap", n_frames=1)
    found = select_videos(FFPPTree(root), METHODS_ON_DISK, "c23")
    assert found.not_on_disk == {"c23": ("FaceSwap",)}
    with pytest.raises(DataError, match="no test video of FaceSwap in c23; methods on disk there: Deepfakes"):
        select_videos(FFPPTree(root), ("FaceSwap",), "c23")


def test_nothing_to_score_names_what_is_there(three_pairs):
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
