"""The folders of `preprocess`: a video is written to a work folder, then moved into the tree and marked as complete.

{root}/.preprocess/work/{group}/{quality}/{id}/{kind}/    a video in progress
{root}/.preprocess/done/{group}/{quality}/{id}.json       its marker, written after its files are in the tree
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
    """One video to preprocess: the raw file, and its id, method (None for a real video) and quality in the tree."""

    source: Path
    video_id: str
    method: str | None
    quality: str

    @property
    def name(self) -> str:
        """For example 'real/c23/000' or 'Deepfakes/c23/000_003'."""
        return f"{self.method or 'real'}/{self.quality}/{self.video_id}"


@dataclass(frozen=True)
class Signature:
    """The source file and settings of a complete video; if they change, it is preprocessed again."""

    size: int
    mtime_ns: int
    sha256: str
    settings: str


class VideoFolders:
    """One job's folders and marker under `root`."""

    def __init__(self, root: Path, job: Job) -> None:
        self.job, self.root = job, root
        state = state_folder(root)
        self.work = state / "work" / job.name
        self._marker = (state / "done" / job.name).with_suffix(".json")
        self.folders = {
            kind: video_folder(root, job.method, job.quality, kind, job.video_id) for kind in KINDS
        }

    def complete_entry(self, settings: str) -> dict[str, Any] | None:
        """Returns the report entry if the video is complete and was made from this file with these settings."""
        marker = self._read_marker()
        if marker is None or not marker["complete"] or not self._has_all_files(marker["entry"]):
            return None
        signature = Signature(**marker["signature"])
        stat = _stat(self.job.source)
        if signature.settings != settings or signature.size != stat.st_size:
            return None
        is_same = signature.mtime_ns == stat.st_mtime_ns or signature.sha256 == sha256_of(self.job.source)
        return marker["entry"] if is_same else None

    def _has_all_files(self, entry: dict[str, Any]) -> bool:
        """Tells whether the folders contain as many files as were written."""
        n_faces = entry["frames"] - entry["faceless"]
        expected = {"frames": entry["frames"], "landmarks": n_faces, "retina": n_faces}
        return all(
            folder.is_dir() and sum(1 for _ in folder.iterdir()) == expected[kind]
            for kind, folder in self.folders.items()
        )

    def has_foreign_files(self) -> bool:
        """Tells whether the video's folders exist but were not written by this command."""
        return self._read_marker() is None and any(folder.exists() for folder in self.folders.values())

    def prepare(self) -> None:
        """Creates an empty work folder."""
        self.discard()
        for kind in KINDS:
            (self.work / kind).mkdir(parents=True)

    def discard(self) -> None:
        """Removes the work folder."""
        shutil.rmtree(self.work, ignore_errors=True)

    def frame_path(self, t: int) -> Path:
        """Returns the path of frame t in the work folder."""
        return self.work / "frames" / frame_name(t, "frames")

    def write_frame(self, t: int, frame_HWC: NDArray[np.uint8]) -> None:
        """Writes frame t as PNG to the work folder."""
        encoded, data = cv2.imencode(".png", cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR), _PNG)
        if not encoded:
            raise DataError(f"{self.frame_path(t)} cannot be encoded as PNG")
        self.frame_path(t).write_bytes(data.tobytes())

    def write_faces(self, t: int, faces: Sequence[Face]) -> None:
        """Writes frame t's landmarks and boxes to the work folder."""
        for kind, values in zip(("landmarks", "retina"), stored_arrays(faces), strict=True):
            np.save(self.work / kind / frame_name(t, kind), values)

    def publish(self, entry: dict[str, Any], signature: Signature) -> None:
        """Moves the work folder's contents into the tree, then writes the marker.

        The marker is first written as incomplete: if the process is killed in between, the next run starts the video
        again.
        """
        os.sync()  # the marker must not outlive the frames when the power fails
        self._write_marker(False, entry, signature)
        for kind in ("landmarks", "retina", "frames"):  # frames last: they make a video visible in the tree
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
            raise DataError(f"{self._marker} is damaged; delete it and the video's folders") from None


def state_folder(root: Path) -> Path:
    """Returns the state folder, beside the tree and on the same disk, so that a video is moved in atomically."""
    return tree_folder(root).resolve().parent / ".preprocess"


def complete_entries(root: Path) -> Iterator[dict[str, Any]]:
    """Yields the report entries of all complete videos of the tree, of this and of earlier commands."""
    for path in sorted((state_folder(root) / "done").rglob("*.json")):
        # a damaged marker is reported when its video is preprocessed
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            marker = read_json(path)
            if marker["complete"] is True:
                yield dict(marker["entry"])


def prepare_state(root: Path) -> Path:
    """Creates the tree's folder and the state folder if missing; raises DataError when they cannot be written."""
    try:
        tree_folder(root).mkdir(parents=True, exist_ok=True)
        state_folder(root).mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(error, root) from None
    return state_folder(root)


def sign_source(source: Path, settings: str) -> Signature:
    """Computes the signature of the file as it is now; raises DataError when it cannot be read."""
    stat = _stat(source)
    return Signature(stat.st_size, stat.st_mtime_ns, sha256_of(source), settings)


def _stat(source: Path) -> os.stat_result:
    try:
        return source.stat()
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from None


def disk_error(error: OSError, root: Path) -> DataError:
    """Explains why the tree's disk cannot be written to, in one line."""
    if error.errno in _FULL:
        return DataError(
            f"the disk of {root} is full; free some space and run the same command again to resume"
        )
    if error.errno == errno.EXDEV:
        return DataError(
            f"parts of {tree_folder(root)} are on other disks; give a --root whose tree lies on one disk"
        )
    return DataError(f"{error.filename or root} cannot be written: {error.strerror}")
