"""Colour, sharpening and JPEG transforms of SBI, through albumentations 2.0.8, which no other file imports.

A draw holds integer seeds: every frame of a clip, and both members of a pair, get the same random numbers.
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

# It phones home on import otherwise: 13 s where packets are dropped.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

Frames = NDArray[np.uint8]
Applied = tuple[A.ImageOnlyTransform, dict[str, Any]]
ROW = 1024  # a multiple of every vector's length
HUES = 180  # of OpenCV's HSV in uint8


@dataclass(frozen=True)
class SourceDraw:
    """One clip's source transform: two seeds, and a down-scaling ratio (None: sharpened instead)."""

    colour_seed: int
    sharpen_seed: int
    ratio: int | None


@dataclass(frozen=True)
class TrainDraw:
    """One clip's train transforms: two seeds, lest the colour's numbers decide the JPEG's."""

    colour_seed: int
    jpeg_seed: int


class SourceTransform:
    """SBI's difference between source and target: colour, then down-scaling or sharpening with equal chance.

    RGB shift ±20 with p = .3; hue, saturation, value ±.3, as in SBI: on uint8 that is the HSV round trip and
    at most one unit; brightness and contrast ±.1.
    """

    def sample(self, rng: np.random.Generator) -> SourceDraw:
        """One draw for the whole clip."""
        ratio = RandomDownScale().sample(rng) if rng.random() < 0.5 else None
        return SourceDraw(*_seeds(rng), ratio)

    def apply(self, frames_THWC: Frames, draw: SourceDraw) -> Frames:
        """uint8 RGB in and out, same shape."""
        if draw.ratio is None:
            coloured = _pointwise(_source_colour(), draw.colour_seed, frames_THWC)
            return _per_frame(_sharpen(), draw.sharpen_seed, coloured)
        # colour looks at single pixels, so those that down-scaling drops need none
        few = _pointwise(_source_colour(), draw.colour_seed, RandomDownScale().down(frames_THWC, draw.ratio))
        return RandomDownScale().up(few, *frames_THWC.shape[1:3])


class TrainTransform:
    """SBI's train transforms: RGB shift ±20, HSV and brightness/contrast ±.3, p .3; JPEG 40-100, p .5."""

    def sample(self, rng: np.random.Generator) -> TrainDraw:
        """One draw for both members of a pair."""
        return TrainDraw(*_seeds(rng))

    def apply(self, frames_THWC: Frames, draw: TrainDraw) -> Frames:
        """uint8 RGB in and out, same shape; apply it to each member with the same draw."""
        coloured = _pointwise(_train_colour(), draw.colour_seed, frames_THWC)
        return _per_frame(_jpeg(), draw.jpeg_seed, coloured)


def _seeds(rng: np.random.Generator) -> tuple[int, int]:
    first, second = rng.integers(2**31, size=2)
    return int(first), int(second)


class _RGBShift(A.RGBShift):
    """The library's, added to all channels at once: it would look each up in a table of its own."""

    def apply(self, img: Frames, noise_map: np.ndarray, **params: Any) -> Frames:
        """Adds `noise_map`, a shift per channel cut to whole units, and clips."""
        up, down = (np.append(np.trunc(part).clip(0), 0) for part in (noise_map, -noise_map))
        return np.asarray(cv2.subtract(cv2.add(img, up), down), np.uint8)


class _HueSaturationValue(A.HueSaturationValue):
    """The library's with SBI's limits of ±.3, without what they cannot change in a uint8, which takes a third of it."""

    def apply(
        self, img: Frames, hue_shift: float, sat_shift: float, val_shift: float, **params: Any
    ) -> Frames:
        """Through HSV and back. Saturation and value are rounded, to themselves; a hue is cut down: 1 less or none."""
        hsv = np.asarray(cv2.cvtColor(img, cv2.COLOR_RGB2HSV), np.uint8)
        if hue_shift < 0:
            hue = np.asarray(cv2.extractChannel(hsv, 0), np.uint8)
            hue -= 1  # 0 wraps to 255, which stands for the last hue
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


# Made once per process: building one takes as long as changing the brightness of a clip.
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
    return A.Compose([A.ImageCompression(quality_range=(40, 100), p=0.5)])  # quality_lower would be ignored


def _pointwise(compose: A.Compose, seed: int, frames_THWC: Frames) -> Frames:
    """Transforms that look at single pixels: each frame goes through as rows of ROW pixels, the last filled up.

    cv2's HSV conversions round otherwise in the last columns that fill no vector: a pixel's colour would depend on
    the width of what it is computed with, and a part of a frame would differ from the same part of the whole.
    """
    applied = _drawn(compose, seed)
    if not applied:
        return frames_THWC
    n_pixels = frames_THWC.shape[1] * frames_THWC.shape[2]
    rows = np.zeros((-(-n_pixels // ROW), ROW, 3), np.uint8)
    frame_in_rows = _first_pixels(rows, frames_THWC.shape[1:])
    out = np.empty_like(frames_THWC, order="C")
    for t, frame in enumerate(frames_THWC):
        frame_in_rows[:] = frame
        out[t] = _first_pixels(_through(applied, rows), frame.shape)
    return out


def _first_pixels(rows: Frames, shape: tuple[int, ...]) -> Frames:
    height, width, channels = shape
    return rows.reshape(-1, channels)[: height * width].reshape(shape)


def _per_frame(compose: A.Compose, seed: int, frames_THWC: Frames) -> Frames:
    """Transforms that look at a pixel's neighbours."""
    applied = _drawn(compose, seed)
    if not applied:
        return frames_THWC
    out = np.empty_like(frames_THWC, order="C")
    for t, frame in enumerate(frames_THWC):
        out[t] = _through(applied, np.ascontiguousarray(frame))
    return out


def _drawn(compose: A.Compose, seed: int) -> list[Applied]:
    """The transforms that a seed draws, with the numbers that it draws for them; they are drawn on one pixel."""
    compose.set_random_seed(seed)
    compose(image=np.zeros((1, 1, 3), np.uint8))
    transforms = [transform for transform in compose if isinstance(transform, A.ImageOnlyTransform)]
    return [(transform, params) for transform in transforms if (params := transform.get_applied_params())]


def _through(applied: list[Applied], picture: Frames) -> Frames:
    """One picture at a time through all transforms: it stays in the processor's cache, which a clip does not."""
    for transform, params in applied:
        picture = transform.apply(picture, **params)
    return picture
