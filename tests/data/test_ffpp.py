"""The FF++ index: the videos of each split, invalid split files, and the fingerprint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stf.config import METHODS, SAMPLE_ROOT
from stf.data.ffpp import (
    FFPPTree,
    fingerprint_of,
    init_ff,
    is_sample,
    require_fingerprint,
    split_fake_id,
    split_file,
    video_folder,
)
from stf.data.fingerprint import Kind
from stf.errors import DataError


def test_a_fake_belongs_to_the_split_of_its_target(shared_tree: Path) -> None:
    tree = FFPPTree(shared_tree)
    assert [v.video_id for v in tree.real_videos("train", "c23")] == ["000", "001", "002", "003"]
    fakes = tree.fake_videos("test", "FaceSwap", "c23")
    assert [(v.video_id, v.target_id, v.source_id) for v in fakes] == [
        ("006_007", "006", "007"),
        ("007_006", "007", "006"),
    ]
    assert tree.fake_videos("train", "FaceSwap", "c23") == []
    assert {v.label for v in fakes} == {1}
    assert tree.methods("c23") == METHODS


def test_a_video_lists_frames_and_geometry_in_the_order_of_frame_numbers(
    tmp_path: Path, write_one_video: Callable[..., None], make_tree: Callable[..., Path]
) -> None:
    root = make_tree(methods=())
    folder = video_folder(root, None, "c23", "frames", "000")
    os.rename(folder / "003.png", folder / "1000.png")
    (folder / "notes.png").write_bytes(b"")
    video = FFPPTree(root).real_videos("train", "c23")[0]
    assert video.frame_numbers == (0, 1, 2, *range(4, 12), 1000)
    assert [p.name for p in video.frame_paths[-2:]] == ["011.png", "1000.png"]
    assert video.landmark_paths[-1] is None
    assert video.landmark_paths[3] is not None
    assert video.landmark_paths[3].name == "004.npy"


def test_ids_with_letters_are_supported(make_tree: Callable[..., Path]) -> None:
    splits = {"train": [["r04", "r06"]], "val": [["r07", "r12"]], "test": [["m04", "m-5"]]}
    tree = FFPPTree(make_tree(splits=splits, methods=("Face2Face",)))
    assert [v.video_id for v in tree.fake_videos("test", "Face2Face", "c23")] == ["m-5_m04", "m04_m-5"]
    assert split_fake_id("m04_r04") == ("m04", "r04")
    for name in ("000", "a_b_c", "_003", "000_", "../x_y", "a.b_c"):
        assert split_fake_id(name) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[["../../etc", "003"]]', "not a video id"),
        ('[["/etc", "003"]]', "not a video id"),
        ('[["000_1", "003"]]', "not a video id"),
        ('[["000\\n", "003"]]', "not a video id"),
        ('[["", "003"]]', "not a video id"),
        ("[[0, 3]]", "not a video id"),
        ('[["000", null]]', "not a video id"),
        ('[["000"]]', "not a pair"),
        ('["000"]', "not a pair"),
        ('{"a": 1}', "non-empty list"),
        ("[]", "non-empty list"),
        ("[[", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ("\ud800", "not valid JSON"),
    ],
)
def test_hostile_split_files_are_refused_by_name(tiny_tree: Path, text: str, message: str) -> None:
    split_file(tiny_tree, "val").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=message) as caught:
        FFPPTree(tiny_tree).ids("train")
    assert "val.json" in str(caught.value)


def test_a_huge_split_file_is_not_read(tiny_tree: Path) -> None:
    with open(split_file(tiny_tree, "test"), "r+b") as stream:
        stream.truncate(20_000_000)
    with pytest.raises(DataError, match="20000000 bytes"):
        FFPPTree(tiny_tree).splits  # noqa: B018 - the property reads the file


def test_a_missing_split_file_root_or_quality_says_what_to_do(tiny_tree: Path) -> None:
    tree = FFPPTree(tiny_tree)
    with pytest.raises(
        DataError, match=r"raw/frames does not exist; qualities on disk .*: c23\. Set data.quality"
    ):
        tree.real_videos("train", "raw")
    with pytest.raises(DataError, match=r"qualities on disk for Deepfakes: c23"):
        tree.fake_videos("test", "Deepfakes", "c40")
    split_file(tiny_tree, "val").unlink()
    with pytest.raises(DataError, match=r"val\.json does not exist"):
        FFPPTree(tiny_tree).ids("val")
    with pytest.raises(DataError, match=r"data\.root"):
        FFPPTree(tiny_tree / "nowhere")


def test_overlap_and_expected_fakes(make_tree: Callable[..., Path]) -> None:
    splits = {"train": [["000", "001"]], "val": [["002", "000"]], "test": [["003", "003"]]}
    tree = FFPPTree(make_tree(splits=splits | {"val": [["002", "004"]]}, methods=()))
    assert tree.overlap() == {}
    assert tree.expected_fake_ids("train") == ["000_001", "001_000"]
    assert tree.expected_fake_ids("test") == []
    split_file(tree.root, "val").write_text(json.dumps(splits["val"]))
    assert FFPPTree(tree.root).overlap() == {"000": ("train", "val")}


@pytest.mark.parametrize("missing", ["landmarks", "retina"])
def test_a_fake_without_geometry_borrows_its_targets(tiny_tree: Path, missing: str) -> None:
    shutil.rmtree(video_folder(tiny_tree, "Deepfakes", "c23", missing, "006_007"))
    borrower, owner = FFPPTree(tiny_tree).fake_videos("test", "Deepfakes", "c23")
    assert borrower.borrowed_geometry
    assert not owner.borrowed_geometry
    target, source = FFPPTree(tiny_tree).real_videos("test", "c23")
    paths = borrower.landmark_paths if missing == "landmarks" else borrower.box_paths
    assert paths == (target.landmark_paths if missing == "landmarks" else target.box_paths)
    own_paths = borrower.box_paths if missing == "landmarks" else borrower.landmark_paths
    assert all(path is not None and "Deepfakes" in str(path) for path in own_paths)
    assert source.video_id == "007"


@pytest.mark.parametrize("kind", ["mtimes", "contents"])
def test_the_fingerprint_covers_names_and_sizes(tiny_tree: Path, kind: Kind) -> None:
    tree = FFPPTree(tiny_tree)
    path = video_folder(tiny_tree, None, "c23", "frames", "000") / "000.png"
    os.utime(path, (1, 1))
    fingerprints = [tree.fingerprint(kind)]
    path.write_bytes(path.read_bytes() + b" ")
    os.utime(path, (1, 1))
    fingerprints.append(tree.fingerprint(kind))
    os.rename(path, path.with_name("099.png"))
    fingerprints.append(tree.fingerprint(kind))
    assert len(set(fingerprints)) == 3


def test_the_fingerprint_covers_either_mtimes_or_contents(tiny_tree: Path) -> None:
    tree = FFPPTree(tiny_tree)
    path = video_folder(tiny_tree, None, "c23", "landmarks", "000") / "000.npy"
    os.utime(path, (1, 1))
    by_mtimes, by_contents = tree.fingerprint("mtimes"), tree.fingerprint("contents")
    os.utime(path, (2, 2))
    assert tree.fingerprint("mtimes") != by_mtimes
    assert tree.fingerprint("contents") == by_contents
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, (1, 1))
    assert tree.fingerprint("mtimes") == by_mtimes
    assert tree.fingerprint("contents") != by_contents


def test_copies_have_the_same_fingerprint_by_content(tiny_tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_tree, tmp_path / "copy")
    assert FFPPTree(tiny_tree).fingerprint("contents") == FFPPTree(tmp_path / "copy").fingerprint("contents")


def test_changed_data_are_refused_with_the_command_to_run(tiny_tree: Path, tmp_path: Path) -> None:
    data_json = tmp_path / "data.json"
    with pytest.raises(DataError, match="dvc repro verify_data"):
        require_fingerprint(tiny_tree, data_json)
    data_json.write_text("[]")
    with pytest.raises(DataError, match="dvc repro verify_data"):
        require_fingerprint(tiny_tree, data_json)
    data_json.write_text(json.dumps({"fingerprint": fingerprint_of(tiny_tree)}))
    assert require_fingerprint(tiny_tree, data_json) == fingerprint_of(tiny_tree)
    os.utime(split_file(tiny_tree, "test"), (1, 1))
    with pytest.raises(DataError, match=r"changed since it was verified.*dvc repro verify_data"):
        require_fingerprint(tiny_tree, data_json)


def test_only_the_sample_is_the_sample(tmp_path: Path) -> None:
    assert is_sample(SAMPLE_ROOT)
    assert is_sample(f"./{SAMPLE_ROOT}/")
    assert not is_sample(tmp_path)


def test_init_ff_lists_real_frames_or_folders(shared_tree: Path) -> None:
    paths, labels = init_ff(shared_tree, "train", n_frames=5)
    assert len(paths) == 4 * 5
    assert set(labels) == {0}
    assert [Path(p).name for p in paths[:5]] == ["000.png", "003.png", "006.png", "008.png", "011.png"]
    folders, _ = init_ff(shared_tree, "val", "video")
    assert [Path(f).name for f in folders] == ["004", "005"]
    assert all("original_sequences" in p for p in paths)
    with pytest.raises(DataError, match="level"):
        init_ff(shared_tree, "train", "pixel")
