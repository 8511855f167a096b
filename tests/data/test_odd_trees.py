"""A data set with pipes, links, odd names and odd lists in it: everything is told, and nothing hangs."""

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
    """Ends what hangs."""

    def too_long(*_: object) -> None:
        raise TimeoutError("it hangs")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    yield
    signal.alarm(0)


def frames(root: Path) -> Path:
    return video_folder(root, None, "c23", "frames", "000")


def checked(root: Path) -> Verification:
    return verify_tree(FFPPTree(root), DataParams(root=str(root), num_frames=8, img_size=32), 0)


def defects(root: Path) -> dict[str, Defect]:
    return {defect.what: defect for defect in checked(root).defects}


def test_a_pipe_in_a_files_place_is_a_defect_and_no_hang(tiny_tree: Path) -> None:
    for kind, suffix in (("frames", "png"), ("landmarks", "npy"), ("retina", "npy")):
        path = video_folder(tiny_tree, None, "c23", kind, "000") / f"004.{suffix}"
        path.unlink()
        os.mkfifo(path)
    found = defects(tiny_tree)
    assert "004.png cannot be read: it is a pipe or a device" in found["broken frame"].detail
    assert found["broken geometry"].n == 2


@pytest.mark.parametrize("target", ["/dev/zero", "/nowhere", "004.png", "..", "/etc/hostname"])
def test_a_link_to_what_is_no_frame_is_a_defect(tiny_tree: Path, target: str) -> None:
    path = frames(tiny_tree) / "004.png"
    path.unlink()
    path.symlink_to(target)
    assert "004.png" in defects(tiny_tree)["broken frame"].detail


def test_a_folder_of_links_to_another_disk_is_a_data_set_like_any_other(
    tiny_tree: Path, tmp_path: Path
) -> None:
    shutil.move(tree_folder(tiny_tree) / "original_sequences", tmp_path / "elsewhere")
    (tree_folder(tiny_tree) / "original_sequences").symlink_to(tmp_path / "elsewhere")
    assert checked(tiny_tree).defects == ()
    assert fingerprint_of(tiny_tree)


@pytest.mark.parametrize("target", [".", "..", "../../../../.."])
def test_a_link_that_leads_back_is_named_and_not_followed_for_ever(tiny_tree: Path, target: str) -> None:
    (frames(tiny_tree) / "loop").symlink_to(target)
    (frames(tiny_tree) / "loop2").symlink_to(target)
    with pytest.raises(DataError, match="loop is a link to a folder above it"):
        fingerprint_of(tiny_tree)


def test_a_broken_link_is_named_by_the_fingerprint(tiny_tree: Path) -> None:
    (frames(tiny_tree) / "x.png").symlink_to("/nowhere")
    with pytest.raises(DataError, match=r"x\.png cannot be read: No such file"):
        fingerprint_of(tiny_tree)


@pytest.mark.parametrize(
    "name", ["-1.png", "1e3.png", "000 (1).png", "\u0661.png", "a\nb.png", "004.PNG", "004.jpg"]
)
def test_pictures_that_are_not_read_are_told(tiny_tree: Path, name: str) -> None:
    shutil.copy(frames(tiny_tree) / "004.png", frames(tiny_tree) / name)
    found = defects(tiny_tree)
    assert set(found) == {"pictures that are not read"}
    assert found["pictures that are not read"].severity == "warning"


def test_two_files_of_one_frame_are_an_error(tiny_tree: Path) -> None:
    shutil.copy(frames(tiny_tree) / "004.png", frames(tiny_tree) / "4.png")
    (defect,) = checked(tiny_tree).errors
    assert defect.what == "two files of one frame"
    assert "frame 4" in defect.detail


@pytest.mark.parametrize(
    ("flag", "colour"), [(cv2.COLOR_BGR2GRAY, "grey"), (cv2.COLOR_BGR2BGRA, "RGB with alpha")]
)
def test_grey_and_alpha_are_accepted_and_told(tiny_tree: Path, flag: int, colour: str) -> None:
    for path in frames(tiny_tree).iterdir():
        cv2.imwrite(str(path), cv2.cvtColor(cv2.imread(str(path)), flag))
    found = defects(tiny_tree)
    assert set(found) == {"frames that are not RGB"}
    assert found["frames that are not RGB"].n == 12
    assert f"is {colour};" in found["frames that are not RGB"].detail


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.full((81, 2), 1e9), "beyond 1,000,000 pixels"),
        (np.full((81, 2), 5.0), "points lie on one line"),
        (np.tile([[1.0, 0.0]], (81, 1)) * np.arange(81)[:, None], "points lie on one line"),
    ],
)
def test_landmarks_that_are_no_face_are_an_error(tiny_tree: Path, value: np.ndarray, says: str) -> None:
    np.save(video_folder(tiny_tree, None, "c23", "landmarks", "000") / "004.npy", value)
    assert says in defects(tiny_tree)["broken geometry"].detail


def test_odd_pairs_are_told_and_change_nothing(tiny_tree: Path) -> None:
    before = checked(tiny_tree).counts
    path = split_file(tiny_tree, "train")
    path.write_text(json.dumps([["000", "001"], ["001", "000"], ["002", "003"], ["003", "003"]]))
    found = defects(tiny_tree)
    assert set(found) == {"id paired with itself", "pair listed twice"}
    assert {defect.severity for defect in found.values()} == {"warning"}
    assert "000/001" in found["pair listed twice"].detail
    assert checked(tiny_tree).counts == before


def test_a_folder_without_permission_is_one_line(tiny_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", forbidden)  # root may list everything
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        FFPPTree(tiny_tree).real_videos("train", "c23")


@pytest.mark.parametrize("root", ["x" * 5000, "a\0b", "", "/dev/null"])
def test_a_root_that_cannot_be_one_is_no_tree(root: str) -> None:
    with pytest.raises(DataError, match=r"data\.root"):
        FFPPTree(root)


@pytest.mark.parametrize(
    "text", ['{"fingerprint": 3}', '{"fingerprint": "a", "fingerprint": "b"}', "[" * 9999, "[]"]
)
def test_a_recorded_fingerprint_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(DataError, match="holds no fingerprint"):
        recorded_fingerprint(tmp_path / "data.json")
