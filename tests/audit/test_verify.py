"""verify_data reports every defect that would make training or evaluation fail, and warns of the rest."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from stf.audit.report import data_details, data_metrics
from stf.audit.sample_load import load_one_pair, sample_pairs
from stf.audit.verify import Verification, require_ready, verify_tree
from stf.audit.video_check import Defect
from stf.config import DataParams, SbiParams
from stf.console.tables import WIDTH, make_console
from stf.console.verification import counts_table, defects_table
from stf.data.ffpp import FFPPTree, split_file, video_folder
from stf.errors import DataError


@pytest.fixture(scope="module")
def small_tree(tmp_path_factory: pytest.TempPathFactory, tree_writer: Callable[..., Path]) -> Path:
    """Eight real videos and two fakes; read-only."""
    return tree_writer(tmp_path_factory.mktemp("small") / "data", methods=("FaceSwap",))


@pytest.fixture
def tree(small_tree: Path, tmp_path: Path) -> Path:
    """A copy of `small_tree` that a test may damage."""
    return Path(shutil.copytree(small_tree, tmp_path / "copy"))


def verify(root: Path, n_workers: int = 0, **changes: object) -> Verification:
    data = DataParams(**{"root": str(root), "quality": "c23", "num_frames": 8, "img_size": 32} | changes)
    return verify_tree(FFPPTree(root), data, n_workers)


def kinds(verification: Verification) -> set[tuple[str, str]]:
    return {(defect.severity, defect.what) for defect in verification.defects}


def real(root: Path, kind: str, video_id: str = "000") -> Path:
    return video_folder(root, None, "c23", kind, video_id)


def test_a_clean_tree_has_no_defects_and_every_video_is_counted(small_tree: Path) -> None:
    verification = verify(small_tree)
    assert verification.defects == ()
    assert verification.every_byte
    pngs = list((small_tree / "FaceForensics++").rglob("*.png"))
    assert (verification.n_videos, verification.n_frames) == (10, len(pngs))
    assert {(c.split, c.method): c.videos for c in verification.counts}["train", "real"] == 4
    require_ready(verification)


def truncate(root: Path) -> None:
    path = real(root, "frames") / "004.png"
    path.write_bytes(path.read_bytes()[:-9])


def flip_a_bit(root: Path) -> None:
    path = real(root, "frames") / "004.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def another_size(root: Path) -> None:
    cv2.imwrite(str(real(root, "frames") / "004.png"), np.zeros((50, 60, 3), np.uint8))


def nan_landmarks(root: Path) -> None:
    np.save(real(root, "landmarks") / "004.npy", np.full((1, 81, 2), np.nan))


def pickled_boxes(root: Path) -> None:
    np.save(real(root, "retina") / "004.npy", np.array([{}]), allow_pickle=True)


def face_outside(root: Path) -> None:
    path = real(root, "landmarks") / "004.npy"
    np.save(path, np.load(path) - (90, 0))


def jaw_outside(root: Path) -> None:
    path = real(root, "landmarks") / "004.npy"
    landmarks = np.load(path)
    landmarks[0, :9, 0] = -2
    np.save(path, landmarks)


def box_elsewhere(root: Path) -> None:
    np.save(real(root, "retina") / "004.npy", np.array([[0.0, 0, 5, 5]]))


def a_cut(root: Path) -> None:
    for number in range(6, 12):
        path = real(root, "landmarks") / f"{number:03d}.npy"
        np.save(path, np.concatenate([np.load(path) // 4, np.load(path) // 4 + 1]))
        os.remove(real(root, "retina") / f"{number:03d}.npy")


def no_box(root: Path) -> None:
    os.remove(real(root, "retina") / "004.npy")


def no_landmarks(root: Path) -> None:
    os.remove(real(root, "landmarks") / "011.npy")


def too_short(root: Path) -> None:
    for number in range(7, 12):
        os.remove(real(root, "frames") / f"{number:03d}.png")


def a_gap_in_the_middle(root: Path) -> None:
    os.remove(real(root, "frames") / "006.png")


def every_third_frame(root: Path) -> None:
    for kind, suffix in (("frames", "png"), ("landmarks", "npy"), ("retina", "npy")):
        for number in range(11, 0, -1):
            folder = real(root, kind)
            os.rename(folder / f"{number:03d}.{suffix}", folder / f"{3 * number:03d}.{suffix}")


def shared_identity(root: Path) -> None:
    split_file(root, "val").write_text(json.dumps([["004", "005"], ["000", "004"]]))


def missing_video(root: Path) -> None:
    shutil.rmtree(real(root, "frames", "001"))


def no_validation(root: Path) -> None:
    shutil.rmtree(real(root, "frames", "004"))
    shutil.rmtree(real(root, "frames", "005"))


def unlisted_video(root: Path) -> None:
    for kind in ("frames", "landmarks", "retina"):
        shutil.copytree(real(root, kind), real(root, kind, "900"))


def nothing_to_evaluate(root: Path) -> None:
    shutil.rmtree(root / "FaceForensics++" / "manipulated_sequences")


def borrowing_fake(root: Path) -> None:
    shutil.rmtree(video_folder(root, "FaceSwap", "c23", "landmarks", "006_007"))


def broken_fake(root: Path) -> None:
    (video_folder(root, "FaceSwap", "c23", "frames", "006_007") / "000.png").write_bytes(b"GIF89a")


def foreign_source(root: Path) -> None:
    folder = root / "FaceForensics++/manipulated_sequences/FaceSwap/c23"
    for kind in ("frames", "landmarks", "retina"):
        os.rename(folder / kind / "006_007", folder / kind / "006_000")


def unknown_target(root: Path) -> None:
    folder = root / "FaceForensics++/manipulated_sequences/FaceSwap/c23/frames"
    os.rename(folder / "006_007", folder / "999_007")


LOST = ("warning", "face lost between frames")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (truncate, {("error", "broken frame")}),
        (flip_a_bit, {("error", "broken frame")}),
        (another_size, {("error", "frames of several sizes")}),
        (nan_landmarks, {("error", "broken geometry")}),
        (pickled_boxes, {("error", "broken geometry")}),
        (face_outside, {("error", "face outside the picture"), ("error", "box of another face"), LOST}),
        (jaw_outside, {("warning", "landmarks outside the picture")}),
        (box_elsewhere, {("error", "box of another face")}),
        (a_cut, {("warning", "face lost between frames"), ("warning", "frames without boxes")}),
        (no_box, {("warning", "frames without boxes")}),
        (no_landmarks, {("warning", "frames without landmarks")}),
        (too_short, {("error", "too short")}),
        (a_gap_in_the_middle, {("error", "too short")}),
        (every_third_frame, {("error", "strided")}),
        (shared_identity, {("error", "identity in two splits")}),
        (missing_video, {("warning", "missing videos")}),
        (no_validation, {("error", "empty split")}),
        (unlisted_video, {("warning", "unknown ids")}),
        (nothing_to_evaluate, {("error", "no fakes")}),
        (borrowing_fake, {("warning", "borrowed geometry")}),
        (broken_fake, {("error", "broken frame")}),
        (foreign_source, {("warning", "missing videos"), ("warning", "source of another split")}),
        (unknown_target, {("warning", "missing videos"), ("warning", "unknown ids")}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_kind_of_damage_is_reported_and_nothing_else(
    tree: Path, damage: Callable[[Path], None], expected: set[tuple[str, str]]
) -> None:
    damage(tree)
    verification = verify(tree)
    assert kinds(verification) == expected
    if any(severity == "error" for severity, _ in expected):
        with pytest.raises(DataError, match="not ready for training"):
            require_ready(verification)
    else:
        require_ready(verification)


def test_the_defect_names_video_and_file(tree: Path) -> None:
    truncate(tree)
    (defect,) = verify(tree).defects
    assert defect.where == "train/real/c23/000"
    assert "004.png is truncated" in defect.detail
    assert defect.n == 1


def test_a_repeated_defect_of_one_video_is_one_row_with_its_count(tree: Path) -> None:
    for path in real(tree, "frames").iterdir():
        path.write_bytes(b"")
    (defect,) = verify(tree).defects
    assert defect.n == 12


def test_training_videos_of_an_unused_quality_are_counted_but_not_opened(
    tree: Path, write_one_video: Callable[..., None]
) -> None:
    for video_id in ("000", "006"):
        write_one_video(tree, video_id, quality="c40")
        (video_folder(tree, None, "c40", "frames", video_id) / "003.png").write_bytes(b"")
    verification = verify(tree)
    assert [d.where for d in verification.errors] == ["test/real/c40/006"]
    opened = {(c.split, c.quality): c.opened for c in verification.counts if c.method == "real"}
    assert opened == {
        ("train", "c23"): True,
        ("train", "c40"): False,
        ("val", "c23"): True,
        ("test", "c23"): True,
        ("test", "c40"): True,
    }


def test_in_big_trees_only_the_head_and_tail_of_frames_are_read(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stf.audit.verify.EVERY_BYTE_BELOW", 1000)
    flip_a_bit(tree)
    verification = verify(tree)
    assert not verification.every_byte
    assert not verification.errors  # the flipped bit is in neither
    truncate(tree)
    (real(tree, "frames", "001") / "002.png").write_bytes(b"")
    assert [d.where for d in verify(tree).errors] == ["train/real/c23/000", "train/real/c23/001"]


def test_strided_data_are_refused_unless_allowed(tree: Path) -> None:
    every_third_frame(tree)
    assert verify(tree).errors
    assert kinds(verify(tree, allow_strided=True)) == {("warning", "strided")}


def test_a_data_set_renumbered_after_skipping_frames_is_suspected(make_tree: Callable[..., Path]) -> None:
    root = make_tree(n_frames=64, methods=("Deepfakes",))
    for kind_folder in (root / "FaceForensics++").glob("*_sequences/*/c23/*/*"):
        paths = sorted(kind_folder.iterdir())
        for i, path in enumerate(paths):
            if i % 8:
                path.unlink()
            else:
                path.rename(path.with_stem(f"{i // 8:03d}"))
    verification = verify(root)
    assert ("error", "suspected stride") in kinds(verification)
    assert verification.motion is not None
    allowed = verify(root, allow_strided=True)
    assert not allowed.errors


def test_the_result_does_not_depend_on_the_number_of_workers(tree: Path) -> None:
    for damage in (truncate, borrowing_fake, unlisted_video):
        damage(tree)
    assert verify(tree, 0) == verify(tree, 2)


def test_progress_ends_at_the_number_of_opened_videos(small_tree: Path) -> None:
    progress: list[tuple[int, int]] = []
    data = DataParams(root=str(small_tree), num_frames=8, img_size=32)
    verify_tree(FFPPTree(small_tree), data, 0, lambda done, total: progress.append((done, total)))
    assert progress[-1] == (10, 10)


def test_a_missing_quality_is_an_error_that_lists_those_on_disk(small_tree: Path) -> None:
    with pytest.raises(DataError, match="qualities on disk for real videos: c23"):
        verify(small_tree, quality="raw")


def test_one_pair_is_loaded_as_in_training(tree: Path) -> None:
    data = DataParams(root=str(tree), num_frames=8, img_size=32)
    assert load_one_pair(data, SbiParams()) == []
    assert len(sample_pairs(data, SbiParams(), 4)) == 4
    no_validation(tree)
    (defect,) = load_one_pair(data, SbiParams())
    assert (defect.severity, defect.what, defect.where) == ("error", "sample does not load", "val")


def rendered(table: object) -> list[str]:
    console = Console(file=io.StringIO(), width=WIDTH, record=True)
    console.print(table)
    return console.export_text().splitlines()


def test_tables_are_complete_and_fit_100_columns(tree: Path) -> None:
    truncate(tree)
    unlisted_video(tree)
    verification = verify(tree)
    for table in (counts_table(verification), defects_table(verification.defects)):
        assert max(map(len, rendered(table))) <= 100
    text = " ".join(rendered(defects_table(verification.defects)))
    assert "broken frame" in text
    assert "unknown ids" in text
    assert make_console().width <= 100


def test_many_defects_of_a_kind_are_summarised_and_markup_is_printed_literally() -> None:
    many = [Defect("error", "too short", f"video {i}", "[red]12[/red] frames") for i in range(50)]
    text = "\n".join(rendered(defects_table([*many, Defect("warning", "odd", "x", "y", 3)])))
    assert "video 19" in text
    assert "video 20" not in text
    assert "… 30 more" in text
    assert "[red]12[/red]" in text
    assert "odd" in text


def test_the_json_is_deterministic_and_contains_no_fingerprint_of_bad_data(tree: Path) -> None:
    first, second = (data_metrics(verify(tree), "data/x", "f" * 64, True) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert first["fingerprint"] == "f" * 64
    assert (first["videos"], first["frames"], first["errors"]) == (10, 120, 0)
    truncate(tree)
    bad = verify(tree)
    assert data_metrics(bad, "data/x", "f" * 64, False)["fingerprint"] is None
    assert data_details(bad)["defects"][0]["what"] == "broken frame"


def test_require_ready_lists_the_kinds_of_defects(small_tree: Path) -> None:
    verification = verify(small_tree)
    defects = tuple(Defect("error", what, "a", "b") for what in ("too short", "broken frame", "too short"))
    with pytest.raises(DataError, match=r"3 defects \(broken frame, too short\)"):
        require_ready(dataclasses.replace(verification, defects=defects))
