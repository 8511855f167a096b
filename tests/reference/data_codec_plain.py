"""Slow, plain reference of augment.codec: an .mp4 file in memory, muxed, demuxed and decoded by the container API."""

import io
from collections.abc import Iterable

import av
import numpy as np

# BT.601's luma weights; the rest of the colour conversion follows from them.
RED, BLUE = 0.299, 0.114


def mp4_bytes(pictures: Iterable[av.VideoFrame], height: int, width: int, qp: int) -> bytes:
    """Encodes the pictures as an .mp4 file, RGB converted by swscale's defaults; height and width must be even."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {"preset": "ultrafast", "qp": str(qp), "bf": "0"}
        for picture in pictures:
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue()


def decode_mp4(file: bytes, pixel_format: str) -> np.ndarray:
    """Decodes the file as a player does, (T, H, W, 3)."""
    with av.open(io.BytesIO(file), "r") as container:
        container.streams.video[0].codec_context.thread_count = 1
        decoded = container.decode(video=0)
        return np.stack([frame.to_ndarray(format=pixel_format, threads=1) for frame in decoded])


def round_trip(frames_THWC: np.ndarray, qp: int, pixel_format: str) -> np.ndarray:
    """Encodes and decodes the clip through an .mp4 file written by FFmpeg."""
    pictures = (av.VideoFrame.from_ndarray(frame, format=pixel_format) for frame in frames_THWC)
    _, height, width, _ = frames_THWC.shape
    return decode_mp4(mp4_bytes(pictures, height, width, qp), pixel_format)


def yuv420(rgb_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns BT.601's (Y, Cb, Cr) before rounding, limited range, chroma at half size as the mean of 2×2 pixels."""
    red, green, blue = np.moveaxis(rgb_HWC / 255.0, -1, 0)
    luma = RED * red + (1 - RED - BLUE) * green + BLUE * blue
    half = luma.shape[0] // 2, 2, luma.shape[1] // 2, 2
    cb, cr = (
        128 + 224 * ((colour - luma) / (2 * (1 - weight))).reshape(half).mean((1, 3))
        for colour, weight in ((blue, BLUE), (red, RED))
    )
    return 16 + 219 * luma, cb, cr
