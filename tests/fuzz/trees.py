"""Fuzzes a whole data set with damaged or odd files, raw videos and video tables."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from stf.audit.sample_load import load_one_pair
from stf.audit.verify import require_ready, verify_tree
from stf.config import DataParams, SbiParams
from stf.data.ffpp import FFPPTree, fingerprint_of, split_file, tree_folder
from stf.errors import StfError
from stf.preprocess.decode import open_video
from stf.preprocess.sources import Defaults, find_jobs
from tests.fuzz.kinds import Kind, Place, Rng
from tests.fuzz.mutations import pick, spoil_bytes
from tests.fuzz.pictures import spoiled_png

_ODD_NAMES = (
    "-1",
    "1e3",
    "000 (1)",
    "0",
    "00000000000",
    "\u0661",
    "..",
    "a\nb",
    "3.png",
    " 4",
    "x" * 200,
    "nan",
)


def _pipe(rng: Rng, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(rng: Rng, path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(rng: Rng, path: Path) -> None:
    path.unlink()
    path.symlink_to(pick(rng, ("/dev/zero", "/etc/passwd", "/nowhere", path.name, "..", "/dev/stdin")))


def _rename(rng: Rng, path: Path) -> None:
    path.rename(path.with_name(f"{pick(rng, _ODD_NAMES)}{path.suffix}"))


def _twin(rng: Rng, path: Path) -> None:
    shutil.copy(path, path.with_name(f"{int(path.stem) if path.stem.isdecimal() else 5}{path.suffix}"))


def _spoil(rng: Rng, path: Path) -> None:
    data = spoiled_png(rng) if path.suffix == ".png" else spoil_bytes(rng, path.read_bytes())
    path.write_bytes(data)


def _remove(rng: Rng, path: Path) -> None:
    path.unlink()


def _loop(rng: Rng, path: Path) -> None:
    (path.parent / "loop").unlink(missing_ok=True)
    (path.parent / "loop").symlink_to(pick(rng, (".", "..", "../..", "../../../../..")))


_DAMAGES = (_pipe, _folder, _link, _rename, _twin, _spoil, _spoil, _remove, _loop)


def _make_tree(rng: Rng, place: Place) -> None:
    root = place.case / "data"
    shutil.copytree(place.good / "tree", root)
    paths = sorted(path for path in tree_folder(root).rglob("*") if path.is_file() and path.suffix != ".json")
    for _ in range(int(rng.integers(1, 4))):
        path = pick(rng, paths)
        if path.is_file() and not path.is_symlink():
            pick(rng, _DAMAGES)(rng, path)
    if rng.random() < 0.2:
        path = split_file(root, pick(rng, ("train", "val", "test")))
        path.write_text(
            json.dumps(pick(rng, ([["000", "000"]], [["000", "001"]] * 3, [["999", "998"]]))), "utf-8"
        )


def _read_tree(place: Place) -> None:
    root = place.case / "data"
    data = DataParams(root=str(root), num_frames=8, img_size=32)
    fingerprint_of(root)
    verification = verify_tree(FFPPTree(root), data, 0)
    loads = load_one_pair(data, SbiParams())
    require_ready(verification)
    assert not loads, f"verified, but it does not load: {loads[0].detail}"


def _make_video(rng: Rng, place: Place) -> None:
    data = (place.good / f"video.{pick(rng, ('mp4', 'mkv', 'avi'))}").read_bytes()
    playlists = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"
    (place.case / "a.mp4").write_bytes(
        pick(rng, playlists) if rng.random() < 0.05 else spoil_bytes(rng, data, data)
    )


def _read_video(place: Place) -> None:
    with open_video(place.case / "a.mp4") as video:
        sizes = {frame.shape for frame in video.frames(0, 50)}
    assert len(sizes) <= 1
    if video.problem and not sizes:
        raise StfError(video.problem)


_CELLS = (
    "a.mp4",
    "../../etc/passwd",
    "000",
    "000_003",
    "../x",
    "Deepfakes",
    "deepfakes",
    "c23",
    "c99",
    "train",
    "x" * 99,
)


def _make_table(rng: Rng, place: Place) -> None:
    """Makes a table of videos for `pipeline.preprocess`."""
    (place.case / "a.mp4").write_bytes(b"")
    rows = [
        [pick(rng, (*_CELLS, "", '"', "\0", "a\nb", "é")) for _ in range(5)]
        for _ in range(int(rng.integers(4)))
    ]
    lines = ["file,id,method,quality,split", "a.mp4,000,,c23,train", *map(",".join, rows)]
    data = "\n".join(lines).encode()
    (place.case / "t.csv").write_bytes(spoil_bytes(rng, data) if rng.random() < 0.5 else data)


def _read_table(place: Place) -> None:
    sources = find_jobs((place.case,), place.case / "t.csv", Defaults(None, None))
    for job in sources.jobs:
        assert "/" not in job.video_id
        assert job.name.count("/") == 2
    if sources.refused:
        raise StfError(sources.refused[0])


KINDS = (
    Kind("data set", _make_tree, _read_tree),
    Kind("video", _make_video, _read_video),
    Kind("video table", _make_table, _read_table),
)
