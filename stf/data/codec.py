"""H.264 in memory through PyAV: what every platform does to a video. T frames, H, W pixels, C = 3 channels.

Constant QP, libx264 ultrafast, yuv420p, a keyframe at the head, no B-frames, one thread: same bytes always.
"""

from __future__ import annotations

import functools
import warnings
from fractions import Fraction
from typing import Literal

import av
import cv2
import numpy as np
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from stf.errors import DataError

Frames = NDArray[np.uint8]
PixelFormat = Literal["bgr24", "rgb24"]
ENCODER = "libx264"
FRAME_RATE = 25
MAX_QP = 51
# x264's own interval, which platforms leave as it is: a clip holds one keyframe, at its head.
KEYFRAME_INTERVAL = 250
_fallback_clips = 0


class FallbackWarning(UserWarning):
    """H.264 was asked for and JPEG was used: the detector learns another codec than the one it will meet."""


def fallback_count() -> int:
    """Clips of this process that were compressed by JPEG because no H.264 encoder could be opened."""
    return _fallback_clips


def h264_round_trip(frames_THWC: Frames, qp: int, pixel_format: PixelFormat = "bgr24") -> Frames:
    """The frames after encoding and decoding at constant QP (0 best, 51 worst); same shape, uint8.

    Odd sizes are padded by their edge, since 4:2:0 needs even ones, and cut back. Without an encoder: JPEG
    per frame, one FallbackWarning, `fallback_count`. Raises DataError for other frames or another QP.
    """
    _check(frames_THWC, qp)
    if not encoder_works():
        return _jpeg_fallback(frames_THWC, qp)
    decoded = decode_h264(encode_h264(frames_THWC, qp, pixel_format))
    height, width = frames_THWC.shape[1:3]
    out = np.empty_like(frames_THWC, order="C")
    for t, frame in enumerate(decoded):
        out[t] = frame.to_ndarray(format=pixel_format, threads=1)[:height, :width]
    return out


def h264_bits(frames_THWC: Frames, qp: int, pixel_format: PixelFormat = "rgb24") -> int:
    """Bits of the stream that `h264_round_trip` decodes; raises DataError when there is no encoder."""
    _check(frames_THWC, qp)
    if not encoder_works():
        raise DataError(
            f"no bitrate without {ENCODER}: PyAV cannot open it; install the av wheel of requirements.lock"
        )
    return 8 * sum(packet.size for packet in encode_h264(frames_THWC, qp, pixel_format))


def encode_h264(frames_THWC: Frames, qp: int, pixel_format: PixelFormat = "rgb24") -> list[av.Packet]:
    """One packet per frame, Annex B, yuv420p."""
    height, width = frames_THWC.shape[1:3]
    pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    padded = np.pad(frames_THWC, pad, mode="edge") if height % 2 or width % 2 else frames_THWC
    encoder = _open_encoder(padded.shape[1], padded.shape[2], qp)
    packets: list[av.Packet] = []
    for t, frame in enumerate(np.ascontiguousarray(padded)):
        picture = av.VideoFrame.from_ndarray(frame, format=pixel_format).reformat(format="yuv420p", threads=1)
        picture.pts = t
        packets += encoder.encode(picture)
    return packets + encoder.encode(None)


def decode_h264(packets: list[av.Packet]) -> list[av.VideoFrame]:
    """The decoder's own frames, in yuv420p."""
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    frames = [frame for packet in packets for frame in decoder.decode(packet)]
    return frames + decoder.decode(None)


@functools.cache
def encoder_works() -> bool:
    """Whether this PyAV can open libx264 at all; asked once per process."""
    try:
        _open_encoder(16, 16, 30).open()
    except (UnknownCodecError, FFmpegError) as error:
        what = (
            f"PyAV cannot open {ENCODER} ({error}): clips are compressed as JPEG per frame INSTEAD OF H.264"
        )
        warnings.warn(f"{what}; install the av wheel of requirements.lock", FallbackWarning, stacklevel=3)
        return False
    return True


def _open_encoder(height: int, width: int, qp: int) -> VideoCodecContext:
    encoder = av.CodecContext.create(ENCODER, "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FRAME_RATE), Fraction(1, FRAME_RATE)
    encoder.thread_count = 1
    encoder.options = {"preset": "ultrafast", "qp": str(qp), "bf": "0", "g": str(KEYFRAME_INTERVAL)}
    return encoder


def _check(frames_THWC: Frames, qp: int) -> None:
    if (
        frames_THWC.dtype != np.uint8
        or frames_THWC.ndim != 4
        or frames_THWC.shape[-1] != 3
        or not frames_THWC.size
    ):
        what = f"{frames_THWC.dtype} {frames_THWC.shape}"
        raise DataError(
            f"H.264 needs uint8 frames (T, H, W, 3), got {what}; pass the clip before it becomes float"
        )
    if not 0 <= qp <= MAX_QP:
        raise DataError(f"H.264 has QP 0 to {MAX_QP}, got {qp}; see sbi.compression_qp_range")


def _jpeg_fallback(frames_THWC: Frames, qp: int) -> Frames:
    """JPEG per frame; its quality falls from 95 at QP 18 to 10 at QP 51."""
    global _fallback_clips
    _fallback_clips += 1
    quality = int(np.clip(round(95 - (qp - 18) * 85 / 33), 1, 100))
    out = np.empty_like(frames_THWC, order="C")
    for t, frame in enumerate(frames_THWC):
        written, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not written:
            raise DataError(f"frame {t} of a clip of shape {frames_THWC.shape} cannot be written as JPEG")
        out[t] = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return out
