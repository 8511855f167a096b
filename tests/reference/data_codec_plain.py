"""Slow plain twin of stf.data.codec: a whole .mp4 in memory, muxed, demuxed and decoded by the container API."""

import io

import av
import numpy as np


def mp4_bytes(frames_THWC: np.ndarray, qp: int, pixel_format: str) -> bytes:
    """The clip as an .mp4 file; height and width must be even."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {"preset": "ultrafast", "qp": str(qp), "bf": "0"}
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=pixel_format)))
        container.mux(stream.encode(None))
    return file.getvalue()


def round_trip(frames_THWC: np.ndarray, qp: int, pixel_format: str) -> np.ndarray:
    """What a player shows of that file."""
    with av.open(io.BytesIO(mp4_bytes(frames_THWC, qp, pixel_format))) as container:
        return np.stack([frame.to_ndarray(format=pixel_format) for frame in container.decode(video=0)])
