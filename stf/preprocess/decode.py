"""Raw videos from strangers → RGB frames. H, W pixels, C = RGB.

The file is opened here and handed to FFmpeg as bytes: a name that looks like an address is a name, and a playlist that
points to other files or hosts is not followed. Sizes are checked before a picture is decoded.
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

# Containers that hold one file's own pictures; no playlist, list of files or picture sequence is among them.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
# A decoder would otherwise paint over what is damaged, and the smear would pass for a frame.
_DECODER = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}


@dataclass(frozen=True)
class VideoHead:
    """What a video says about itself; 0 where it does not say."""

    fps: float
    n_frames: int


class RawVideo:
    """An open video. `problem` says, once `frames` is exhausted, why it ended before the video's own end."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream, self.problem = container, stream, ""
        rate, n_frames = float(stream.average_rate or 0), stream.frames
        if (
            stream.duration and stream.time_base
        ):  # shorter where an edit list trims the video without encoding it anew
            n_frames = min(n_frames, int(float(stream.duration * stream.time_base) * rate + 0.01))
        self.head = VideoHead(rate, n_frames)

    def frames(self, start: int, limit: int) -> Iterator[NDArray[np.uint8]]:
        """(H, W, 3), upright, in the order they are shown: at most `limit` (0: all) from frame `start` on.

        A run without gaps: it ends where a frame cannot be decoded or is of another size than the first.
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
            self.problem = f"cut short: {number} of {self.head.n_frames} frames are there"


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """RGB as a player shows it; phones store their pictures lying and note the turn beside them."""
    picture = np.asarray(frame.to_ndarray(format="rgb24", threads=1), np.uint8)
    quarter_turns = round(frame.rotation / 90)  # anticlockwise, as numpy's
    return np.ascontiguousarray(np.rot90(picture, quarter_turns)) if quarter_turns % 4 else picture


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:80].lower()


def _refuse(url: str, flags: int, options: dict[str, Any]) -> Any:
    raise PermissionError(f"a video may not open {url[:60]!r}")


@contextmanager
def open_video(path: Path) -> Iterator[RawVideo]:
    """Raises DataError, one line, for what is no video file, has no picture, a giant one or an unknown codec."""
    with contextlib.ExitStack() as opened:
        try:
            container = _open(path, opened)
        except (FFmpegError, UnicodeDecodeError) as error:
            what = f"cannot be opened as a video ({_reason(error)})"
            raise DataError(f"{path} {what}; look at it in a player") from None
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
        raise DataError(f"{path} holds no pictures (sound alone?); give a video")
    stream = container.streams.video[0]
    decoder = stream.codec_context
    if decoder is None:
        raise DataError(f"{path} is in a codec that PyAV does not know; convert it to H.264")
    if decoder.width * decoder.height > MAX_PIXELS:
        size, limit = f"{decoder.width}x{decoder.height}", MAX_PIXELS // 1_000_000
        raise DataError(f"{path} says it is {size} pixels; more than {limit} megapixels are not decoded")
    decoder.thread_count = 1  # the videos are spread over processes
    decoder.options = _DECODER
    return stream
