"""H.264 in memory through PyAV, as every platform compresses videos. T frames, H, W pixels, C = 3 channels.

Constant QP, libx264 ultrafast with CABAC, yuv420p, one keyframe at the start, no B-frames. One thread, so that equal
input gives equal bytes.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

import av
import cv2
import numpy as np
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from stf.errors import DataError

Frames = NDArray[np.uint8]
PixelFormat = Literal["bgr24", "rgb24"]
ENCODER = "libx264"
FRAME_RATE = 25
MAX_QP = 51
# x264's default, which platforms leave as it is: a clip has one keyframe, its first frame.
KEYFRAME_INTERVAL = 250
# RGB in 0..255 and 1 → Y in 16..235, Cb and Cr in 16..240 (ITU-R BT.601-7, sections 2.5.1 to 2.5.3).
BT601 = np.array(
    [
        [65.481, 128.553, 24.966, 16 * 255],
        [-37.797, -74.203, 112.0, 128 * 255],
        [112.0, -93.786, -18.214, 128 * 255],
    ],
    np.float32,
) / np.float32(255)
_fallback_clips = 0


class FallbackWarning(UserWarning):
    """JPEG replaced H.264: the detector is trained on another codec than the one of its test videos."""


def fallback_count() -> int:
    """Returns how many clips of this process were compressed as JPEG because no H.264 encoder could be opened."""
    return _fallback_clips


def h264_round_trip(frames_THWC: Frames, qp: int, pixel_format: PixelFormat = "bgr24") -> Frames:
    """Encodes and decodes the frames at constant QP (0 best, 51 worst); same shape, uint8.

    Odd sizes are padded by repeating the edge, because 4:2:0 needs even ones, and cropped again. Without an encoder:
    JPEG per frame, one FallbackWarning, counted by `fallback_count`. Raises DataError for frames of another shape or
    type, or a QP out of range.
    """
    _check(frames_THWC, qp)
    if not encoder_works():
        return _jpeg_fallback(frames_THWC, qp)
    height, width = frames_THWC.shape[1:3]
    out, to_rgb = np.empty_like(frames_THWC, order="C"), VideoReformatter()
    decoded = decode_h264(encode_h264(frames_THWC, qp, pixel_format))
    for frame_HWC, picture in zip(out, decoded, strict=True):
        rows = _rows(to_rgb.reformat(picture, format=pixel_format, threads=1).planes[0])
        frame_HWC[:] = rows[:height, : 3 * width].reshape(height, width, 3)
    return out


def h264_bits(frames_THWC: Frames, qp: int, pixel_format: PixelFormat = "rgb24") -> int:
    """Returns the size in bits of the stream that `h264_round_trip` decodes; raises DataError without an encoder."""
    _check(frames_THWC, qp)
    if not encoder_works():
        raise DataError(
            f"the bitrate cannot be measured: PyAV cannot open {ENCODER}; install the av wheel of requirements.lock"
        )
    return 8 * sum(packet.size for packet in encode_h264(frames_THWC, qp, pixel_format))


def encode_h264(frames_THWC: Frames, qp: int, pixel_format: PixelFormat = "rgb24") -> list[av.Packet]:
    """Encodes the frames, yuv420p: one packet per frame, Annex B."""
    height, width = (side + side % 2 for side in frames_THWC.shape[1:3])
    encoder, packets = _open_encoder(height, width, qp), []
    # One picture for the whole clip: x264 copies what it is given before `encode` returns.
    picture = av.VideoFrame(width, height, "yuv420p")
    converter = Yuv420(picture, pixel_format)
    for t, frame in enumerate(frames_THWC):
        converter.write(frame)
        picture.pts = t
        packets += encoder.encode(picture)
    return packets + encoder.encode(None)


class Yuv420:
    """Writes RGB or BGR frames into a yuv420p picture: BT.601, limited range, chroma as the mean of 2×2 pixels.

    This mean best inverts the chroma upsampling of players (swscale among them), which repeat each sample; swscale's
    own default for downsampling, a bicubic filter along columns, differs from it by up to 3 levels. Within .8 levels of
    exact arithmetic.
    """

    def __init__(self, picture: av.VideoFrame, pixel_format: PixelFormat) -> None:
        """`picture` must have an even height and width."""
        self.height, self.width = height, width = picture.height, picture.width
        self.y, self.u, self.v = (_rows(plane)[:, : plane.width] for plane in picture.planes)
        self.to_yuv = cv2.COLOR_RGB2YUV_I420 if pixel_format == "rgb24" else cv2.COLOR_BGR2YUV_I420
        self.matrix = BT601[:, [0, 1, 2, 3] if pixel_format == "rgb24" else [2, 1, 0, 3]]
        # Scratch buffers that stay in the CPU's cache; allocating new ones would cost more than the arithmetic.
        self.i420 = np.empty((height * 3 // 2, width), np.uint8)
        self.half, self.chroma = np.empty((2, height // 2, width // 2, 3), np.uint8)

    def write(self, frame_HWC: Frames) -> None:
        """Overwrites the picture with the frame; a missing row or column is padded by repeating the edge."""
        short = self.height - frame_HWC.shape[0], self.width - frame_HWC.shape[1]
        even = np.ascontiguousarray(frame_HWC)
        if any(short):
            even = cv2.copyMakeBorder(even, 0, short[0], 0, short[1], cv2.BORDER_REPLICATE)
        # OpenCV's I420 samples the chroma at one pixel of four, which aliases: only its luma is used.
        cv2.cvtColor(even, self.to_yuv, dst=self.i420)
        self.y[:] = self.i420[: self.height]
        size = (self.width // 2, self.height // 2)
        cv2.resize(even, size, dst=self.half, interpolation=cv2.INTER_AREA)
        cv2.transform(self.half, self.matrix, dst=self.chroma)
        cv2.extractChannel(self.chroma, 1, dst=self.u)
        cv2.extractChannel(self.chroma, 2, dst=self.v)


def _rows(plane: VideoPlane) -> NDArray[np.uint8]:
    """Returns a view of a plane's bytes, (height, bytes per line), padding included."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)


def decode_h264(packets: list[av.Packet]) -> Iterator[av.VideoFrame]:
    """Yields the decoded frames, yuv420p."""
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    for packet in [*packets, None]:
        yield from decoder.decode(packet)


@functools.cache
def encoder_works() -> bool:
    """Tells whether PyAV can open libx264; checked once per process, with a FallbackWarning if it cannot."""
    try:
        _open_encoder(16, 16, 30).open()
    except (UnknownCodecError, FFmpegError) as error:
        message = (
            f"PyAV cannot open {ENCODER} ({error}): clips are compressed as JPEG per frame INSTEAD OF H.264; "
            "install the av wheel of requirements.lock"
        )
        warnings.warn(message, FallbackWarning, stacklevel=3)
        return False
    return True


def _open_encoder(height: int, width: int, qp: int) -> VideoCodecContext:
    encoder = av.CodecContext.create(ENCODER, "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FRAME_RATE), Fraction(1, FRAME_RATE)
    encoder.thread_count = 1
    # CABAC, as platforms use; ultrafast's default CAVLC gives the same pictures, but building its tables takes 1.3 ms.
    options = {"preset": "ultrafast", "coder": "ac", "bf": "0", "g": str(KEYFRAME_INTERVAL)}
    encoder.options = {**options, "qp": str(qp)}
    return encoder


def _check(frames_THWC: Frames, qp: int) -> None:
    if (
        frames_THWC.dtype != np.uint8
        or frames_THWC.ndim != 4
        or frames_THWC.shape[-1] != 3
        or not frames_THWC.size
    ):
        raise DataError(
            f"H.264 needs uint8 frames (T, H, W, 3), got {frames_THWC.dtype} {frames_THWC.shape}; "
            "compress the clip before converting it to float"
        )
    if not 0 <= qp <= MAX_QP:
        raise DataError(f"H.264: QP is {qp}; set sbi.compression_qp_range within 0 to {MAX_QP}")


def _jpeg_fallback(frames_THWC: Frames, qp: int) -> Frames:
    """Compresses each frame as JPEG; the quality falls from 95 at QP 18 to 10 at QP 51."""
    global _fallback_clips
    _fallback_clips += 1
    quality = int(np.clip(round(95 - (qp - 18) * 85 / 33), 1, 100))
    out = np.empty_like(frames_THWC, order="C")
    for t, frame in enumerate(frames_THWC):
        written, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not written:
            raise DataError(f"frame {t} of a clip of shape {frames_THWC.shape} cannot be encoded as JPEG")
        out[t] = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return out
