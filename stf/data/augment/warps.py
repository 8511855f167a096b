"""SBI's warps: one affine of source and mask together, and an elastic one of the mask that varies smoothly over time.

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

from stf.data.faces import Window
from stf.errors import DataError

FRACTIONS = 32  # sub-pixel steps per pixel in cv2.remap's weight tables
Positions = NDArray[np.int32]
Floats = NDArray[np.float32]
PixelsT = TypeVar("PixelsT", NDArray[np.float32], NDArray[np.uint8])


def mask_at(mask: NDArray[np.generic], t: int) -> Floats:
    """Returns the mask of frame t from one for all frames, (H, W) or (H, W, 1), or one per frame, (T, H, W)."""
    if mask.ndim == 3 and mask.shape[-1] != 1:
        mask = mask[t]
    return np.ascontiguousarray(mask.reshape(mask.shape[:2]), np.float32)


def check_frames(name: str, mask: NDArray[np.generic], n_frames: int) -> None:
    """Raises DataError when the number of per-frame masks differs from the draw's number of frames."""
    if mask.ndim == 3 and mask.shape[-1] != 1 and len(mask) != n_frames:
        raise DataError(
            f"{name} was drawn for {n_frames} frames but got {len(mask)} masks; draw it again for this clip"
        )


def pixel_grid(height: int, width: int) -> Floats:
    """Returns (H, W, 2), the (x, y) of every pixel."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def warp_image(image: PixelsT, positions_HW2: Floats, border: int = cv2.BORDER_CONSTANT) -> PixelsT:
    """Samples the image (H, W) or (H, W, C) bilinearly at `positions_HW2`; outside it by `border` (default 0)."""
    # The second map must be None, which cv2's stubs do not know: an empty array is read as a map (and hangs).
    return cv2.remap(image, positions_HW2, None, cv2.INTER_LINEAR, borderMode=border)  # pyright: ignore


@dataclass(frozen=True)
class AffineDraw:
    """A clip's affine: translations as fractions of width and height, scales about the centre."""

    translate_x: float
    translate_y: float
    scale_x: float
    scale_y: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> AffineDraw:
        """Draws x within 3 %, y within 1.5 % and each axis' scale in .95-1/.95, all uniform."""
        x, y = rng.uniform(-0.03, 0.03), rng.uniform(-0.015, 0.015)
        scale_x, scale_y = rng.uniform(0.95, 1 / 0.95, 2)
        return cls(float(x), float(y), float(scale_x), float(scale_y))

    def matrix(self, height: int, width: int) -> NDArray[np.float64]:
        """Returns the matrix (2, 3), input pixel → output pixel, for an image of this size."""
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        shift_x = centre_x * (1 - self.scale_x) + self.translate_x * width
        shift_y = centre_y * (1 - self.scale_y) + self.translate_y * height
        return np.array([[self.scale_x, 0, shift_x], [0, self.scale_y, shift_y]])

    def source_positions(self, height: int, width: int) -> tuple[Positions, Positions]:
        """Returns the input position of each output row and column, in 1/32 pixel, the step of cv2's tables."""
        (_, _, shift_x), (_, _, shift_y) = self.matrix(height, width)
        y_H = (np.arange(height) - shift_y) * (FRACTIONS / self.scale_y)
        x_W = (np.arange(width) - shift_x) * (FRACTIONS / self.scale_x)
        return np.rint(y_H).astype(np.int32), np.rint(x_W).astype(np.int32)


def affine_frames(frames_THWC: NDArray[np.uint8], draw: AffineDraw) -> NDArray[np.uint8]:
    """Warps every frame alike; mirrors at the borders, because black edges would reveal the blend."""
    height, width = frames_THWC.shape[1:3]
    whole = (0, height, 0, width)
    return affine_window(frames_THWC, draw, whole, whole, (height, width))


def affine_reach(draw: AffineDraw, window: Window, height: int, width: int) -> Window:
    """Returns the window of input pixels that the warped `window` depends on, in a picture of this size."""
    y0, y1, x0, x1 = window
    y_H, x_W = draw.source_positions(height, width)
    low = (int(y_H[y0]) // FRACTIONS, int(x_W[x0]) // FRACTIONS)
    high = (int(y_H[y1 - 1]) // FRACTIONS + 2, int(x_W[x1 - 1]) // FRACTIONS + 2)
    # mirrored positions lie as far inside the picture's edge as they were outside
    excess = max(-low[0], -low[1], high[0] - height, high[1] - width, 0) + 1
    y0, y1 = max(0, min(low[0], height - excess)), min(height, max(high[0], excess))
    x0, x1 = max(0, min(low[1], width - excess)), min(width, max(high[1], excess))
    return y0, y1, x0, x1


def affine_window(
    part_ThwC: NDArray[np.uint8], draw: AffineDraw, part: Window, window: Window, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Computes the `window` of the warped frames of (height, width) = `size` from only a `part` of them.

    The part must contain `affine_reach` of the window; the pixels then equal those of `affine_frames` bit for bit.
    """
    y_H, x_W = draw.source_positions(*size)
    y0, y1, x0, x1 = window
    y_h, x_w = y_H[y0:y1], x_W[x0:x1]
    positions_hw2 = np.empty((y1 - y0, x1 - x0, 2), np.int16)
    positions_hw2[..., 0] = x_w // FRACTIONS - part[2]
    positions_hw2[..., 1] = (y_h // FRACTIONS - part[0])[:, None]
    fractions_hw = ((y_h % FRACTIONS)[:, None] * FRACTIONS + x_w % FRACTIONS).astype(np.uint16)
    out = np.empty((len(part_ThwC), y1 - y0, x1 - x0, part_ThwC.shape[3]), np.uint8)
    for t, frame in enumerate(part_ThwC):
        mirror = cv2.BORDER_REFLECT_101
        cv2.remap(frame, positions_hw2, fractions_hw, cv2.INTER_LINEAR, dst=out[t], borderMode=mirror)
    return out


def affine_masks(mask: NDArray[np.generic], draw: AffineDraw) -> Floats:
    """Warps one mask (H, W) or masks (T, H, W) as `affine_frames` does; outside the image counts as 0."""
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

    @property
    def reach_px(self) -> int:
        """An upper bound of the displacement: two keys' weights add up to √2, the cubic overshoots by less than .1."""
        return int(np.ceil(1.6 * np.abs(self.keys_Khw2).max())) + 1

    def weights_TK(self) -> Floats:
        """Returns the weight of each key field in each frame.

        Neighbouring keys are mixed with cosine and sine over a quarter turn, so the sum keeps a field's variance.
        """
        weights_TK = np.zeros((self.n_frames, len(self.keys_Khw2)), np.float32)
        for t in range(self.n_frames):
            k, step = divmod(t, self.frames_per_key)
            angle = 0.5 * math.pi * step / self.frames_per_key
            weights_TK[t, k : k + 2] = math.cos(angle), math.sin(angle)
        return weights_TK

    def fields(self) -> Iterator[Floats]:
        """Yields each frame's displacement (H, W, 2) px."""
        keys = [_resize(key, self.height, self.width) for key in self.keys_Khw2]
        for t, weights_K in enumerate(self.weights_TK()):
            k = t // self.frames_per_key
            yield weights_K[k] * keys[k] + weights_K[k + 1] * keys[k + 1]


def _resize(field_hw2: Floats, height: int, width: int) -> Floats:
    return np.asarray(cv2.resize(field_hw2, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


@dataclass(frozen=True)
class ElasticMask:
    """Simard's elastic warp, correlated over time: uniform noise in [-1, 1], blurred by `sigma`, × `alpha`.

    This is the formula of albumentations 1, which SBI used (mean displacement 1.5 px at alpha 50, sigma 7; version 2
    gives .6 px). The fields are band-limited, so they are computed at 1/3 of the size. There the same noise, blurred by
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
        """Warps one mask for all frames, or one per frame → (T, H, W) float32; outside the image counts as 0."""
        check_frames("ElasticMask", mask, draw.n_frames)
        grid_HW2 = pixel_grid(draw.height, draw.width)
        return np.stack([warp_image(mask_at(mask, t), grid_HW2 + d) for t, d in enumerate(draw.fields())])

    def apply_to_frames(self, frames_THWC: NDArray[np.uint8], draw: ElasticDraw) -> NDArray[np.uint8]:
        """Warps the source frames in the same way (`sbi.elastic_on_source`); mirrors at the borders."""
        check_frames("ElasticMask", frames_THWC[..., 0], draw.n_frames)
        whole = (0, draw.height, 0, draw.width)
        return self.apply_to_window(frames_THWC, draw, whole, whole)

    def apply_to_window(
        self, part_ThwC: NDArray[np.uint8], draw: ElasticDraw, part: Window, window: Window
    ) -> NDArray[np.uint8]:
        """Computes the `window` of the warped frames from a `part` that contains all pixels within `draw.reach_px`."""
        y0, y1, x0, x1 = window
        grid_hw2 = pixel_grid(draw.height, draw.width)[y0:y1, x0:x1]
        corner = np.array((part[2], part[0]), np.float32)
        fields = (grid_hw2 + field[y0:y1, x0:x1] - corner for field in draw.fields())
        pairs = zip(part_ThwC, fields, strict=True)
        return np.stack([warp_image(frame, positions, cv2.BORDER_REFLECT_101) for frame, positions in pairs])
