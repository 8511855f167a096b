"""Checks one video for every kind of defect by opening its files.

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
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MAX_POINTS_OUTSIDE = 4  # of 81: a jaw may leave the frame for a moment


@dataclass(frozen=True)
class Defect:
    """One kind of defect in one video or file: `n` occurrences, of which `detail` describes the first."""

    severity: Severity
    what: str
    where: str
    detail: str
    n: int = 1


@dataclass(frozen=True)
class VideoCheck:
    """The result of checking one video; motion is None when it could not be measured."""

    n_frames: int
    defects: tuple[Defect, ...]
    motion: Motion | None


class _Findings:
    """Counts findings by (severity, kind) and stores the first detail of each."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._first: dict[tuple[Severity, str], str] = {}
        self._count: dict[tuple[Severity, str], int] = {}

    def add(self, severity: Severity, what: str, detail: str) -> None:
        key = (severity, what)
        self._first.setdefault(key, detail)
        self._count[key] = self._count.get(key, 0) + 1

    def defects(self) -> tuple[Defect, ...]:
        """Returns one Defect per kind, in order of first occurrence."""
        return tuple(Defect(s, w, self._where, d, self._count[s, w]) for (s, w), d in self._first.items())


def check_video(num_frames: int, allow_strided: bool, every_byte: bool, video: Video) -> VideoCheck:
    """Reads every geometry file and every frame's header (with `every_byte`, all its checksums).

    A few frames are decoded for the motion between neighbours. Never raises for a broken file: reports a Defect.
    """
    findings = _Findings(video.name)
    _check_names(video, findings)
    size = _check_frames(video, every_byte, findings)
    faces = dict(_read_faces(video, findings))
    _check_counts(video, findings)
    if _check_stride(video, allow_strided, findings) and not possible_starts(
        video, num_frames, allow_strided
    ):
        detail = f"{len(video.frame_paths)} frames on disk, but no {num_frames} consecutive ones with a face"
        findings.add("error", "too short", f"{detail}; extract it without gaps or lower data.num_frames")
    if size is not None:
        _check_face_positions(video, faces, size, findings)
    track = _track_face(video, faces, findings)
    motion = _check_motion(video, track, findings) if size is not None else None
    return VideoCheck(len(video.frame_paths), findings.defects(), motion)


def _check_names(video: Video, findings: _Findings) -> None:
    """Reports images beside the frames that are not read: a second name of a frame number, or no number at all."""
    for folder in {path.parent for path in video.frame_paths}:
        images = [name for name in names_in(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
        for name in sorted(set(images) - {path.name for path in video.frame_paths}):
            stem = name.removesuffix(".png")
            if NUMBER_PATTERN.fullmatch(stem):
                detail = f"{name} and another file are both frame {int(stem)}; delete one"
                findings.add("error", "duplicate frame number", detail)
            else:
                findings.add("warning", "ignored images", f"{name}; name frames by number, as in 007.png")


def _check_frames(video: Video, every_byte: bool, findings: _Findings) -> tuple[int, int] | None:
    """Checks the frames; returns their (width, height), or None when one is broken or sizes differ."""
    sizes: dict[tuple[int, int], Path] = {}
    broken = False
    for path in video.frame_paths:
        try:
            header = _checked_header(path, every_byte)
        except DataError as error:
            broken = True
            findings.add("error", "broken frame", str(error))
            continue
        sizes.setdefault((header.width, header.height), path)
        if header.colour not in ("RGB", "palette"):
            detail = f"{path.name} is {header.colour}; grey becomes RGB, alpha is dropped"
            findings.add("warning", "frames that are not RGB", detail)
    if len(sizes) > 1:
        examples = ", ".join(f"{path.name} {width}x{height}" for (width, height), path in sizes.items())
        findings.add("error", "frames of several sizes", examples)
    return next(iter(sizes)) if len(sizes) == 1 and not broken else None


def _checked_header(path: Path, every_byte: bool) -> PngHeader:
    return check_chunks(path, read_bytes(path)) if every_byte else read_header(path)


def _read_faces(
    video: Video, findings: _Findings
) -> Iterator[tuple[int, tuple[Points | None, Points | None]]]:
    """Yields (index, (landmarks (F, N, 2), boxes (F, 2, 2))) of each frame; None where missing or unreadable."""
    for index, paths in enumerate(zip(video.landmark_paths, video.box_paths, strict=True)):
        read: list[Points | None] = []
        for path, reader in zip(paths, (read_landmarks, read_boxes), strict=True):
            try:
                read.append(None if path is None else reader(path))
            except DataError as error:
                read.append(None)
                findings.add("error", "broken geometry", str(error))
        yield index, (read[0], read[1])


def _check_counts(video: Video, findings: _Findings) -> None:
    n = len(video.frame_paths)
    for kind, paths in (("landmarks", video.landmark_paths), ("boxes", video.box_paths)):
        missing = [p.name for p, geometry in zip(video.frame_paths, paths, strict=True) if geometry is None]
        if missing:
            findings.add(
                "warning", f"frames without {kind}", f"{len(missing)} of {n} frames, first {missing[0]}"
            )
    if video.borrowed_geometry:
        findings.add("warning", "borrowed geometry", f"uses the landmarks or boxes of {video.target_id}")


Faces = dict[int, tuple[Points | None, Points | None]]


def _check_face_positions(video: Video, faces: Faces, size: tuple[int, int], findings: _Findings) -> None:
    for index, (landmarks, boxes) in faces.items():
        if landmarks is None:
            continue
        face = landmarks[largest_face(landmarks)]
        name = video.frame_paths[index].name
        n_outside = int(((face < 0) | (face > np.array(size) - 1)).any(-1).sum())
        if n_outside > len(face) // 2:
            detail = f"{name}: {n_outside} of 81 points outside {size[0]}x{size[1]}"
            findings.add("error", "face outside the picture", detail)
        elif n_outside > MAX_POINTS_OUTSIDE:
            detail = f"{name}: {n_outside} of 81 points outside"
            findings.add("warning", "landmarks outside the picture", detail)
        if boxes is not None:
            try:
                match_box(face, boxes)
            except DataError as error:
                findings.add("error", "box of another face", f"{name}: {error}")


def _track_face(video: Video, faces: Faces, findings: _Findings) -> list[Points]:
    """Tracks the largest face of the first frame by IoU; returns its landmarks up to where it is lost."""
    track: list[Points] = []
    for index, (landmarks, _) in faces.items():
        if landmarks is None:
            return track
        if not track:
            track.append(landmarks[largest_face(landmarks)])
            continue
        overlaps = [IoUfrom2bboxes(bounds(track[-1]), bounds(face)) for face in landmarks]
        if max(overlaps) <= 0:
            detail = (
                f"{video.frame_paths[index].name}: probably a cut; clips across it are replaced by others"
            )
            findings.add("warning", "face lost between frames", detail)
            return track
        track.append(landmarks[int(np.argmax(overlaps))])
    return track


def _check_stride(video: Video, allow_strided: bool, findings: _Findings) -> bool:
    """Checks the frame numbers; returns whether the video can be used."""
    stride = stride_of_numbers(video.frame_numbers)
    if stride == 1:
        return True
    hint = "a clip needs consecutive frames; preprocess again, or set data.allow_strided"
    findings.add(
        "warning" if allow_strided else "error", "strided", f"frame numbers have a stride of {stride}; {hint}"
    )
    return allow_strided


def _check_motion(video: Video, track: list[Points], findings: _Findings) -> Motion | None:
    if len(track) < 2 or stride_of_numbers(video.frame_numbers) != 1:
        return None
    try:
        motion = measure_motion(video, np.stack(track))
    except DataError as error:
        findings.add("error", "broken frame", str(error))
        return None
    if motion.exceeds(VIDEO_LIMITS):
        change = f"{motion.landmarks_pct:.1f} % of the face's size and {motion.grey:.1f} grey levels"
        detail = f"neighbouring frames differ by {change}, as in strided video"
        findings.add("warning", "suspected stride", detail)
    return motion
