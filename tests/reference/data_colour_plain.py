"""Slow plain twins of stf.data.colour: each frame by itself through a transform made anew from the same seed."""

import albumentations as A
import cv2
import numpy as np

from stf.data.colour import SourceDraw, TrainDraw


def _colour(frame_HWC: np.ndarray, seed: int, p: tuple[float, float, float], limit: float) -> np.ndarray:
    transform = A.Compose(
        [
            A.RGBShift((-20, 20), (-20, 20), (-20, 20), p=p[0]),
            A.HueSaturationValue((-0.3, 0.3), (-0.3, 0.3), (-0.3, 0.3), p=p[1]),
            A.RandomBrightnessContrast((-limit, limit), (-limit, limit), p=p[2]),
        ],
        seed=seed,
    )
    return transform(image=frame_HWC)["image"]


def source(frame_HWC: np.ndarray, draw: SourceDraw) -> np.ndarray:
    """SBI's source transform of one frame."""
    frame = _colour(frame_HWC, draw.colour_seed, (0.3, 1.0, 1.0), 0.1)
    if draw.ratio is None:
        sharpen = A.Compose([A.Sharpen(alpha=(0.2, 0.5), lightness=(0.5, 1.0), p=1)], seed=draw.sharpen_seed)
        return sharpen(image=frame)["image"]
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (width // draw.ratio, height // draw.ratio), interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def train(frame_HWC: np.ndarray, draw: TrainDraw) -> np.ndarray:
    """SBI's train transforms of one frame."""
    frame = _colour(frame_HWC, draw.colour_seed, (0.3, 0.3, 0.3), 0.3)
    jpeg = A.Compose([A.ImageCompression(quality_range=(40, 100), p=0.5)], seed=draw.jpeg_seed)
    return jpeg(image=frame)["image"]
