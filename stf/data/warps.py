"""SBI's warps: one affine of source and mask together, an elastic one of the mask, varying smoothly.

Shape legend: T frames, H, W pixels, h, w pixels of a reduced field, C channels, K key fields. Displacements
are (dx, dy) in pixels: the output at (x, y) is the input at (x + dx, y + dy).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.errors import DataError

Floats = NDArray[np.float32]
PixelsT = TypeVar("PixelsT", NDArray[np.float32], NDArray[np.uint8])


def mask_at(mask: NDArray[np.generic], t: int) -> Floats:
    """Frame t of a mask that is one for all frames, (H, W) or (H, W, 1), or one per frame, (T, H, W)."""
    if mask.ndim == 3 and mask.shape[-1] != 1:
        mask = mask[t]
    return np.ascontiguousarray(mask.reshape(mask.shape[:2]), np.float32)


def check_frames(name: str, mask: NDArray[np.generic], n_frames: int) -> None:
    """Raises DataError when masks given per frame are not as many as the draw has frames."""
    if mask.ndim == 3 and mask.shape[-1] != 1 and len(mask) != n_frames:
        raise DataError(
            f"{name} was drawn for {n_frames} frames but got {len(mask)} masks; sample it for this clip"
        )


def pixel_grid(height: int, width: int) -> Floats:
    """(H, W, 2): every pixel's own (x, y)."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def displaced(image: PixelsT, places_HW2: Floats, border: int = cv2.BORDER_CONSTANT) -> PixelsT:
    """The image (H, W) or (H, W, C), bilinearly sampled at `places_HW2`; 0 outside, or as `border` says."""
    # The second map must be None, which cv2's stubs do not know: an empty array is read as a map (and hangs).
    return cv2.remap(image, places_HW2, None, cv2.INTER_LINEAR, borderMode=border)  # pyright: ignore


@dataclass(frozen=True)
class AffineDraw:
    """A clip's affine: translations as fractions of width and height, scales about the centre."""

    translate_x: float
    translate_y: float
    scale_x: float
    scale_y: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> AffineDraw:
        """x within 3 %, y within 1.5 %, each axis' scale in .95-1/.95, all uniform."""
        x, y = rng.uniform(-0.03, 0.03), rng.uniform(-0.015, 0.015)
        scale_x, scale_y = rng.uniform(0.95, 1 / 0.95, 2)
        return cls(float(x), float(y), float(scale_x), float(scale_y))

    def matrix(self, height: int, width: int) -> NDArray[np.float64]:
        """(2, 3): input pixel → output pixel, for an image of this size."""
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        shift_x = centre_x * (1 - self.scale_x) + self.translate_x * width
        shift_y = centre_y * (1 - self.scale_y) + self.translate_y * height
        return np.array([[self.scale_x, 0, shift_x], [0, self.scale_y, shift_y]])


def affine_frames(frames_THWC: NDArray[np.uint8], draw: AffineDraw) -> NDArray[np.uint8]:
    """Each frame warped alike. What comes in from outside is mirrored: black edges would mark the blend."""
    height, width = frames_THWC.shape[1:3]
    matrix = draw.matrix(height, width)
    out = np.empty_like(frames_THWC, order="C")
    for t, frame in enumerate(frames_THWC):
        out[t] = cv2.warpAffine(frame, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return out


def affine_masks(mask: NDArray[np.generic], draw: AffineDraw) -> Floats:
    """One mask (H, W) or masks (T, H, W), warped as `affine_frames` warps; 0 comes in from outside."""
    if mask.ndim == 3:
        return np.stack([affine_masks(mask_HW, draw) for mask_HW in mask])
    height, width = mask.shape
    moved = cv2.warpAffine(np.asarray(mask, np.float32), draw.matrix(height, width), (width, height))
    return np.asarray(moved, np.float32)


@dataclass(frozen=True, eq=False)
class ElasticDraw:
    """A clip's elastic warp: K displacement fields, (K, h, w, 2) px, `frames_per_key` apart."""

    keys_Khw2: Floats
    n_frames: int
    height: int
    width: int
    frames_per_key: int

    def fields(self) -> Iterator[Floats]:
        """Each frame's displacement (H, W, 2) px.

        Neighbouring keys are mixed by cosine and sine of a quarter turn: the sum keeps a field's variance.
        """
        keys = [_resized(key, self.height, self.width) for key in self.keys_Khw2]
        for t in range(self.n_frames):
            k, step = divmod(t, self.frames_per_key)
            angle = 0.5 * math.pi * step / self.frames_per_key
            weights = np.array([math.cos(angle), math.sin(angle)], np.float32)
            yield weights[0] * keys[k] + weights[1] * keys[k + 1]


def _resized(field_hw2: Floats, height: int, width: int) -> Floats:
    return np.asarray(cv2.resize(field_hw2, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


@dataclass(frozen=True)
class ElasticMask:
    """Simard's elastic warp, correlated over time: uniform noise in [-1, 1], blurred by `sigma`, × `alpha`.

    This is albumentations 1's formula, which SBI used (mean displacement 1.5 px at alpha 50, sigma 7; version 2
    gives .6 px). Fields are band-limited, so they are made at 1/3 of the size, where the same noise, blurred by
    sigma / 3, is three times as strong: hence alpha / 3.
    """

    alpha: float = 50.0
    sigma: float = 7.0
    frames_per_key: int = 8
    reduction: int = 3

    def sample(self, rng: np.random.Generator, n_frames: int, height: int, width: int) -> ElasticDraw:
        """Draws the key fields of a clip of `n_frames` frames of this size."""
        n_keys = (n_frames - 1) // self.frames_per_key + 2
        size = (max(2, round(height / self.reduction)), max(2, round(width / self.reduction)))
        noise = rng.uniform(-1, 1, (n_keys, *size, 2)).astype(np.float32)
        sigma = self.sigma / self.reduction
        keys = [cv2.GaussianBlur(n, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for n in noise]
        keys_Khw2 = np.stack(keys).astype(np.float32) * np.float32(self.alpha / self.reduction)
        return ElasticDraw(keys_Khw2, n_frames, height, width, self.frames_per_key)

    def apply(self, mask: NDArray[np.generic], draw: ElasticDraw) -> Floats:
        """One mask for all frames, or one per frame → (T, H, W) float32; 0 comes in from outside."""
        check_frames("ElasticMask", mask, draw.n_frames)
        grid_HW2 = pixel_grid(draw.height, draw.width)
        return np.stack([displaced(mask_at(mask, t), grid_HW2 + d) for t, d in enumerate(draw.fields())])

    def apply_to_frames(self, frames_THWC: NDArray[np.uint8], draw: ElasticDraw) -> NDArray[np.uint8]:
        """The same warp of the source frames (`sbi.elastic_on_source`); mirrored where it looks outside."""
        check_frames("ElasticMask", frames_THWC[..., 0], draw.n_frames)
        grid_HW2 = pixel_grid(draw.height, draw.width)
        pairs = zip(frames_THWC, draw.fields(), strict=True)
        return np.stack([displaced(frame, grid_HW2 + d, cv2.BORDER_REFLECT_101) for frame, d in pairs])
