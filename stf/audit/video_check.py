"""Everything that can be wrong with one video, found by opening its files.

T frames, N = 81 landmarks, F faces; points are (x, y) pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stf.audit.stride import VIDEO_LIMITS, Motion, measure_motion, stride_of_numbers
from stf.data.clips import possible_starts
from stf.data.faces import IoUfrom2bboxes, Points, bounds, largest_face, match_box, read_boxes, read_landmarks
from stf.data.png import PngHeader, check_chunks, read_bytes, read_header
from stf.data.video import NUMBER_PATTERN, Video, names_in
from stf.errors import DataError

Severity = Literal["error", "warning"]
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MAX_POINTS_OUTSIDE = 4  # of 81: a jaw may leave the picture for a moment


@dataclass(frozen=True)
class Defect:
    """One kind of defect at one place; `n` counts how often it was met there, `detail` shows the first."""

    severity: Severity
    what: str
    where: str
    detail: str
    n: int = 1


@dataclass(frozen=True)
class VideoCheck:
    """What checking one video found; motion is None when it could not be measured."""

    n_frames: int
    defects: tuple[Defect, ...]
    motion: Motion | None


class _Findings:
    """Counts findings by (severity, kind) and remembers the first of each."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._first: dict[tuple[Severity, str], str] = {}
        self._count: dict[tuple[Severity, str], int] = {}

    def add(self, severity: Severity, what: str, detail: str) -> None:
        key = (severity, what)
        self._first.setdefault(key, detail)
        self._count[key] = self._count.get(key, 0) + 1

    def defects(self) -> tuple[Defect, ...]:
        """One Defect per kind, in the order they were first met."""
        return tuple(Defect(s, w, self._where, d, self._count[s, w]) for (s, w), d in self._first.items())


def check_video(num_frames: int, allow_strided: bool, every_byte: bool, video: Video) -> VideoCheck:
    """Opens every geometry file and every frame's header (with `every_byte`, all its checksums).

    A few frames are decoded for the motion between neighbours. Never raises for a broken file: it is a Defect.
    """
    found = _Findings(video.name)
    _check_names(video, found)
    size = _check_frames(video, every_byte, found)
    faces = dict(_read_faces(video, found))
    _check_counts(video, found)
    if _check_stride(video, allow_strided, found) and not possible_starts(video, num_frames, allow_strided):
        detail = f"{len(video.frame_paths)} frames on disk, and no {num_frames} consecutive ones with a face"
        found.add("error", "too short", f"{detail}; extract it without gaps or lower data.num_frames")
    if size is not None:
        _check_inside(video, faces, size, found)
    track = _follow(video, faces, found)
    motion = _check_motion(video, track, found) if size is not None else None
    return VideoCheck(len(video.frame_paths), found.defects(), motion)


def _check_names(video: Video, found: _Findings) -> None:
    """Pictures beside the frames that are not read: two names of one number, or a name that is no number."""
    for folder in {path.parent for path in video.frame_paths}:
        pictures = [name for name in names_in(folder) if name.lower().endswith(PICTURES)]
        for name in sorted(set(pictures) - {path.name for path in video.frame_paths}):
            stem = name.removesuffix(".png")
            if NUMBER_PATTERN.fullmatch(stem):
                detail = f"{name} and another file are both frame {int(stem)}; delete one"
                found.add("error", "two files of one frame", detail)
            else:
                hint = "a frame is a number and .png, as in 007.png"
                found.add("warning", "pictures that are not read", f"{name}; {hint}")


def _check_frames(video: Video, every_byte: bool, found: _Findings) -> tuple[int, int] | None:
    """(width, height) of the frames; None when one is broken or they differ."""
    sizes: dict[tuple[int, int], Path] = {}
    broken = False
    for path in video.frame_paths:
        try:
            header = _checked_header(path, every_byte)
        except DataError as error:
            broken = True
            found.add("error", "broken frame", str(error))
            continue
        sizes.setdefault((header.width, header.height), path)
        if header.colour not in ("RGB", "palette"):
            kept = "grey becomes RGB, alpha is dropped"
            found.add("warning", "frames that are not RGB", f"{path.name} is {header.colour}; {kept}")
    if len(sizes) > 1:
        examples = ", ".join(f"{path.name} {width}x{height}" for (width, height), path in sizes.items())
        found.add("error", "frames of several sizes", examples)
    return next(iter(sizes)) if len(sizes) == 1 and not broken else None


def _checked_header(path: Path, every_byte: bool) -> PngHeader:
    return check_chunks(path, read_bytes(path)) if every_byte else read_header(path)


def _read_faces(video: Video, found: _Findings) -> Iterator[tuple[int, tuple[Points | None, Points | None]]]:
    """(index, (landmarks (F, N, 2), boxes (F, 2, 2))) of each frame; None where absent or unreadable."""
    for index, paths in enumerate(zip(video.landmark_paths, video.box_paths, strict=True)):
        read: list[Points | None] = []
        for path, reader in zip(paths, (read_landmarks, read_boxes), strict=True):
            try:
                read.append(None if path is None else reader(path))
            except DataError as error:
                read.append(None)
                found.add("error", "broken geometry", str(error))
        yield index, (read[0], read[1])


def _check_counts(video: Video, found: _Findings) -> None:
    n = len(video.frame_paths)
    for kind, paths in (("landmarks", video.landmark_paths), ("boxes", video.box_paths)):
        missing = [p.name for p, geometry in zip(video.frame_paths, paths, strict=True) if geometry is None]
        if missing:
            found.add(
                "warning", f"frames without {kind}", f"{len(missing)} of {n} frames, first {missing[0]}"
            )
    if video.borrowed_geometry:
        found.add("warning", "borrowed geometry", f"uses the landmarks or boxes of {video.target_id}")


Faces = dict[int, tuple[Points | None, Points | None]]


def _check_inside(video: Video, faces: Faces, size: tuple[int, int], found: _Findings) -> None:
    for index, (landmarks, boxes) in faces.items():
        if landmarks is None:
            continue
        face = landmarks[largest_face(landmarks)]
        name = video.frame_paths[index].name
        n_outside = int(((face < 0) | (face > np.array(size) - 1)).any(-1).sum())
        if n_outside > len(face) // 2:
            detail = f"{name}: {n_outside} of 81 points outside {size[0]}x{size[1]}"
            found.add("error", "face outside the picture", detail)
        elif n_outside > MAX_POINTS_OUTSIDE:
            detail = f"{name}: {n_outside} of 81 points outside"
            found.add("warning", "landmarks outside the picture", detail)
        if boxes is not None:
            try:
                match_box(face, boxes)
            except DataError as error:
                found.add("error", "box of another face", f"{name}: {error}")


def _follow(video: Video, faces: Faces, found: _Findings) -> list[Points]:
    """The face's landmarks from the first frame on, followed by IoU as far as that goes."""
    track: list[Points] = []
    for index, (landmarks, _) in faces.items():
        if landmarks is None:
            return track
        if not track:
            track.append(landmarks[largest_face(landmarks)])
            continue
        overlaps = [IoUfrom2bboxes(bounds(track[-1]), bounds(face)) for face in landmarks]
        if max(overlaps) <= 0:
            hint = "clips across it are replaced by others"
            found.add(
                "warning", "face lost between frames", f"{video.frame_paths[index].name}: a cut? {hint}"
            )
            return track
        track.append(landmarks[int(np.argmax(overlaps))])
    return track


def _check_stride(video: Video, allow_strided: bool, found: _Findings) -> bool:
    """Whether the frame numbers are consecutive."""
    stride = stride_of_numbers(video.frame_numbers)
    if stride == 1:
        return True
    hint = "a clip needs consecutive frames; preprocess again, or set data.allow_strided"
    found.add(
        "warning" if allow_strided else "error", "strided", f"every {stride}th frame by its numbers; {hint}"
    )
    return allow_strided


def _check_motion(video: Video, track: list[Points], found: _Findings) -> Motion | None:
    if len(track) < 2 or stride_of_numbers(video.frame_numbers) != 1:
        return None
    try:
        motion = measure_motion(video, np.stack(track))
    except DataError as error:
        found.add("error", "broken frame", str(error))
        return None
    if motion.exceeds(VIDEO_LIMITS):
        detail = f"neighbours move {motion.landmarks_pct:.1f} % of the face and {motion.grey:.1f} grey levels"
        found.add("warning", "suspected stride", detail)
    return motion
