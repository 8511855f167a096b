"""Slow, plain references of augment.colour: albumentations called and seeded frame by frame, as in SBI's code."""

import functools

import albumentations as A
import cv2
import numpy as np

from stf.data.augment.colour import SourceDraw, TrainDraw


@functools.cache
def _colour(p: tuple[float, float, float], limit: float) -> A.Compose:
    return A.Compose(
        [
            A.RGBShift((-20, 20), (-20, 20), (-20, 20), p=p[0]),
            A.HueSaturationValue((-0.3, 0.3), (-0.3, 0.3), (-0.3, 0.3), p=p[1]),
            A.RandomBrightnessContrast((-limit, limit), (-limit, limit), p=p[2]),
        ]
    )


@functools.cache
def _sharpen() -> A.Compose:
    return A.Compose([A.Sharpen(alpha=(0.2, 0.5), lightness=(0.5, 1.0), p=1)])


@functools.cache
def _jpeg() -> A.Compose:
    return A.Compose([A.ImageCompression(quality_range=(40, 100), p=0.5)])


def _apply(transform: A.Compose, seed: int, frame_HWC: np.ndarray) -> np.ndarray:
    transform.set_random_seed(seed)
    return transform(image=frame_HWC)["image"]


def source(frame_HWC: np.ndarray, draw: SourceDraw) -> np.ndarray:
    """Applies SBI's source transform to one frame."""
    frame = _apply(_colour((0.3, 1.0, 1.0), 0.1), draw.colour_seed, frame_HWC)
    if draw.ratio is None:
        return _apply(_sharpen(), draw.sharpen_seed, frame)
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (width // draw.ratio, height // draw.ratio), interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def train(frame_HWC: np.ndarray, draw: TrainDraw) -> np.ndarray:
    """Applies SBI's train transforms to one frame."""
    frame = _apply(_colour((0.3, 0.3, 0.3), 0.3), draw.colour_seed, frame_HWC)
    return _apply(_jpeg(), draw.jpeg_seed, frame)


def train_parts(draw: TrainDraw) -> tuple[bool, bool, bool, bool]:
    """Tells which of RGB shift, HSV, brightness and contrast, JPEG a draw applies."""
    transforms = _colour((0.3, 0.3, 0.3), 0.3), _jpeg()
    train(np.zeros((1, 1, 3), np.uint8), draw)
    shift, hsv, brightness, jpeg = (bool(part.params) for transform in transforms for part in transform)
    return shift, hsv, brightness, jpeg
