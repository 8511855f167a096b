"""Face crops of the training videos, decoded once: clips read from here are bit for bit those read from the PNGs.

    {folder}/{fingerprint}-{quality}-{num_frames}-{format}/{video id}.faces

The folder's name holds all that its contents depend on, so other data or another clip length never meets a stale file.
Each file is whole or absent (face_cache_file). What the cache does not serve, for instance a clip with a frame that
cannot be read, is left to `read_face_clip`, so that the same clips fail for the same causes as without a cache.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stf.config import DataParams
from stf.data.cache.file import FORMAT, OpenedFile, check_file, covers
from stf.data.face_clip import FaceClip, FaceCut, read_face_clip
from stf.data.video import Video
from stf.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FaceCache:
    """Where the crops of one data set lie, for one clip length."""

    folder: Path
    num_frames: int
    allow_strided: bool

    @classmethod
    def of(cls, root: Path, data: DataParams, fingerprint: str) -> FaceCache:
        """The cache below `root` that belongs to data with this fingerprint."""
        strided = "-strided" if data.allow_strided else ""
        name = f"{fingerprint[:32]}-{data.quality}-{data.num_frames}{strided}-{FORMAT}"
        return cls(root / name, data.num_frames, data.allow_strided)

    def path(self, video: Video) -> Path:
        """The video's file, whether it exists or not."""
        return self.folder / f"{video.video_id}.faces"

    def missing(self, videos: Sequence[Video]) -> list[Video]:
        """The videos without a whole file."""
        return [v for v in videos if not check_file(self.path(v), len(v.frame_paths), self.num_frames)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Waits until no other process builds here; clears what an interrupted one left."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock_file = open(self.folder / ".lock", "w", encoding="ascii")  # noqa: SIM115 - closed below
        except OSError as error:
            raise DataError(
                f"runtime.face_cache: {self.folder} cannot be written: {error.strerror or error}; give another folder, "
                "or none, to read the PNGs"
            ) from None
        with lock_file as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self.folder.glob("*.part"):
                left.unlink(missing_ok=True)
            yield

    def read(self, video: Video, start: int, num_frames: int, flip: bool = False) -> FaceClip:
        """What `read_face_clip` gives, bit for bit, or raises; from the cache where it serves this clip.

        A file that is gone or damaged is told in the log, and the clip comes from the PNGs.
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
                raise DataError(f"{path} was made for another video or clip length")
            found = opened.clip(start)
            if found is None:
                return None
            track, frames_T = found
            cut = FaceCut.plan(track, opened.height, opened.width, flip)
            frames_THWC = cut.empty_frames()
            for frame, out_HWC in zip(frames_T, frames_THWC, strict=True):
                if not covers(frame["window"], cut.stored):
                    raise DataError(f"{path} was made with another crop")
                top, _, left, _ = (int(edge) for edge in frame["window"])
                cut.copy(opened.frame(frame), out_HWC, left, top)
        return FaceClip(frames_THWC, cut.landmarks_TN2, cut.box_22)
