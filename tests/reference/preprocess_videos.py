"""Videos for `preprocess`, and a detector for the discs drawn in them.

A face is a disc of one pure hue; the hue identifies the person and survives H.264. T frames, H, W pixels, RGB.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from stf.preprocess.faces import Face
from tests.conftest import unit_face

SIZE = (120, 160)  # H, W
Spot = tuple[float, float, float, int]  # x, y, radius, person


def draw(frames: Sequence[Sequence[Spot]], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Draws (T, H, W, 3): smooth grey noise, and each frame's people as discs."""
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.normal(120, 30, (*size, 1)).astype(np.float32), (0, 0), 2)
    clip = np.empty((len(frames), *size, 3), np.uint8)
    for t, spots in enumerate(frames):
        clip[t] = np.clip(scene, 60, 180)[..., None]
        for x, y, radius, person in spots:
            colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(person / 3, 1, 1))
            cv2.circle(clip[t], (round(x), round(y)), round(radius), colour, -1)
    return clip


def encode(path: Path, clip_THWC: np.ndarray, codec: str = "libx264", **container: str) -> Path:
    """Writes the clip as a video file at 25 frames per second in good quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.height, stream.width = clip_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "preset": "ultrafast", "g": "8"} if codec == "libx264" else {}
        for frame in clip_THWC:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def sound(path: Path) -> Path:
    """Writes a file with an audio stream only."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        tone.sample_rate = 16000
        out.mux(stream.encode(tone))
        out.mux(stream.encode(None))
    return path


def truncated_mp4(path: Path, share: float, clip_THWC: np.ndarray) -> Path:
    """Writes an MP4 with its index at the start, truncated after `share` of its bytes."""
    encode(path, clip_THWC, movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def playlist(target: Path) -> dict[str, bytes]:
    """Returns files that refer to another file instead of containing pictures."""
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"
    return {
        "playlist": hls.encode(),
        "concat": f"ffconcat version 1.0\nfile '{target}'\n".encode(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "dash": f'<?xml version="1.0"?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>'.encode(),
    }


class HueDetector:
    """Finds discs of a person's hue, at least 3 px in radius; appends one byte per call to `log`."""

    identity = "hues"

    def __init__(self, log: Path | None = None) -> None:
        self.log = log

    def find(self, image_HWC: np.ndarray, near_4: np.ndarray | None) -> list[Face]:
        """Returns every disc, by person."""
        if self.log is not None:
            with self.log.open("ab") as stream:
                stream.write(b".")
        hue, saturation, value = cv2.split(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2HSV))
        faces = []
        for person in range(3):
            distance = np.abs((hue.astype(int) - 60 * person + 90) % 180 - 90)
            ys, xs = np.nonzero((distance < 12) & (saturation > 120) & (value > 120))
            if len(xs) > 28:
                radius = np.sqrt(len(xs) / np.pi)
                x, y = np.median(xs), np.median(ys)
                faces.append(
                    self.align(image_HWC, np.array([x - radius, y - radius, x + radius, y + radius]))
                )
        return faces

    def align(self, image_HWC: np.ndarray, box_4: np.ndarray) -> Face:
        """Returns landmarks that fill the box."""
        centre, half = (box_4[:2] + box_4[2:]) / 2, (box_4[2:] - box_4[:2]) / 2
        return Face(box_4, centre + unit_face() * half)
