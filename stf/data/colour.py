"""Colour, sharpening and JPEG transforms of SBI, through albumentations 2.0.8, which no other file imports.

A draw holds integer seeds: every frame of a clip, and both members of a pair, get the same random numbers.
T frames, H, W pixels, C = 3 channels, RGB uint8.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stf.data.augmentations import RandomDownScale

# It phones home on import otherwise: 13 s where packets are dropped.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

Frames = NDArray[np.uint8]
ROW = 1024  # a multiple of every vector's length


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
        colour = [_rgb_shift(0.3), _hsv(1.0), _brightness_contrast(0.1, 1.0)]
        sharpen = A.Sharpen(alpha=(0.2, 0.5), lightness=(0.5, 1.0), p=1)
        coloured = _pointwise(frames_THWC, colour, draw.colour_seed)
        if draw.ratio is None:
            return _per_frame(coloured, [sharpen], draw.sharpen_seed)
        return RandomDownScale().apply(coloured, draw.ratio)


class TrainTransform:
    """SBI's train transforms: RGB shift ±20, HSV and brightness/contrast ±.3, p .3; JPEG 40-100, p .5."""

    def sample(self, rng: np.random.Generator) -> TrainDraw:
        """One draw for both members of a pair."""
        return TrainDraw(*_seeds(rng))

    def apply(self, frames_THWC: Frames, draw: TrainDraw) -> Frames:
        """uint8 RGB in and out, same shape; apply it to each member with the same draw."""
        colour = [_rgb_shift(0.3), _hsv(0.3), _brightness_contrast(0.3, 0.3)]
        jpeg = A.ImageCompression(quality_range=(40, 100), p=0.5)  # quality_lower/upper would be ignored
        return _per_frame(_pointwise(frames_THWC, colour, draw.colour_seed), [jpeg], draw.jpeg_seed)


def _seeds(rng: np.random.Generator) -> tuple[int, int]:
    first, second = rng.integers(2**31, size=2)
    return int(first), int(second)


def _rgb_shift(p: float) -> A.RGBShift:
    return A.RGBShift((-20, 20), (-20, 20), (-20, 20), p=p)


def _hsv(p: float) -> A.HueSaturationValue:
    return A.HueSaturationValue((-0.3, 0.3), (-0.3, 0.3), (-0.3, 0.3), p=p)


def _brightness_contrast(limit: float, p: float) -> A.RandomBrightnessContrast:
    return A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=p)


def _pointwise(frames_THWC: Frames, transforms: Sequence[A.BasicTransform], seed: int) -> Frames:
    """Transforms that look at single pixels: the clip goes through as one image of rows of ROW pixels.

    cv2's HSV conversions round otherwise in the last columns that fill no vector: a pixel's colour would depend on
    the width of what it is computed with, and a part of a frame would differ from the same part of the whole.
    """
    n_pixels, channels = frames_THWC.size // frames_THWC.shape[-1], frames_THWC.shape[-1]
    rows = np.empty((-(-n_pixels // ROW), ROW, channels), np.uint8)
    pixels = rows.reshape(-1, channels)
    pixels[:n_pixels].reshape(frames_THWC.shape)[:] = frames_THWC
    pixels[n_pixels:] = 0
    done = A.Compose(list(transforms), seed=seed)(image=rows)["image"]
    return done.reshape(-1, channels)[:n_pixels].reshape(frames_THWC.shape)


def _per_frame(frames_THWC: Frames, transforms: Sequence[A.BasicTransform], seed: int) -> Frames:
    """Transforms that look at a pixel's neighbours: frame by frame, one draw."""
    return A.Compose(list(transforms), seed=seed)(images=frames_THWC)["images"]
