"""Face crops of the training videos, decoded once: clips read from here equal those read from the PNGs bit for bit.

    {folder}/{fingerprint}-{quality}-{num_frames}-{format}/{video id}.faces

The folder's name contains everything its contents depend on, so other data or another clip length never reads a stale
file. Each file is complete or absent (see file.py). Clips that are not cached, for instance those with an unreadable
frame, are read by `read_face_clip`, so the same clips fail with the same errors as without a cache.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stf.config import DataParams
from stf.data.cache.file import FORMAT, OpenedFile, check_file, contains
from stf.data.face_clip import FaceClip, FirstCrop, read_face_clip
from stf.data.video import Video
from stf.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FaceCache:
    """The cached crops of one data set, for one clip length."""

    folder: Path
    num_frames: int
    allow_strided: bool

    @classmethod
    def for_data(cls, root: Path, data: DataParams, fingerprint: str) -> FaceCache:
        """Returns the cache below `root` for data with this fingerprint."""
        strided = "-strided" if data.allow_strided else ""
        name = f"{fingerprint[:32]}-{data.quality}-{data.num_frames}{strided}-{FORMAT}"
        return cls(root / name, data.num_frames, data.allow_strided)

    def path(self, video: Video) -> Path:
        """Returns the path of the video's file, whether it exists or not."""
        return self.folder / f"{video.video_id}.faces"

    def missing(self, videos: Sequence[Video]) -> list[Video]:
        """Returns the videos without a complete file."""
        return [v for v in videos if not check_file(self.path(v), len(v.frame_paths), self.num_frames)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Waits until no other process builds here, then removes the partial files of an interrupted build.

        Raises DataError when the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock_file = open(self.folder / ".lock", "w", encoding="ascii")  # noqa: SIM115 - closed below
        except OSError as error:
            raise DataError(
                f"runtime.face_cache: {self.folder} cannot be written: {error.strerror or error}; "
                'set another folder, or "" to read the PNGs'
            ) from None
        with lock_file as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for partial in self.folder.glob("*.part"):
                partial.unlink(missing_ok=True)
            yield

    def read(self, video: Video, start: int, num_frames: int, flip: bool = False) -> FaceClip:
        """Reads a clip as `read_face_clip` does, bit for bit and with the same errors, from the cache if it is there.

        A missing or damaged file is logged as a warning, and the clip is read from the PNGs.
        """
        try:
            clip = self._cached(video, start, num_frames, flip)
        except (OSError, DataError) as error:
            _log.warning("face cache: %s; %s is read from its PNGs", error, video.name)
            clip = None
        return read_face_clip(video, start, num_frames, flip) if clip is None else clip

    def _cached(self, video: Video, start: int, num_frames: int, flip: bool) -> FaceClip | None:
        path = self.path(video)
        with open(path, "rb", buffering=0) as stream:
            opened = OpenedFile(stream, path)
            if (opened.n_frames, opened.num_frames) != (len(video.frame_paths), num_frames):
                raise DataError(f"{path} was built for another video or clip length")
            cached = opened.clip(start)
            if cached is None:
                return None
            track, frames_T = cached
            crop = FirstCrop.plan(track, opened.height, opened.width, flip)
            frames_THWC = crop.empty_frames()
            for frame, out_HWC in zip(frames_T, frames_THWC, strict=True):
                if not contains(frame["window"], crop.stored_window):
                    raise DataError(f"{path} was built with another crop")
                top, _, left, _ = (int(edge) for edge in frame["window"])
                crop.crop_frame(opened.frame(frame), out_HWC, left, top)
        return FaceClip(frames_THWC, crop.landmarks_TN2, crop.box_22)
