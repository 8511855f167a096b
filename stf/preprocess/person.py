"""Tracks one person through a video: links faces from frame to frame, then chooses the largest person.

T frames, N = 81 landmarks. A clip uses the largest face of its first frame, so a face that is larger than the tracked
one is omitted from that frame's files: all clips of a video then show the same person.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stf.data.faces import IoUfrom2bboxes, bounds
from stf.preprocess.faces import Face

MAX_GAP = 10  # frames that a face may be missing within one track; such gaps are filled
_MIN_IOU = 0.25
_MIN_FRAMES = 5  # a shorter track is more often a pattern in the background than a person


@dataclass
class Track:
    """One face over time, by frame number."""

    faces: dict[int, Face] = field(default_factory=dict)
    area: float = 0.0  # summed over its frames: large for people who are large and long visible

    @property
    def first(self) -> int:
        """Its first frame."""
        return next(iter(self.faces))

    @property
    def last(self) -> int:
        """Its last frame."""
        return next(reversed(self.faces))

    def add(self, t: int, face: Face) -> None:
        """Appends `face` in frame t."""
        self.faces[t] = face
        self.area += face.area


class Tracker:
    """Links faces by the IoU of their landmarks' bounds, best pairs first, over gaps of up to MAX_GAP frames."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []

    def main_track(self, t: int) -> Track | None:
        """Returns the largest track alive in frame t; None without one."""
        return max(self._live(t), key=lambda track: track.area, default=None)

    def update(self, t: int, faces: Sequence[Face]) -> None:
        """Adds the faces of frame t, each to a track or as a new track."""
        live = self._live(t)
        pairs = [
            (IoUfrom2bboxes(bounds(track.faces[track.last].landmarks_N2), bounds(face.landmarks_N2)), i, j)
            for i, track in enumerate(live)
            for j, face in enumerate(faces)
        ]
        linked: dict[int, int] = {}  # face: track
        for overlap, i, j in sorted(pairs, reverse=True):
            if overlap >= _MIN_IOU and i not in linked.values() and j not in linked:
                linked[j] = i
        for j, face in enumerate(faces):
            if j not in linked:
                self.tracks.append(Track())
            (live[linked[j]] if j in linked else self.tracks[-1]).add(t, face)

    def _live(self, t: int) -> list[Track]:
        return [track for track in self.tracks if t - track.last <= MAX_GAP + 1]


@dataclass(frozen=True)
class PersonTrack:
    """The tracked person's face by frame."""

    faces: dict[int, Face]
    jumps: int  # how often the track was lost and continued elsewhere (a cut)
    filled: int  # frames in which the face was interpolated


def choose_person(tracks: Sequence[Track]) -> list[Track]:
    """Chooses the person's tracks, in order of time: the largest, then others before and after it.

    A track that overlaps a chosen one in time belongs to another person and is never chosen.
    """
    chosen: list[Track] = []
    for track in sorted(tracks, key=lambda track: -track.area):
        is_disjoint = all(track.last < other.first or track.first > other.last for other in chosen)
        if is_disjoint and (len(track.faces) >= _MIN_FRAMES or not chosen):
            chosen.append(track)
    return sorted(chosen, key=lambda track: track.first)


def track_person(tracks: Sequence[Track], align: Callable[[int, NDArray[np.float64]], Face]) -> PersonTrack:
    """Builds the person's track; `align(t, box)` computes the landmarks in frames where the face was missed."""
    chosen = choose_person(tracks)
    faces: dict[int, Face] = {}
    filled = 0
    for track in chosen:
        interpolated = _fill_gaps(track, align)
        filled += len(interpolated)
        faces |= track.faces | interpolated
    return PersonTrack(faces, max(0, len(chosen) - 1), filled)


def _fill_gaps(track: Track, align: Callable[[int, NDArray[np.float64]], Face]) -> dict[int, Face]:
    """Aligns faces in the track's gaps at interpolated boxes; keeps those with matching landmarks."""
    filled = {}
    for before, after in itertools.pairwise(sorted(track.faces)):
        ends = track.faces[before], track.faces[after]
        for t in range(before + 1, after):
            share = (t - before) / (after - before)
            box_4, expected_N2 = (
                (1 - share) * getattr(ends[0], name) + share * getattr(ends[1], name)
                for name in ("box_4", "landmarks_N2")
            )
            face = align(t, box_4)
            if IoUfrom2bboxes(bounds(face.landmarks_N2), bounds(expected_N2)) > 0.5:
                filled[t] = face
    return filled


def faces_to_store(tracked: Face, faces: Sequence[Face]) -> tuple[list[Face], bool]:
    """Returns a frame's faces to store (the tracked one, then smaller ones) and whether a larger one is omitted."""
    others = sorted((f for f in faces if f is not tracked), key=lambda face: -face.area)
    smaller = [face for face in others if face.area < tracked.area]
    return [tracked, *smaller], len(smaller) < len(others)
