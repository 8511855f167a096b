"""One raw video → its frames, landmarks and boxes in the tree, and what is to be said about it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stf.audit.stride import VIDEO_LIMITS, measure_motion
from stf.data.clips import read_frame
from stf.data.video import Video
from stf.errors import DataError, Interrupted
from stf.preprocess.decode import RawVideo, open_video
from stf.preprocess.faces import Detector, Face
from stf.preprocess.follow import Followed, Tracker, follow_one, with_smaller
from stf.preprocess.isolated import Died, orphaned, run_isolated
from stf.preprocess.store import Job, Place, explain, sign

VERSION = 1  # of the method: another one makes every video anew


@dataclass(frozen=True)
class Settings:
    """What decides the files' contents; `max_frames` 0 takes all. `num_frames` is what a clip needs."""

    detector: Callable[[], Detector]
    start: int
    max_frames: int
    num_frames: int

    def key(self) -> str:
        """Changes when a video would come out otherwise; `num_frames` only judges it."""
        return f"{VERSION}, {self.detector().identity}, frames {self.start}+{self.max_frames or 'all'}"


@dataclass(frozen=True)
class Made:
    """The report's entry of one video; frames are counted, `problem` is empty when there is none."""

    name: str
    source: str
    outcome: str  # made | kept (complete from an earlier run) | failed
    problem: str = ""
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    faceless: int = 0
    filled: int = 0  # faces between two found ones
    several: int = 0
    larger_left_out: int = 0
    jumps: int = 0
    longest_run: int = 0  # consecutive frames with a face
    notes: tuple[str, ...] = field(default=())
    seconds: float = 0.0

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Made:
        """From a marker or report."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in entry.items() if name in known}
        values["notes"] = tuple(values["notes"])
        return cls(**values)


def failed(job: Job, problem: str) -> Made:
    """The entry of a video that is not in the tree."""
    return Made(job.name, str(job.source), "failed", problem)


def make(root: Path, settings: Settings, parent: int, job: Job) -> Made:
    """Makes one video unless it is complete; a broken one is an entry, never an error.

    Raises DataError when the tree's disk cannot take it, Interrupted when process `parent` is gone.
    """
    place = Place(root, job)
    try:
        return _make(place, settings, parent)
    except OSError as error:
        raise explain(error, root) from None


def make_each(
    root: Path,
    settings: Settings,
    jobs: Sequence[Job],
    n_workers: int,
    limit_s: float,
    leave_if_asked: Callable[[], None] = lambda: None,
) -> Generator[Made]:
    """The entries of all jobs as they end, each in a process of its own: a decoder's crash costs one video."""
    function = partial(make, root, settings, os.getpid())
    for made in run_isolated(function, jobs, n_workers, limit_s, leave_if_asked):
        yield failed(made.item, made.how) if isinstance(made, Died) else made


def _make(place: Place, settings: Settings, parent: int) -> Made:
    job, began_s = place.job, time.perf_counter()
    try:
        kept = place.finished(settings.key())
        if kept is not None:
            return judged(Made.read(kept | {"outcome": "kept"}), settings.num_frames)
        if place.foreign():
            return failed(
                job, "its folder exists and was not made by this command; move it away to have it made"
            )
        signature = sign(job.source, settings.key())
        place.begin()
        with open_video(job.source) as video:
            recording = _record(place, settings, parent, video)
        if recording.n_frames == 0:
            place.discard()
            return failed(job, video.problem or f"no frame from number {settings.start} on")
    except DataError as error:
        place.discard()
        return failed(job, str(error))
    made = _describe(place, settings, video, recording)
    made = dataclasses.replace(made, seconds=round(time.perf_counter() - began_s, 3))
    _stay_or_leave(parent)
    place.finish(asdict(made), signature)
    return judged(made, settings.num_frames)


@dataclass
class _Recording:
    """What was seen while the frames were written."""

    tracker: Tracker
    seen: list[list[Face]]
    size: tuple[int, int] = (0, 0)  # width, height

    @property
    def n_frames(self) -> int:
        return len(self.seen)


def _record(place: Place, settings: Settings, parent: int, video: RawVideo) -> _Recording:
    """Writes every frame and finds its faces."""
    recording, detector = _Recording(Tracker(), []), settings.detector()
    for t, frame in enumerate(video.frames(settings.start, settings.max_frames)):
        _stay_or_leave(parent)
        place.write_frame(t, frame)
        lead = recording.tracker.leading(t)
        faces = detector.find(frame, None if lead is None else lead.faces[lead.last].box_4)
        recording.tracker.update(t, faces)
        recording.seen.append(faces)
        recording.size = frame.shape[1], frame.shape[0]
    return recording


def _describe(place: Place, settings: Settings, video: RawVideo, recording: _Recording) -> Made:
    """Writes landmarks and boxes of the followed face, and says what was met."""

    def align(t: int, box_4: NDArray[np.float64]) -> Face:
        return settings.detector().align(read_frame(place.frame_path(t)), box_4)

    followed = follow_one(recording.tracker.tracks, align)
    larger = 0
    for t, face in sorted(followed.faces.items()):
        faces, left_out = with_smaller(face, recording.seen[t])
        larger += left_out
        place.write_faces(t, faces)
    run = longest_run(sorted(followed.faces))
    return Made(
        name=place.job.name,
        source=str(place.job.source),
        outcome="made",
        problem=video.problem,
        frames=recording.n_frames,
        fps=round(video.head.fps, 3),
        width=recording.size[0],
        height=recording.size[1],
        faceless=recording.n_frames - len(followed.faces),
        filled=followed.filled,
        several=sum(len(faces) > 1 for faces in recording.seen),
        larger_left_out=larger,
        jumps=followed.jumps,
        longest_run=len(run),
        notes=_notes(place, followed, run),
    )


def judged(made: Made, num_frames: int) -> Made:
    """With a note where no clip of `num_frames` fits into the frames with a face."""
    if not 0 < made.longest_run < num_frames:
        return made
    short = f"too short: {made.longest_run} frames in a row with a face, a clip needs {num_frames}"
    return dataclasses.replace(made, notes=(short, *made.notes))


def longest_run(numbers: Sequence[int]) -> list[int]:
    """The longest run of consecutive ones among rising numbers; the first of equals."""
    best: list[int] = []
    run: list[int] = []
    for number in numbers:
        run = [*run, number] if run and number == run[-1] + 1 else [number]
        best = run if len(run) > len(best) else best
    return best


def _notes(place: Place, followed: Followed, run: Sequence[int]) -> tuple[str, ...]:
    if not run:
        return ("no face",)
    notes = []
    if followed.jumps:
        notes.append(f"face lost and taken up again {followed.jumps}× (a cut?)")
    if len(run) > 1:
        track_TN2 = np.stack([followed.faces[t].landmarks_N2 for t in run])
        motion = measure_motion(_video(place, run), track_TN2)
        if motion.exceeds(VIDEO_LIMITS):
            notes.append("moves like a video of which frames are missing (stride?)")
    return tuple(notes)


def _video(place: Place, numbers: Sequence[int]) -> Video:
    """Some frames in the work folder, as what the stride's measure reads."""
    job, paths = place.job, tuple(place.frame_path(t) for t in numbers)
    nothing = (None,) * len(paths)
    names = (job.method, job.quality, "", job.video_id, None)
    return Video(job.video_id, int(bool(job.method)), *names, paths, tuple(numbers), nothing, nothing)


def _stay_or_leave(parent: int) -> None:
    if os.getpid() != parent and orphaned(parent):
        raise Interrupted("the command that started this process is gone", 143)
