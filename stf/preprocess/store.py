"""Where a video is made, how it comes into the tree in one step, and how it is known to be complete.

{root}/.preprocess/work/{group}/{quality}/{id}/{kind}/    a video in the making
{root}/.preprocess/done/{group}/{quality}/{id}.json       its marker, written when its frames are in place
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.ffpp import KINDS, frame_name, tree_folder, video_folder
from stf.errors import DataError
from stf.io.files import read_json
from stf.io.hashing import sha256_of
from stf.io.outputs import write_json
from stf.preprocess.faces import Face, stored_arrays

_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Job:
    """One video to be made: the raw file, and its place in the tree; `method` None is a real video."""

    source: Path
    video_id: str
    method: str | None
    quality: str

    @property
    def name(self) -> str:
        """'real/c23/000', 'Deepfakes/c23/000_003'."""
        return f"{self.method or 'real'}/{self.quality}/{self.video_id}"


@dataclass(frozen=True)
class Signature:
    """What a finished video was made from; another one means it is made anew."""

    size: int
    mtime_ns: int
    sha256: str
    settings: str


class Place:
    """One job's folders and marker under `root`."""

    def __init__(self, root: Path, job: Job) -> None:
        self.job, self.root = job, root
        state = state_folder(root)
        self.work = state / "work" / job.name
        self._marker = (state / "done" / job.name).with_suffix(".json")
        self.folders = {
            kind: video_folder(root, job.method, job.quality, kind, job.video_id) for kind in KINDS
        }

    def finished(self, settings: str) -> dict[str, Any] | None:
        """The report entry of a video that is complete and was made from this file with these settings."""
        marker = self._read_marker()
        if marker is None or not marker["complete"] or not self._is_whole(marker["entry"]):
            return None
        made = Signature(**marker["signature"])
        stat = _stat(self.job.source)
        if made.settings != settings or made.size != stat.st_size:
            return None
        same = made.mtime_ns == stat.st_mtime_ns or made.sha256 == sha256_of(self.job.source)
        return marker["entry"] if same else None

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        """Whether all files are there that were made."""
        n_faces = entry["frames"] - entry["faceless"]
        wanted = {"frames": entry["frames"], "landmarks": n_faces, "retina": n_faces}
        return all(
            folder.is_dir() and sum(1 for _ in folder.iterdir()) == wanted[kind]
            for kind, folder in self.folders.items()
        )

    def foreign(self) -> bool:
        """Whether something that this command did not write is in the video's place."""
        return self._read_marker() is None and any(folder.exists() for folder in self.folders.values())

    def begin(self) -> None:
        """An empty work folder."""
        self.discard()
        for kind in KINDS:
            (self.work / kind).mkdir(parents=True)

    def discard(self) -> None:
        """Removes the work folder of a video that came to nothing."""
        shutil.rmtree(self.work, ignore_errors=True)

    def frame_path(self, t: int) -> Path:
        """Frame t in the work folder."""
        return self.work / "frames" / frame_name(t, "frames")

    def write_frame(self, t: int, frame_HWC: NDArray[np.uint8]) -> None:
        """Frame t as PNG in the work folder."""
        encoded, data = cv2.imencode(".png", cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR), _PNG)
        if not encoded:
            raise DataError(f"{self.frame_path(t)} cannot be encoded as PNG")
        self.frame_path(t).write_bytes(data.tobytes())

    def write_faces(self, t: int, faces: Sequence[Face]) -> None:
        """Frame t's landmarks and boxes in the work folder."""
        for kind, values in zip(("landmarks", "retina"), stored_arrays(faces), strict=True):
            np.save(self.work / kind / frame_name(t, kind), values)

    def finish(self, entry: dict[str, Any], signature: Signature) -> None:
        """Moves the work folder's contents into the tree, then writes the marker.

        The marker first says that the move has begun: killed in between, the next run makes the video anew.
        """
        os.sync()  # the marker must not outlive the frames when the power fails
        self._write_marker(False, entry, signature)
        for kind in ("landmarks", "retina", "frames"):  # a tree knows a video by its frames
            target = self.folders[kind]
            if target.exists():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.work / kind).rename(target)
        self._write_marker(True, entry, signature)
        self.discard()

    def _write_marker(self, complete: bool, entry: dict[str, Any], signature: Signature) -> None:
        write_json(self._marker, {"complete": complete, "signature": asdict(signature), "entry": entry})

    def _read_marker(self) -> dict[str, Any] | None:
        try:
            marker = read_json(self._marker)
            Signature(**marker["signature"])
            entry = dict(marker["entry"])
            if type(entry["frames"]) is not int or type(entry["faceless"]) is not int:
                raise TypeError
            return {"complete": bool(marker["complete"]), **marker, "entry": entry}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"{self._marker} is damaged; delete it and the video's frames") from None


def state_folder(root: Path) -> Path:
    """Beside the tree, on the disk that holds it: moving a video in is then one step."""
    return tree_folder(root).resolve().parent / ".preprocess"


def complete_entries(root: Path) -> Iterator[dict[str, Any]]:
    """The report entries of all complete videos of the tree, of this and of earlier commands."""
    for path in sorted((state_folder(root) / "done").rglob("*.json")):
        with contextlib.suppress(
            OSError, ValueError, KeyError, TypeError
        ):  # a damaged one is told by its own video
            marker = read_json(path)
            if marker["complete"] is True:
                yield dict(marker["entry"])


def prepare_state(root: Path) -> Path:
    """The state folder, made with the tree where they are missing; raises DataError when it cannot be."""
    try:
        tree_folder(root).mkdir(parents=True, exist_ok=True)
        state_folder(root).mkdir(exist_ok=True)
    except OSError as error:
        raise explain(error, root) from None
    return state_folder(root)


def sign(source: Path, settings: str) -> Signature:
    """The signature of what is there now; raises DataError when the file cannot be read."""
    stat = _stat(source)
    return Signature(stat.st_size, stat.st_mtime_ns, sha256_of(source), settings)


def _stat(source: Path) -> os.stat_result:
    try:
        return source.stat()
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from None


def explain(error: OSError, root: Path) -> DataError:
    """A disk that cannot take the frames, as one line."""
    if error.errno in _FULL:
        return DataError(
            f"the disk of {root} is full; free some space, then the same command goes on from here"
        )
    if error.errno == errno.EXDEV:
        return DataError(
            f"{tree_folder(root)} is a disk of its own; give --root as the folder above it on one disk"
        )
    return DataError(f"{error.filename or root} cannot be written: {error.strerror}")
