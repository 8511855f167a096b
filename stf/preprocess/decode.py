"""Decodes untrusted raw videos to RGB frames. H, W pixels, C = RGB.

The file is opened here and passed to FFmpeg as a stream: a file name that looks like a URL is never opened as one, and
a playlist that points to other files or hosts is not followed. The picture's size is checked before decoding.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stf.data.png import MAX_PIXELS
from stf.errors import DataError
from stf.io.files import open_regular

# Containers that store their own pictures; playlists, file lists and image sequences are excluded.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
# Otherwise a decoder conceals damage and returns smeared frames as if they were good.
_DECODER = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}


@dataclass(frozen=True)
class VideoHead:
    """A video's own metadata; 0 where it is missing."""

    fps: float
    n_frames: int


class RawVideo:
    """An open video. Once `frames` is exhausted, `problem` says why it stopped early; "" if it did not."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream, self.problem = container, stream, ""
        rate, n_frames = float(stream.average_rate or 0), stream.frames
        if stream.duration and stream.time_base:  # an edit list may trim the video without re-encoding it
            n_frames = min(n_frames, int(float(stream.duration * stream.time_base) * rate + 0.01))
        self.head = VideoHead(rate, n_frames)

    def frames(self, start: int, limit: int) -> Iterator[NDArray[np.uint8]]:
        """Yields upright frames (H, W, 3) in display order: at most `limit` (0: all) from frame `start` on.

        There are no gaps: it stops at the first frame that cannot be decoded or changes size.
        """
        number, size = 0, None
        try:
            for frame in self._container.decode(self._stream):
                if frame.is_corrupt:
                    self.problem = f"damaged from frame {number} on"
                    return
                if size not in (None, (frame.width, frame.height)):
                    self.problem = f"the picture's size changes at frame {number}"
                    return
                size = frame.width, frame.height
                if number >= start:
                    yield _upright(frame)
                number += 1
                if limit and number >= start + limit:
                    return
        except (FFmpegError, OSError, UnicodeDecodeError, MemoryError) as error:
            self.problem = f"damaged from frame {number} on ({_reason(error)})"
            return
        if number < self.head.n_frames:
            self.problem = f"truncated: contains {number} of {self.head.n_frames} frames"


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Converts to RGB and rotates as a player does; phones store sideways pictures and a rotation."""
    picture = np.asarray(frame.to_ndarray(format="rgb24", threads=1), np.uint8)
    quarter_turns = round(frame.rotation / 90)  # anticlockwise, as numpy's
    return np.ascontiguousarray(np.rot90(picture, quarter_turns)) if quarter_turns % 4 else picture


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:80].lower()


def _refuse(url: str, flags: int, options: dict[str, Any]) -> Any:
    raise PermissionError(f"a video may not open {url[:60]!r}")


@contextmanager
def open_video(path: Path) -> Iterator[RawVideo]:
    """Opens a video; raises DataError for a file that is no video, or one with no, too large or unknown pictures."""
    with contextlib.ExitStack() as opened:
        try:
            container = _open(path, opened)
        except (FFmpegError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} cannot be opened as a video ({_reason(error)}); check that it plays, or convert it to MP4"
            ) from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
        yield RawVideo(container, _picture_stream(path, container))


def _open(path: Path, opened: contextlib.ExitStack) -> InputContainer:
    stream = opened.enter_context(open_regular(path))
    if not os.fstat(stream.fileno()).st_size:
        raise DataError(f"{path} is empty; copy or download it again")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
    return opened.enter_context(av.open(stream, "r", options=options, io_open=_refuse))


def _picture_stream(path: Path, container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise DataError(f"{path} has no video stream (audio only?); give a video file")
    stream = container.streams.video[0]
    decoder = stream.codec_context
    if decoder is None:
        raise DataError(f"{path} uses a codec that PyAV does not support; convert it to H.264")
    if decoder.width * decoder.height > MAX_PIXELS:
        size, limit = f"{decoder.width}x{decoder.height}", MAX_PIXELS // 1_000_000
        raise DataError(f"{path} has {size} pixels, more than the limit of {limit} megapixels; scale it down")
    decoder.thread_count = 1  # the videos are spread over processes
    decoder.options = _DECODER
    return stream
