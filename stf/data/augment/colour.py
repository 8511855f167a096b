"""Colour, sharpening and JPEG transforms of SBI, through albumentations 2.0.8, which no other file imports.

A draw consists of integer seeds, so every frame of a clip and both members of a pair get the same random numbers.
T frames, H, W pixels, C = 3 channels, RGB uint8.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.augmentations import RandomDownScale

# Otherwise it checks for updates on import, which takes 13 s behind a firewall that drops packets.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

Frames = NDArray[np.uint8]
Applied = tuple[A.ImageOnlyTransform, dict[str, Any]]
ROW = 1024  # a multiple of every SIMD vector length
HUES = 180  # number of hues in OpenCV's uint8 HSV


@dataclass(frozen=True)
class SourceDraw:
    """One clip's source transform: two seeds, and a down-scaling ratio (None: sharpen instead)."""

    colour_seed: int
    sharpen_seed: int
    ratio: int | None


@dataclass(frozen=True)
class TrainDraw:
    """One clip's train transforms: two seeds, so that colour and JPEG are drawn independently."""

    colour_seed: int
    jpeg_seed: int


class SourceTransform:
    """SBI's difference between source and target: colour, then down-scaling or sharpening with equal probability.

    RGB shift ±20 with p = .3; hue, saturation and value ±.3 as in SBI, which on uint8 is the HSV round trip and a
    change of at most one unit; brightness and contrast ±.1.
    """

    def sample(self, rng: np.random.Generator) -> SourceDraw:
        """Draws once for the whole clip."""
        ratio = RandomDownScale().sample(rng) if rng.random() < 0.5 else None
        return SourceDraw(*_seeds(rng), ratio)

    def apply(self, frames_THWC: Frames, draw: SourceDraw) -> Frames:
        """uint8 RGB in and out, same shape."""
        if draw.ratio is None:
            coloured = _pointwise(_source_colour(), draw.colour_seed, frames_THWC)
            return _per_frame(_sharpen(), draw.sharpen_seed, coloured)
        # colour transforms work pixel by pixel, so pixels that down-scaling drops are not computed
        small = _pointwise(
            _source_colour(), draw.colour_seed, RandomDownScale().down(frames_THWC, draw.ratio)
        )
        return RandomDownScale().up(small, *frames_THWC.shape[1:3])


class TrainTransform:
    """SBI's train transforms: RGB shift ±20, HSV and brightness/contrast ±.3, p .3; JPEG 40-100, p .5."""

    def sample(self, rng: np.random.Generator) -> TrainDraw:
        """Draws once for both members of a pair."""
        return TrainDraw(*_seeds(rng))

    def apply(self, frames_THWC: Frames, draw: TrainDraw) -> Frames:
        """uint8 RGB in and out, same shape; apply it to each member with the same draw."""
        coloured = _pointwise(_train_colour(), draw.colour_seed, frames_THWC)
        return _per_frame(_jpeg(), draw.jpeg_seed, coloured)


def _seeds(rng: np.random.Generator) -> tuple[int, int]:
    first, second = rng.integers(2**31, size=2)
    return int(first), int(second)


class _RGBShift(A.RGBShift):
    """albumentations' RGBShift, applied to all channels at once instead of through one table per channel."""

    def apply(self, img: Frames, noise_map: np.ndarray, **params: Any) -> Frames:
        """Adds `noise_map`, a shift per channel truncated to whole units, and clips."""
        up, down = (np.append(np.trunc(part).clip(0), 0) for part in (noise_map, -noise_map))
        return np.asarray(cv2.subtract(cv2.add(img, up), down), np.uint8)


class _HueSaturationValue(A.HueSaturationValue):
    """albumentations' HueSaturationValue for SBI's limits of ±.3: skips the parts that cannot change a uint8.

    Takes a third of the time.
    """

    def apply(
        self, img: Frames, hue_shift: float, sat_shift: float, val_shift: float, **params: Any
    ) -> Frames:
        """Converts to HSV and back; a negative hue shift lowers the hue by 1, every other shift rounds to 0."""
        hsv = np.asarray(cv2.cvtColor(img, cv2.COLOR_RGB2HSV), np.uint8)
        if hue_shift < 0:
            hue = np.asarray(cv2.extractChannel(hsv, 0), np.uint8)
            hue -= 1  # 0 wraps to 255, which becomes the last hue
            cv2.insertChannel(np.minimum(hue, HUES - 1), hsv, 0)
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def _colour(p_shift: float, p_hsv: float, p_brightness: float, limit: float) -> A.Compose:
    return A.Compose(
        [
            _RGBShift((-20, 20), (-20, 20), (-20, 20), p=p_shift),
            _HueSaturationValue((-0.3, 0.3), (-0.3, 0.3), (-0.3, 0.3), p=p_hsv),
            A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=p_brightness),
        ]
    )


# Built once per process: building one takes as long as changing the brightness of a clip.
@functools.cache
def _source_colour() -> A.Compose:
    return _colour(0.3, 1.0, 1.0, 0.1)


@functools.cache
def _train_colour() -> A.Compose:
    return _colour(0.3, 0.3, 0.3, 0.3)


@functools.cache
def _sharpen() -> A.Compose:
    return A.Compose([A.Sharpen(alpha=(0.2, 0.5), lightness=(0.5, 1.0), p=1)])


@functools.cache
def _jpeg() -> A.Compose:
    return A.Compose([A.ImageCompression(quality_range=(40, 100), p=0.5)])  # quality_lower is ignored by 2.x


def _pointwise(compose: A.Compose, seed: int, frames_THWC: Frames) -> Frames:
    """Applies pixel-by-pixel transforms; each frame is reshaped to rows of ROW pixels, the last one padded.

    cv2's HSV conversions round differently in the last columns, which do not fill a SIMD vector. A pixel's colour would
    depend on the width of the picture, and a part of a frame would differ from the same part of the whole frame.
    """
    applied = _draw_transforms(compose, seed)
    if not applied:
        return frames_THWC
    n_pixels = frames_THWC.shape[1] * frames_THWC.shape[2]
    rows = np.zeros((-(-n_pixels // ROW), ROW, 3), np.uint8)
    frame_in_rows = _first_pixels(rows, frames_THWC.shape[1:])
    out = np.empty_like(frames_THWC, order="C")
    for t, frame in enumerate(frames_THWC):
        frame_in_rows[:] = frame
        out[t] = _first_pixels(_apply_all(applied, rows), frame.shape)
    return out


def _first_pixels(rows: Frames, shape: tuple[int, ...]) -> Frames:
    height, width, channels = shape
    return rows.reshape(-1, channels)[: height * width].reshape(shape)


def _per_frame(compose: A.Compose, seed: int, frames_THWC: Frames) -> Frames:
    """Applies transforms that depend on a pixel's neighbours, frame by frame."""
    applied = _draw_transforms(compose, seed)
    if not applied:
        return frames_THWC
    out = np.empty_like(frames_THWC, order="C")
    for t, frame in enumerate(frames_THWC):
        out[t] = _apply_all(applied, np.ascontiguousarray(frame))
    return out


def _draw_transforms(compose: A.Compose, seed: int) -> list[Applied]:
    """Returns the transforms that a seed selects, with their drawn parameters; draws them on a one-pixel image."""
    compose.set_random_seed(seed)
    compose(image=np.zeros((1, 1, 3), np.uint8))
    transforms = [transform for transform in compose if isinstance(transform, A.ImageOnlyTransform)]
    return [(transform, params) for transform in transforms if (params := transform.get_applied_params())]


def _apply_all(applied: list[Applied], picture: Frames) -> Frames:
    """Applies all transforms to one picture, which stays in the CPU's cache; a whole clip would not."""
    for transform, params in applied:
        picture = transform.apply(picture, **params)
    return picture
