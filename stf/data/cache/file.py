"""The file with one video's face crops: a header, three tables, then raw RGB pixels, frame after frame.

    header | FRAME x (n_frames + 1) | START x n_frames | FACE x n_faces | (padding) | pixels of frame 0, 1, …

Little-endian; a video's frames, starts and faces are numbered as in `Video.frame_paths`. Raw, because reading is on
training's hot path: 32 crops of 400 px take 4.5 ms of one core, as PNG (.35 of the bytes) 124 ms, in the fastest
lossless video codec tried (MagicYUV, .43 of the bytes) 39 ms. Read instead of memory-mapped: as fast, and a failing
disk raises an error instead of a signal that ends the process. T frames, windows (y0, y1, x0, x1) in pixels of the
stored frames, points (x, y).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stf.data.clips import FaceTrack
from stf.data.faces import MAX_COORDINATE, N_POINTS, Window
from stf.errors import DataError
from stf.io.files import open_regular

FORMAT = 1  # part of the cache's folder name: increase it when the tables, or how faces are tracked or read, change
MAGIC = b"STFFACES"
ALIGNMENT = 4096
HEADER = np.dtype([("magic", "S8"), ("file_bytes", "<i8"), ("pixels_at", "<i8"), ("tables_crc32", "<i8")] + [
    (name, "<i8") for name in ("n_frames", "n_faces", "num_frames", "height", "width")
])  # fmt: skip
# `at`: offset of the crop's first byte, -1 for a frame that is not stored; `face`: the row of its first face. Its faces
# end at the next FRAME's `face`, so there is one more FRAME than there are frames
FRAME = np.dtype([("at", "<i8"), ("face", "<i8"), ("window", "<i4", 4)])
# a clip's first face and its box; `face` is -1 for a clip that is not cached
START = np.dtype([("face", "<i8"), ("box", "<f8", (2, 2))])
# landmarks in SBI order; `next`: the row of the same face in the next frame, -1 where it is lost
FACE = np.dtype([("next", "<i8"), ("landmarks", "<f8", (N_POINTS, 2))])


def _tables_end(n_frames: int, n_faces: int) -> int:
    frames, starts = (n_frames + 1) * FRAME.itemsize, n_frames * START.itemsize
    return HEADER.itemsize + frames + starts + n_faces * FACE.itemsize


@dataclass(frozen=True, eq=False)
class Tables:
    """A video's header and tables, filled by the builder."""

    header: NDArray[np.void]  # shape ()
    frames: NDArray[np.void]
    starts: NDArray[np.void]
    faces: NDArray[np.void]

    @classmethod
    def empty(cls, n_frames: int, n_faces: int, num_frames: int) -> Tables:
        """Creates the tables of a video without stored frames, for clips of `num_frames` frames."""
        header = np.zeros((), HEADER)
        pixels_at = -(-_tables_end(n_frames, n_faces) // ALIGNMENT) * ALIGNMENT
        for name, value in (
            ("magic", MAGIC), ("pixels_at", pixels_at), ("file_bytes", pixels_at),
            ("n_frames", n_frames), ("n_faces", n_faces), ("num_frames", num_frames),
        ):  # fmt: skip
            header[name] = value
        frames, starts = np.zeros(n_frames + 1, FRAME), np.zeros(n_frames, START)
        frames["at"] = starts["face"] = -1
        return cls(header, frames, starts, np.zeros(n_faces, FACE))

    def to_bytes(self) -> bytes:
        """Returns header and tables as bytes, after setting their checksum."""
        tables = b"".join(table.tobytes() for table in (self.frames, self.starts, self.faces))
        self.header["tables_crc32"] = zlib.crc32(tables)
        return self.header.tobytes() + tables


def write_file(path: Path, tables: Tables, crops: Iterable[tuple[int, NDArray[np.uint8]]]) -> None:
    """Writes the crops (frame index, pixels) as they are yielded, then header and tables; `path` appears atomically.

    Sets `at` and `file_bytes`. Tables may change while `crops` is consumed. A killed process leaves a .part file.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as stream:
            position = stream.seek(int(tables.header["pixels_at"]))
            for index, crop in crops:
                tables.frames["at"][index] = position
                position += stream.write(np.ascontiguousarray(crop).data)
            tables.header["file_bytes"] = position
            stream.truncate(position)
            stream.seek(0)
            stream.write(tables.to_bytes())
            stream.flush()
            os.fsync(stream.fileno())  # otherwise a power failure can leave a complete file of zeros
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_file(path: Path, n_frames: int, num_frames: int) -> bool:
    """Tells whether the file is complete and fits the video and clip length; does not read its pixels."""
    try:
        with open_regular(path) as stream:
            header = _read_header(stream, path)
            end = _tables_end(int(header["n_frames"]), int(header["n_faces"]))
            tables = stream.read(end - HEADER.itemsize)
    except (OSError, DataError):
        return False
    fits = int(header["n_frames"]) == n_frames and int(header["num_frames"]) == num_frames
    return fits and zlib.crc32(tables) == int(header["tables_crc32"])


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} is damaged or truncated; run `python -m pipeline.build_cache` to build it again"
    )


def _read_header(stream: IO[bytes], path: Path) -> np.void:
    """Reads the header; raises DataError unless it is consistent in itself and with the file's size."""
    data = stream.read(HEADER.itemsize)
    header = np.frombuffer(data, HEADER)[0] if len(data) == HEADER.itemsize else None
    if header is None or header["magic"] != MAGIC:
        raise _damaged(path)
    n_frames, n_faces, pixels_at, size = (
        int(header[name]) for name in ("n_frames", "n_faces", "pixels_at", "file_bytes")
    )
    consistent = min(n_frames, n_faces) >= 0 and _tables_end(n_frames, n_faces) <= pixels_at <= size
    if not consistent or size != os.fstat(stream.fileno()).st_size:
        raise _damaged(path)
    return header


class OpenedFile:
    """One cached video, opened to read a clip: `clip`, then `frame` for each of its frames."""

    def __init__(self, stream: FileIO, path: Path) -> None:
        """Reads the header; raises DataError when the file is damaged or truncated."""
        self._stream, self._path = stream, path
        header = _read_header(stream, path)
        self.n_frames, self.num_frames = int(header["n_frames"]), int(header["num_frames"])
        self.height, self.width = int(header["height"]), int(header["width"])
        self._bytes = int(header["file_bytes"])
        self._starts_at = HEADER.itemsize + (self.n_frames + 1) * FRAME.itemsize
        self._faces_at = self._starts_at + self.n_frames * START.itemsize

    def _read(self, dtype: np.dtype[Any], at: int, count: int) -> NDArray[Any]:
        if count < 0 or at < 0 or at + count * dtype.itemsize > self._bytes:
            raise _damaged(self._path)
        out = np.empty(count, dtype)
        self._stream.seek(at)
        if self._stream.readinto(out.view(np.uint8).data) != out.nbytes:
            raise _damaged(self._path)
        return out

    def clip(self, start: int) -> tuple[FaceTrack, NDArray[np.void]] | None:
        """Returns the face's track from `start` and the FRAMEs of its clip; None for a clip that is not cached."""
        first = self._read(START, self._starts_at + start * START.itemsize, 1)[0]
        if first["face"] < 0:
            return None
        frames = self._read(FRAME, HEADER.itemsize + start * FRAME.itemsize, self.num_frames + 1)
        row0 = int(frames["face"][0])
        faces = self._read(FACE, self._faces_at + row0 * FACE.itemsize, int(frames["face"][-1]) - row0)
        rows = [int(first["face"]) - row0]
        while len(rows) < self.num_frames and 0 <= rows[-1] < len(faces):
            rows.append(int(faces["next"][rows[-1]]) - row0)
        if not all(0 <= row < len(faces) for row in rows):
            raise _damaged(self._path)
        track = FaceTrack(faces["landmarks"][rows], first["box"].copy())
        # this also refuses NaN, for which every comparison is false
        if not all(
            (np.abs(points) <= MAX_COORDINATE).all() for points in (track.landmarks_TN2, track.box_22)
        ):
            raise _damaged(self._path)
        return track, frames[:-1]

    def frame(self, frame: np.void) -> NDArray[np.uint8]:
        """Reads the stored part of one frame, (h, w, 3) of its window."""
        y0, y1, x0, x1 = (int(edge) for edge in frame["window"])
        if not (0 <= y0 < y1 <= self.height and 0 <= x0 < x1 <= self.width):
            raise _damaged(self._path)
        pixels = self._read(np.dtype(np.uint8), int(frame["at"]), (y1 - y0) * (x1 - x0) * 3)
        return pixels.reshape(y1 - y0, x1 - x0, 3)


def contains(outer_4: NDArray[np.int32], inner: Window) -> bool:
    """Tells whether the window `inner` lies inside `outer_4`."""
    return bool(
        (outer_4[::2] <= np.array(inner[::2])).all() and (outer_4[1::2] >= np.array(inner[1::2])).all()
    )
