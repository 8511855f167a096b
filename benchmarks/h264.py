"""H.264 round trip of one clip in memory against an .mp4 file: python -m benchmarks.h264"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import cv2
import numpy as np

from stf.data.codec import h264_bits, h264_round_trip
from tests.reference.data_codec_plain import round_trip


def moving_clip(n_frames: int, size: int) -> np.ndarray:
    """A textured scene under a moving camera with sensor noise, uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.normal(0, 1, (size + n_frames, size + n_frames, 1)), (0, 0), 3)[..., None]
    frames = np.stack([scene[t : t + size, t : t + size] for t in range(n_frames)])
    noise = rng.normal(0, 2, (*frames.shape[:3], 3))
    return np.clip(128 + 400 * frames + noise, 0, 255).astype(np.uint8)


def best_ms(function: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds of the fastest of several runs; CPU time, so that a busy machine does not count."""
    times_s = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times_s.append(time.process_time() - started)
    return 1000 * min(times_s)


@click.command()
@click.option("--frames", default=32, show_default=True)
@click.option("--size", default=224, show_default=True, help="Height and width in pixels.")
@click.option("--repeats", default=7, show_default=True)
def main(frames: int, size: int, repeats: int) -> None:
    """Times both ways at three QPs and prints their ratio."""
    clip = moving_clip(frames, size)
    for qp in (23, 32, 40):
        ours_ms = best_ms(lambda qp=qp: h264_round_trip(clip, qp), repeats)
        file_ms = best_ms(lambda qp=qp: round_trip(clip, qp, "bgr24"), repeats)
        bits = h264_bits(clip, qp) / clip[..., 0].size
        click.echo(
            f"{frames} x {size} x {size}, QP {qp}: {ours_ms:6.1f} ms in memory, {file_ms:6.1f} ms through an .mp4 "
            f"(ratio {ours_ms / file_ms:.2f}), {bits:.3f} bits per pixel"
        )


if __name__ == "__main__":
    main()
