"""H.264 round trip of one clip in memory against one through an .mp4 file: python -m benchmarks.h264

Both use libx264 ultrafast at constant QP. The file adds swscale's colour conversion and the container. Then the cost of
each part of the round trip, and how much colour conversion alone changes a clip.
"""

from __future__ import annotations

from collections.abc import Callable

import av
import click
import cv2
import numpy as np

from benchmarks.harness import interleaved, print_table
from stf.data.augment.codec import Yuv420, decode_h264, encode_h264, h264_bits, h264_round_trip
from tests.reference.data_codec_plain import round_trip

FILE = "through an .mp4 file"
MEMORY = "in memory"
PART_QP = 32


def moving_clip(n_frames: int, size: int) -> np.ndarray:
    """A textured scene under a moving camera with sensor noise, uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.normal(0, 1, (size + n_frames, size + n_frames, 1)), (0, 0), 3)[..., None]
    frames = np.stack([scene[t : t + size, t : t + size] for t in range(n_frames)])
    noise = rng.normal(0, 2, (*frames.shape[:3], 3))
    return np.clip(128 + 400 * frames + noise, 0, 255).astype(np.uint8)


def round_trips(clip: np.ndarray, qp: int) -> dict[str, Callable[[], object]]:
    """{name: round trip} of both."""
    return {
        FILE: lambda: round_trip(clip, qp, "rgb24"),
        MEMORY: lambda: h264_round_trip(clip, qp, "rgb24"),
    }


def parts(clip: np.ndarray) -> dict[str, Callable[[], object]]:
    """{name: part of the round trip}, and the whole."""
    picture = av.VideoFrame(clip.shape[2], clip.shape[1], "yuv420p")
    into, packets = Yuv420(picture, "rgb24"), encode_h264(clip, PART_QP)

    def convert() -> None:
        for frame in clip:
            into.write(frame)

    return {
        "RGB to yuv420p": convert,
        "RGB to yuv420p, encode": lambda: encode_h264(clip, PART_QP),
        "decode": lambda: [None for _ in decode_h264(packets)],
        MEMORY: round_trips(clip, PART_QP)[MEMORY],
    }


def rms(clip: np.ndarray, other: object) -> float:
    """Root mean square of the difference, in grey levels."""
    return float(np.sqrt(np.square(clip.astype(float) - np.asarray(other)).mean()))


@click.command()
@click.option("--frames", default=32, show_default=True)
@click.option("--size", "sizes", default=(224, 320), show_default=True, multiple=True, help="Pixels; even.")
@click.option("--repeats", default=7, show_default=True)
def main(frames: int, sizes: tuple[int, ...], repeats: int) -> None:
    """Print a table per size and QP, the parts of one round trip, and the error of both round trips at QP 0."""
    cv2.setNumThreads(1)
    for size in sizes:
        clip = moving_clip(frames, size)
        for qp in (23, 32, 40):
            bits = h264_bits(clip, qp) / clip[..., 0].size
            title = f"H.264 of {frames} × {size} × {size}, QP {qp}, {bits:.3f} bits per pixel"
            print_table(title, interleaved(round_trips(clip, qp), repeats), FILE)
        title = f"Parts of it at {size} px, QP {PART_QP}"
        print_table(title, interleaved(parts(clip), repeats), MEMORY)
        for name, round_trip_of in round_trips(clip, 0).items():
            click.echo(
                f"QP 0, {name}: {rms(clip, round_trip_of()):.2f} grey levels (root mean square) from the clip"
            )
        click.echo()


if __name__ == "__main__":
    main()
