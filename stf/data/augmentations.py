"""Video-SBI's transforms: each samples its draws once per clip, then applies them.

Drift, TPS, elastic and affine warps have their own files and are re-exported here; colour is in
stf.data.augment.colour.
Shape legend: T frames, H, W pixels, C = 3 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.augment.codec import PixelFormat, h264_round_trip
from stf.data.augment.drift import DriftPath, MultiScaleBrownianDrift
from stf.data.augment.tps import TPSDraw, TPSMaskDeformation
from stf.data.augment.warps import AffineDraw, ElasticDraw, ElasticMask, affine_frames, affine_masks
from stf.errors import ConfigError

__all__ = [
    "AffineDraw",
    "CompressionAugmentation",
    "DriftPath",
    "ElasticDraw",
    "ElasticMask",
    "MultiScaleBrownianDrift",
    "RandomDownScale",
    "TPSDraw",
    "TPSMaskDeformation",
    "affine_frames",
    "affine_masks",
]

Frames = NDArray[np.uint8]
FramesOrList = TypeVar("FramesOrList", NDArray[np.uint8], list[NDArray[np.uint8]])


@dataclass(frozen=True)
class RandomDownScale:
    """SBI's loss of resolution: scales down by one of `ratios` (nearest neighbour) and back up (bilinear)."""

    ratios: tuple[int, ...] = (2, 4)

    def sample(self, rng: np.random.Generator) -> int:
        """Draws one ratio for the whole clip."""
        return self.ratios[int(rng.integers(len(self.ratios)))]

    def down(self, frames_THWC: Frames, ratio: int) -> Frames:
        """Keeps every `ratio`-th pixel: (T, H // ratio, W // ratio, C)."""
        n_frames, height, width, channels = frames_THWC.shape
        out = np.empty((n_frames, max(1, height // ratio), max(1, width // ratio), channels), np.uint8)
        for t, frame in enumerate(frames_THWC):
            cv2.resize(frame, out.shape[2:0:-1], dst=out[t], interpolation=cv2.INTER_NEAREST)
        return out

    def up(self, frames_ThwC: Frames, height: int, width: int) -> Frames:
        """Scales back up to (T, H, W, C)."""
        out = np.empty((len(frames_ThwC), height, width, frames_ThwC.shape[3]), np.uint8)
        for t, frame in enumerate(frames_ThwC):
            cv2.resize(frame, (width, height), dst=out[t], interpolation=cv2.INTER_LINEAR)
        return out

    def apply(self, frames_THWC: Frames, ratio: int) -> Frames:
        """Returns the clip at its own size, with the detail of a clip `ratio` times smaller."""
        return self.up(self.down(frames_THWC, ratio), *frames_THWC.shape[1:3])

    def __call__(self, image: Frames, rng: np.random.Generator | None = None) -> Frames:
        """Draws a ratio and applies it to one image (H, W, C) or one clip (T, H, W, C)."""
        ratio = self.sample(rng or np.random.default_rng())
        return self.apply(image, ratio) if image.ndim == 4 else self.apply(image[None], ratio)[0]


@dataclass(frozen=True)
class CompressionAugmentation:
    """Compresses with H.264 with `probability`, at a constant QP drawn uniformly from `qp_range` (ends included)."""

    qp_range: tuple[int, int] = (23, 40)
    probability: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.qp_range
        if not (0 <= low <= high <= 51 and 0 <= self.probability <= 1):
            raise ConfigError(
                f"compression: qp_range is {self.qp_range} and probability is {self.probability}; "
                "set 0 <= low <= high <= 51 and a probability in [0, 1]"
            )

    def sample(self, rng: np.random.Generator) -> int | None:
        """Draws the clip's QP; None for a clip that is not compressed."""
        qp = int(rng.integers(self.qp_range[0], self.qp_range[1] + 1))
        return qp if rng.random() < self.probability else None

    def apply(
        self, frames: FramesOrList, qp: int | None, pixel_format: PixelFormat = "bgr24"
    ) -> FramesOrList:
        """Compresses uint8 frames (BGR by default), (T, H, W, 3) or a list of (H, W, 3); returns the same type."""
        if qp is None:
            return frames
        if isinstance(frames, list):
            return list(h264_round_trip(np.stack(frames), qp, pixel_format))
        return h264_round_trip(frames, qp, pixel_format)

    def __call__(self, frames: FramesOrList, rng: np.random.Generator | None = None) -> FramesOrList:
        """Draws a QP and applies it."""
        return self.apply(frames, self.sample(rng or np.random.default_rng()))
