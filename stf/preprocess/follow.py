"""One person through a video: faces are linked from frame to frame, then the largest person is chosen.

T frames, N = 81 landmarks. Readers take the largest face of a clip's first frame, so a face that outgrows the followed
one is left out of that frame: every clip of a video shows the same person.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stf.data.faces import IoUfrom2bboxes, bounds
from stf.preprocess.faces import Face

MAX_GAP = 10  # frames a face may be missing and still be the same; as many are filled in
_MIN_IOU = 0.25
_MIN_FRAMES = 5  # a shorter track is more often a pattern in the background than somebody


@dataclass
class Track:
    """One face's way, by frame number."""

    faces: dict[int, Face] = field(default_factory=dict)
    area: float = 0.0  # summed over its frames: who is large, and for long

    @property
    def first(self) -> int:
        """Its first frame."""
        return next(iter(self.faces))

    @property
    def last(self) -> int:
        """Its last frame so far."""
        return next(reversed(self.faces))

    def add(self, t: int, face: Face) -> None:
        """Goes on with `face` in frame t."""
        self.faces[t] = face
        self.area += face.area


class Tracker:
    """Links faces by the IoU of their landmarks' bounds, best pairs first, over gaps of up to MAX_GAP frames."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []

    def leading(self, t: int) -> Track | None:
        """Who would be followed in frame t; None when nobody was seen lately."""
        return max(self._live(t), key=lambda track: track.area, default=None)

    def update(self, t: int, faces: Sequence[Face]) -> None:
        """Enters frame t."""
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
class Followed:
    """The followed face by frame, and how often it had to be found anew elsewhere (a cut, a jump)."""

    faces: dict[int, Face]
    jumps: int
    filled: int


def choose(tracks: Sequence[Track]) -> list[Track]:
    """The followed person's tracks in order of time: the largest, then what lies before and after it.

    Whoever was in the picture together with the chosen one is somebody else, and never takes over.
    """
    chosen: list[Track] = []
    for track in sorted(tracks, key=lambda track: -track.area):
        alone = all(track.last < other.first or track.first > other.last for other in chosen)
        if alone and (len(track.faces) >= _MIN_FRAMES or not chosen):
            chosen.append(track)
    return sorted(chosen, key=lambda track: track.first)


def follow_one(tracks: Sequence[Track], align: Callable[[int, NDArray[np.float64]], Face]) -> Followed:
    """The followed face through all frames; `align(t, box)` gives the landmarks of a frame it was missed in."""
    chosen = choose(tracks)
    faces: dict[int, Face] = {}
    filled = 0
    for track in chosen:
        between = _filled(track, align)
        filled += len(between)
        faces |= track.faces | between
    return Followed(faces, max(0, len(chosen) - 1), filled)


def _filled(track: Track, align: Callable[[int, NDArray[np.float64]], Face]) -> dict[int, Face]:
    """Faces for the track's gaps, at boxes between their neighbours'; only where the landmarks land there too."""
    seen, found = sorted(track.faces), {}
    for before, after in itertools.pairwise(seen):
        ends = track.faces[before], track.faces[after]
        for t in range(before + 1, after):
            share = (t - before) / (after - before)
            box_4, expected_N2 = (
                (1 - share) * getattr(ends[0], name) + share * getattr(ends[1], name)
                for name in ("box_4", "landmarks_N2")
            )
            face = align(t, box_4)
            if IoUfrom2bboxes(bounds(face.landmarks_N2), bounds(expected_N2)) > 0.5:
                found[t] = face
    return found


def with_smaller(followed: Face, faces: Sequence[Face]) -> tuple[list[Face], bool]:
    """(what a frame's files hold: the followed face, then the others by size; whether a larger one is left out)."""
    others = sorted((f for f in faces if f is not followed), key=lambda face: -face.area)
    smaller = [face for face in others if face.area < followed.area]
    return [followed, *smaller], len(smaller) < len(others)
