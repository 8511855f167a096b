"""Builds the face cache: finds the part of each frame that any clip needs, then decodes every frame once.

T frames of a clip, F faces in a frame, N = 81 landmarks; windows (y0, y1, x0, x1) in pixels of the stored frames.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stf.data.cache.face_cache import FaceCache
from stf.data.cache.file import Tables, write_file
from stf.data.clips import FaceTrack, match_face, possible_starts, read_frame, spread_evenly
from stf.data.face_clip import FirstCrop
from stf.data.faces import (
    N_POINTS,
    Points,
    Window,
    largest_face,
    match_box,
    read_boxes,
    read_landmarks,
    reorder_landmark,
)
from stf.data.png import read_header
from stf.data.video import Video
from stf.errors import DataError
from stf.io.workers import parallel_map

TURN_OFF = 'set runtime.face_cache: "" to train without it'
TIMED_FRAMES = 16
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BuiltVideo:
    """The result for one video: how many of its clips are cached, and why the others are not."""

    name: str
    n_clips: int
    n_cached: int
    problem: str  # the first one; "" when all clips are cached


@dataclass(frozen=True)
class Estimate:
    """The cost of building: exact size in bytes, and seconds on one core, extrapolated from a few decoded frames."""

    n_videos: int
    n_frames: int
    n_bytes: int
    core_seconds: float


class CachePlan:
    """One video's tables before any frame is decoded: every window, every face, and the clips that can be cached."""

    def __init__(self, video: Video, num_frames: int, allow_strided: bool) -> None:
        self.video, self.num_frames, self.problem = video, num_frames, ""
        self.starts = possible_starts(video, num_frames, allow_strided)
        faces = self._read_faces()
        n_frames = len(video.frame_paths)
        self.tables = Tables.empty(n_frames, sum(map(len, faces)), num_frames)
        self.tables.frames["face"][1:] = np.cumsum([len(faces_FN2) for faces_FN2 in faces])
        if len(self.tables.faces):
            self.tables.faces["landmarks"] = reorder_landmark(np.concatenate(faces))
        self.tables.faces["next"] = self._next_rows(faces)
        self._size = self._first_size()
        self.tables.header["height"], self.tables.header["width"] = self._size or (0, 0)
        for start in self.starts if self._size else ():
            self._add_clip(start, faces)

    @property
    def needed_frames(self) -> list[int]:
        """The indices of the frames that at least one clip needs, in order."""
        height_N = self.tables.frames["window"][:-1, 1]
        return np.flatnonzero(height_N).tolist()

    @property
    def n_bytes(self) -> int:
        """The file's size in bytes when every frame can be read."""
        y0, y1, x0, x1 = self.tables.frames["window"].astype(np.int64).T
        return int(self.tables.header["pixels_at"]) + 3 * int(((y1 - y0) * (x1 - x0)).sum())

    @property
    def n_cached(self) -> int:
        """The number of clips in the cache."""
        return int((self.tables.starts["face"] >= 0).sum())

    def crops(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yields (index, pixels of its window) of each needed frame; an unreadable frame excludes its clips."""
        for index in self.needed_frames:
            path, window = self.video.frame_paths[index], self.tables.frames["window"][index]
            y0, y1, x0, x1 = window.tolist()
            try:
                frame = read_frame(path)
                if frame.shape[:2] != self._size:
                    raise DataError(f"{path} differs in size from the video's first frame")
            except DataError as error:
                self._record_problem(error)
                self.tables.starts["face"][max(0, index - self.num_frames + 1) : index + 1] = -1
                continue
            yield index, frame[y0:y1, x0:x1]

    def _record_problem(self, error: DataError) -> None:
        self.problem = self.problem or str(error)

    def _read_faces(self) -> list[Points]:
        """Reads each frame's landmarks (F, 81, 2); empty where no clip needs them or they cannot be read."""
        needed = {index for start in self.starts for index in range(start, start + self.num_frames)}
        faces = []
        for index, path in enumerate(self.video.landmark_paths):
            landmarks_FN2 = np.empty((0, N_POINTS, 2))
            try:
                if path is not None and index in needed:
                    landmarks_FN2 = read_landmarks(path)
            except DataError as error:
                self._record_problem(error)
            faces.append(landmarks_FN2)
        return faces

    def _next_rows(self, faces: Sequence[Points]) -> list[int]:
        """Finds, for each row of the FACE table, the row of the same face in the next frame; -1 where it is lost."""
        rows = []
        for index, faces_FN2 in enumerate(faces):
            next_faces = faces[index + 1] if index + 1 < len(faces) else faces[index][:0]
            row0 = int(self.tables.frames["face"][index + 1])
            for face_N2 in faces_FN2:
                best = match_face(face_N2, next_faces) if len(next_faces) else None
                rows.append(-1 if best is None else row0 + best)
        return rows

    def _first_size(self) -> tuple[int, int] | None:
        """Reads (height, width) from the first readable frame that starts a clip; None without one."""
        for start in self.starts:
            try:
                header = read_header(self.video.frame_paths[start])
                return header.height, header.width
            except DataError as error:
                self._record_problem(error)
        return None

    def _add_clip(self, start: int, faces: Sequence[Points]) -> None:
        """Adds the clip that starts at `start`, if its face can be tracked, and widens its frames' windows."""
        try:
            row, track = self._track(start, faces[start])
            crops = [FirstCrop.plan(track, *(self._size or (0, 0)), flip) for flip in (False, True)]
        except DataError as error:
            self._record_problem(error)
            return
        self.tables.starts[start] = (row, track.box_22)
        for crop in crops:
            self._widen(start, crop.stored_window)

    def _track(self, start: int, faces_FN2: Points) -> tuple[int, FaceTrack]:
        video, box_path = self.video, self.video.box_paths[start]
        if not len(faces_FN2) or box_path is None:
            raise DataError(f"{video.frame_paths[start]} has no face")
        face = largest_face(faces_FN2)
        box_22 = match_box(faces_FN2[face], read_boxes(box_path))
        rows = [int(self.tables.frames["face"][start]) + face]
        while len(rows) < self.num_frames and rows[-1] >= 0:
            rows.append(int(self.tables.faces["next"][rows[-1]]))
        if rows[-1] < 0:
            raise DataError(f"the face of {video.frame_paths[start]} is lost within {self.num_frames} frames")
        return rows[0], FaceTrack(self.tables.faces["landmarks"][rows], box_22)

    def _widen(self, start: int, window: Window) -> None:
        windows = self.tables.frames["window"][start : start + self.num_frames]
        is_empty = windows[:, 1] == 0
        windows[is_empty] = window
        windows[:, ::2] = np.minimum(windows[:, ::2], window[::2])
        windows[:, 1::2] = np.maximum(windows[:, 1::2], window[1::2])


def build_video(cache: FaceCache, video: Video) -> BuiltVideo:
    """Writes one video's file; raises DataError when the disk is full."""
    plan = CachePlan(video, cache.num_frames, cache.allow_strided)
    try:
        write_file(cache.path(video), plan.tables, plan.crops())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"the disk of {cache.folder} is full; free some space or {TURN_OFF}") from None
    return BuiltVideo(video.name, len(plan.starts), plan.n_cached, plan.problem)


def planned_bytes(cache: FaceCache, video: Video) -> tuple[int, int]:
    """Returns the size of the video's future file: (bytes, frames)."""
    plan = CachePlan(video, cache.num_frames, cache.allow_strided)
    return plan.n_bytes, len(plan.needed_frames)


def estimate(cache: FaceCache, videos: Sequence[Video], n_workers: int, progress: Progress) -> Estimate:
    """Estimates the cost of building these videos: reads all geometry, and decodes a few frames for the time."""
    sizes = []
    for planned in parallel_map(planned_bytes, videos, n_workers, cache):
        sizes.append(planned)
        progress(len(sizes), len(videos))
    n_bytes, n_frames = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
    return Estimate(len(videos), n_frames, n_bytes, n_frames * _seconds_per_frame(videos))


def _seconds_per_frame(videos: Sequence[Video]) -> float:
    paths = [path for video in videos for path in video.frame_paths]
    timed = 0
    start = time.process_time()
    for path in (paths[i] for i in spread_evenly(range(len(paths)), TIMED_FRAMES)):
        try:
            read_frame(path)
            timed += 1
        except DataError:
            continue  # the build reports it
    return (time.process_time() - start) / max(1, timed)


def require_space(cache: FaceCache, needed: int) -> None:
    """Raises DataError when the cache's disk has fewer than `needed` bytes free."""
    existing = cache.folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        sizes = f"needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free"
        raise DataError(f"the face cache {cache.folder} {sizes}; use another disk or {TURN_OFF}")


def build(cache: FaceCache, videos: Sequence[Video], n_workers: int, progress: Progress) -> list[BuiltVideo]:
    """Writes the files of `videos`, longest first, each atomically; an interrupted build resumes with the missing."""
    longest_first = sorted(videos, key=lambda video: -len(video.frame_paths))
    built = []
    for video in parallel_map(build_video, longest_first, n_workers, cache, chunksize=1):
        built.append(video)
        progress(len(built), len(videos))
    return built
