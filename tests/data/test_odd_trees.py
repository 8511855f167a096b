"""A data set with pipes, links, odd names and odd split files: every defect is reported, and nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from stf.audit.verify import Verification, verify_tree
from stf.audit.video_check import Defect
from stf.config import DataParams
from stf.data.ffpp import (
    FFPPTree,
    fingerprint_of,
    recorded_fingerprint,
    split_file,
    tree_folder,
    video_folder,
)
from stf.errors import DataError


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    """Fails a test that hangs."""

    def time_out(*_: object) -> None:
        raise TimeoutError("the test hangs")

    signal.signal(signal.SIGALRM, time_out)
    signal.alarm(60)
    yield
    signal.alarm(0)


def frames(root: Path) -> Path:
    return video_folder(root, None, "c23", "frames", "000")


def verify(root: Path) -> Verification:
    return verify_tree(FFPPTree(root), DataParams(root=str(root), num_frames=8, img_size=32), 0)


def defects(root: Path) -> dict[str, Defect]:
    return {defect.what: defect for defect in verify(root).defects}


def test_a_pipe_instead_of_a_file_is_a_defect_and_does_not_hang(tiny_tree: Path) -> None:
    for kind, suffix in (("frames", "png"), ("landmarks", "npy"), ("retina", "npy")):
        path = video_folder(tiny_tree, None, "c23", kind, "000") / f"004.{suffix}"
        path.unlink()
        os.mkfifo(path)
    by_kind = defects(tiny_tree)
    assert "004.png cannot be read: it is a pipe or a device" in by_kind["broken frame"].detail
    assert by_kind["broken geometry"].n == 2


@pytest.mark.parametrize("target", ["/dev/zero", "/nowhere", "004.png", "..", "/etc/hostname"])
def test_a_link_to_anything_but_a_frame_is_a_defect(tiny_tree: Path, target: str) -> None:
    path = frames(tiny_tree) / "004.png"
    path.unlink()
    path.symlink_to(target)
    assert "004.png" in defects(tiny_tree)["broken frame"].detail


def test_a_linked_folder_is_read_like_any_other(tiny_tree: Path, tmp_path: Path) -> None:
    shutil.move(tree_folder(tiny_tree) / "original_sequences", tmp_path / "elsewhere")
    (tree_folder(tiny_tree) / "original_sequences").symlink_to(tmp_path / "elsewhere")
    assert verify(tiny_tree).defects == ()
    assert fingerprint_of(tiny_tree)


@pytest.mark.parametrize("target", [".", "..", "../../../../.."])
def test_a_link_to_a_parent_folder_is_an_error_and_does_not_loop(tiny_tree: Path, target: str) -> None:
    (frames(tiny_tree) / "loop").symlink_to(target)
    (frames(tiny_tree) / "loop2").symlink_to(target)
    with pytest.raises(DataError, match="loop is a link to one of its parent folders"):
        fingerprint_of(tiny_tree)


def test_the_fingerprint_refuses_a_broken_link_by_name(tiny_tree: Path) -> None:
    (frames(tiny_tree) / "x.png").symlink_to("/nowhere")
    with pytest.raises(DataError, match=r"x\.png cannot be read: No such file"):
        fingerprint_of(tiny_tree)


@pytest.mark.parametrize(
    "name", ["-1.png", "1e3.png", "000 (1).png", "\u0661.png", "a\nb.png", "004.PNG", "004.jpg"]
)
def test_ignored_images_are_reported(tiny_tree: Path, name: str) -> None:
    shutil.copy(frames(tiny_tree) / "004.png", frames(tiny_tree) / name)
    by_kind = defects(tiny_tree)
    assert set(by_kind) == {"ignored images"}
    assert by_kind["ignored images"].severity == "warning"


def test_two_files_with_one_frame_number_are_an_error(tiny_tree: Path) -> None:
    shutil.copy(frames(tiny_tree) / "004.png", frames(tiny_tree) / "4.png")
    (defect,) = verify(tiny_tree).errors
    assert defect.what == "duplicate frame number"
    assert "frame 4" in defect.detail


@pytest.mark.parametrize(
    ("flag", "colour"), [(cv2.COLOR_BGR2GRAY, "grey"), (cv2.COLOR_BGR2BGRA, "RGB with alpha")]
)
def test_grey_and_alpha_are_accepted_and_reported(tiny_tree: Path, flag: int, colour: str) -> None:
    for path in frames(tiny_tree).iterdir():
        cv2.imwrite(str(path), cv2.cvtColor(cv2.imread(str(path)), flag))
    by_kind = defects(tiny_tree)
    assert set(by_kind) == {"frames that are not RGB"}
    assert by_kind["frames that are not RGB"].n == 12
    assert f"is {colour};" in by_kind["frames that are not RGB"].detail


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((81, 2), 1e9), "beyond 1,000,000 pixels"),
        (np.full((81, 2), 5.0), "points lie on one line"),
        (np.tile([[1.0, 0.0]], (81, 1)) * np.arange(81)[:, None], "points lie on one line"),
    ],
)
def test_landmarks_without_a_plausible_face_are_an_error(
    tiny_tree: Path, value: np.ndarray, message: str
) -> None:
    np.save(video_folder(tiny_tree, None, "c23", "landmarks", "000") / "004.npy", value)
    assert message in defects(tiny_tree)["broken geometry"].detail


def test_odd_pairs_are_reported_and_change_nothing(tiny_tree: Path) -> None:
    before = verify(tiny_tree).counts
    path = split_file(tiny_tree, "train")
    path.write_text(json.dumps([["000", "001"], ["001", "000"], ["002", "003"], ["003", "003"]]))
    by_kind = defects(tiny_tree)
    assert set(by_kind) == {"id paired with itself", "pair listed twice"}
    assert {defect.severity for defect in by_kind.values()} == {"warning"}
    assert "000/001" in by_kind["pair listed twice"].detail
    assert verify(tiny_tree).counts == before


def test_a_folder_without_permission_is_a_data_error(
    tiny_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", forbidden)  # root may list everything
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        FFPPTree(tiny_tree).real_videos("train", "c23")


@pytest.mark.parametrize("root", ["x" * 5000, "a\0b", "", "/dev/null"])
def test_an_impossible_root_is_a_data_error(root: str) -> None:
    with pytest.raises(DataError, match=r"data\.root"):
        FFPPTree(root)


@pytest.mark.parametrize(
    "text", ['{"fingerprint": 3}', '{"fingerprint": "a", "fingerprint": "b"}', "[" * 9999, "[]"]
)
def test_an_invalid_recorded_fingerprint_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(DataError, match="contains no fingerprint"):
        recorded_fingerprint(tmp_path / "data.json")
