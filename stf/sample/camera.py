"""A camera model: lens, exposure, mains flicker, sensor noise, tone curve, H.264. T frames, H, W, C = RGB."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from stf.sample import exact, portable
from stf.sample.performance import FPS

Frames = NDArray[np.uint8]
LENS_BLUR_px = (0.85, 1.1)  # standard deviation, from the best lens to the worst
CHROMA_BLUR_px = 4.0  # cameras smooth colour noise strongly, because the eye is insensitive to it


@dataclass(frozen=True)
class Camera:
    """One camera and its settings, constant over a take."""

    lens_blur_px: float
    vignette: float
    shot_noise: float
    read_noise: float
    grain_px: float
    black: float  # grey levels of black and white: a flat, hazy profile
    white: float
    gains: NDArray[np.float32]
    flicker: float
    flicker_phase: float
    flicker_step: float  # radians per frame: mains frequency against frame rate
    flicker_tilt: float  # radians per row: rolling shutter
    crf: int  # of the recording


def draw_camera(rng: np.random.Generator) -> Camera:
    """Draws a camera, its settings and the mains flicker."""
    noise = float(portable.exp(rng.uniform(math.log(0.2), math.log(0.7))))
    return Camera(
        lens_blur_px=float(rng.uniform(*LENS_BLUR_px)),
        vignette=float(rng.uniform(0.0, 0.22)),
        shot_noise=0.00022 * noise,
        read_noise=0.0012 * noise,
        grain_px=float(rng.uniform(0.45, 0.7)),
        black=float(rng.uniform(30, 44)),
        white=float(rng.uniform(188, 202)),
        gains=(1 + rng.normal(0, 0.025, 3)).astype(np.float32),
        flicker=float(rng.uniform(0.003, 0.03)),
        flicker_phase=float(rng.uniform(0, 2 * np.pi)),
        flicker_step=float(rng.normal(0, 0.5)),
        flicker_tilt=float(rng.uniform(0.005, 0.03)),
        crf=int(rng.integers(18, 22)),
    )


def expose(camera: Camera, light_HWC: NDArray[np.float32], t: int, rng: np.random.Generator) -> Frames:
    """Exposes linear light as one 8-bit picture (H, W, 3), with signal-dependent (photon) noise."""
    height, width = light_HWC.shape[:2]
    picture = exact.gaussian_blur(light_HWC, camera.lens_blur_px)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None]
    mains = portable.sin(camera.flicker_phase + camera.flicker_step * t + camera.flicker_tilt * y)
    corner = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) * 2
    gain = (1 + camera.flicker * mains) * (1 - camera.vignette * corner)
    picture = np.clip(picture * gain[..., None].astype(np.float32) * camera.gains, 0, None)
    deviation = np.sqrt(camera.shot_noise * picture + camera.read_noise**2)
    grain = exact.gaussian_blur(rng.standard_normal(picture.shape, dtype=np.float32), camera.grain_px)
    picture = np.clip(picture + deviation * grain, 0, 1)
    coded = portable.power(picture, np.float32(1 / 2.2))
    levels = np.round(camera.black + coded * (camera.white - camera.black)).astype(np.uint8)
    luma_chroma = cv2.cvtColor(levels, cv2.COLOR_RGB2YCrCb)
    luma_chroma[..., 1:] = cv2.GaussianBlur(luma_chroma[..., 1:], (0, 0), CHROMA_BLUR_px)
    return np.asarray(cv2.cvtColor(luma_chroma, cv2.COLOR_YCrCb2RGB), np.uint8)


def h264(frames_THWC: Frames, crf: int) -> Frames:
    """Encodes and decodes frames of even size with libx264 at `crf` (23 is FF++'s c23), 4:2:0, one thread."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = frames_THWC.shape[2], frames_THWC.shape[1], "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FPS), Fraction(1, FPS)
    encoder.thread_count = 1
    # Without mbtree: libx264's macroblock tree reads uninitialised memory, so equal clips gave different bytes.
    encoder.options = {"preset": "medium", "crf": str(crf), "mbtree": "0"}
    packets: list[av.Packet] = []
    for t, frame in enumerate(frames_THWC):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p", threads=1)
        picture.pts = t
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    decoded = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
    out = np.empty_like(frames_THWC)
    for t, frame in enumerate(decoded):
        out[t] = frame.to_ndarray(format="rgb24", threads=1)
    return out
