"""Preprocesses one raw video: writes its frames, landmarks and boxes into the tree, and builds its report entry."""

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
from stf.preprocess.isolated import Died, orphaned, run_isolated
from stf.preprocess.person import PersonTrack, Tracker, faces_to_store, track_person
from stf.preprocess.store import Job, VideoFolders, disk_error, sign_source

VERSION = 1  # of the method: a new version preprocesses every video again


@dataclass(frozen=True)
class Settings:
    """Settings that decide the files' contents; `max_frames` 0 means all. `num_frames` is the length of a clip."""

    detector: Callable[[], Detector]
    start: int
    max_frames: int
    num_frames: int

    def key(self) -> str:
        """Identifies everything that affects the files; `num_frames` does not, it only adds a note."""
        return f"{VERSION}, {self.detector().identity}, frames {self.start}+{self.max_frames or 'all'}"


@dataclass(frozen=True)
class VideoEntry:
    """One video's entry in the report, with numbers of frames; `problem` is empty when there is none."""

    name: str
    source: str
    outcome: str  # made | kept (already complete from an earlier run) | failed
    problem: str = ""
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    faceless: int = 0  # without the tracked face
    filled: int = 0  # with an interpolated face
    several: int = 0  # with more than one face
    larger_left_out: int = 0  # with a larger face of another person, which is omitted
    jumps: int = 0  # how often the face was lost and continued elsewhere
    longest_run: int = 0  # consecutive frames with a face
    notes: tuple[str, ...] = field(default=())
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> VideoEntry:
        """Builds an entry from that of a marker or report."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in entry.items() if name in known}
        values["notes"] = tuple(values["notes"])
        return cls(**values)


def failed_entry(job: Job, problem: str) -> VideoEntry:
    """Builds the entry of a video that could not be preprocessed."""
    return VideoEntry(job.name, str(job.source), "failed", problem)


def preprocess_video(root: Path, settings: Settings, parent: int, job: Job) -> VideoEntry:
    """Preprocesses one video unless it is complete; a broken one gives a failed entry, not an error.

    Raises DataError when the tree's disk is full or not writable, Interrupted when process `parent` is gone.
    """
    folders = VideoFolders(root, job)
    try:
        return _preprocess(folders, settings, parent)
    except OSError as error:
        raise disk_error(error, root) from None


def preprocess_videos(
    root: Path,
    settings: Settings,
    jobs: Sequence[Job],
    n_workers: int,
    limit_s: float,
    check_interrupt: Callable[[], None] = lambda: None,
) -> Generator[VideoEntry]:
    """Yields the entries of all jobs as they complete, each from its own process: a crash fails only one video."""
    function = partial(preprocess_video, root, settings, os.getpid())
    for result in run_isolated(function, jobs, n_workers, limit_s, check_interrupt):
        yield failed_entry(result.item, result.reason) if isinstance(result, Died) else result


def _preprocess(folders: VideoFolders, settings: Settings, parent: int) -> VideoEntry:
    job, start_s = folders.job, time.perf_counter()
    try:
        complete = folders.complete_entry(settings.key())
        if complete is not None:
            return with_length_note(VideoEntry.from_dict(complete | {"outcome": "kept"}), settings.num_frames)
        if folders.has_foreign_files():
            return failed_entry(job, "its folder exists and was not made by this command; move it away")
        signature = sign_source(job.source, settings.key())
        folders.prepare()
        with open_video(job.source) as video:
            recording = _record(folders, settings, parent, video)
        if recording.n_frames == 0:
            folders.discard()
            return failed_entry(
                job, video.problem or f"the video has no frame {settings.start}; lower --start"
            )
    except DataError as error:
        folders.discard()
        return failed_entry(job, str(error))
    entry = _write_faces(folders, settings, video, recording)
    entry = dataclasses.replace(entry, seconds=round(time.perf_counter() - start_s, 3))
    _exit_if_orphaned(parent)
    folders.publish(asdict(entry), signature)
    return with_length_note(entry, settings.num_frames)


@dataclass
class _Recording:
    """The faces found while the frames were written."""

    tracker: Tracker
    faces_by_frame: list[list[Face]]
    size: tuple[int, int] = (0, 0)  # width, height

    @property
    def n_frames(self) -> int:
        return len(self.faces_by_frame)


def _record(folders: VideoFolders, settings: Settings, parent: int, video: RawVideo) -> _Recording:
    """Writes every frame and finds its faces."""
    recording, detector = _Recording(Tracker(), []), settings.detector()
    for t, frame in enumerate(video.frames(settings.start, settings.max_frames)):
        _exit_if_orphaned(parent)
        folders.write_frame(t, frame)
        track = recording.tracker.main_track(t)
        faces = detector.find(frame, None if track is None else track.faces[track.last].box_4)
        recording.tracker.update(t, faces)
        recording.faces_by_frame.append(faces)
        recording.size = frame.shape[1], frame.shape[0]
    return recording


def _write_faces(
    folders: VideoFolders, settings: Settings, video: RawVideo, recording: _Recording
) -> VideoEntry:
    """Writes landmarks and boxes with the tracked face first; returns the report entry."""

    def align(t: int, box_4: NDArray[np.float64]) -> Face:
        return settings.detector().align(read_frame(folders.frame_path(t)), box_4)

    person = track_person(recording.tracker.tracks, align)
    n_larger = 0
    for t, face in sorted(person.faces.items()):
        faces, omits_larger = faces_to_store(face, recording.faces_by_frame[t])
        n_larger += omits_larger
        folders.write_faces(t, faces)
    run = longest_run(sorted(person.faces))
    return VideoEntry(
        name=folders.job.name,
        source=str(folders.job.source),
        outcome="made",
        problem=video.problem,
        frames=recording.n_frames,
        fps=round(video.head.fps, 3),
        width=recording.size[0],
        height=recording.size[1],
        faceless=recording.n_frames - len(person.faces),
        filled=person.filled,
        several=sum(len(faces) > 1 for faces in recording.faces_by_frame),
        larger_left_out=n_larger,
        jumps=person.jumps,
        longest_run=len(run),
        notes=_notes(folders, person, run),
    )


def with_length_note(entry: VideoEntry, num_frames: int) -> VideoEntry:
    """Adds a note when the video has no clip of `num_frames` consecutive frames with a face."""
    if not 0 < entry.longest_run < num_frames:
        return entry
    note = f"too short: {entry.longest_run} consecutive frames with a face, a clip needs {num_frames}"
    return dataclasses.replace(entry, notes=(note, *entry.notes))


def longest_run(numbers: Sequence[int]) -> list[int]:
    """Returns the longest run of consecutive numbers in a rising sequence; the first one in a tie."""
    best: list[int] = []
    run: list[int] = []
    for number in numbers:
        run = [*run, number] if run and number == run[-1] + 1 else [number]
        best = run if len(run) > len(best) else best
    return best


def _notes(folders: VideoFolders, person: PersonTrack, run: Sequence[int]) -> tuple[str, ...]:
    if not run:
        return ("no face",)
    notes = []
    if person.jumps:
        notes.append(f"face lost and found again {person.jumps}× (a cut?)")
    if len(run) > 1:
        track_TN2 = np.stack([person.faces[t].landmarks_N2 for t in run])
        motion = measure_motion(_video(folders, run), track_TN2)
        if motion.exceeds(VIDEO_LIMITS):
            notes.append("moves like a video with missing frames (stride?)")
    return tuple(notes)


def _video(folders: VideoFolders, numbers: Sequence[int]) -> Video:
    """Builds a Video of some frames in the work folder, for `measure_motion`."""
    job, paths = folders.job, tuple(folders.frame_path(t) for t in numbers)
    nothing = (None,) * len(paths)
    names = (job.method, job.quality, "", job.video_id, None)
    return Video(job.video_id, int(bool(job.method)), *names, paths, tuple(numbers), nothing, nothing)


def _exit_if_orphaned(parent: int) -> None:
    if os.getpid() != parent and orphaned(parent):
        raise Interrupted("the command that started this process has ended", 143)
