"""Windows (y0, y1, x0, x1), ends exclusive, of a clip: growing, aligning, cropping.

Outside the final crop only the pixels that affect it are computed. Pixel-by-pixel steps, warps and JPEG give the same
pixels on such a region as on the whole picture. T frames, H, W pixels, C channels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.faces import Window

# JPEG with 4:2:0 chroma and H.264 encode blocks of 16 × 16: a region aligned to blocks is encoded in the same blocks as
# the whole picture.
BLOCK = 16
# Decoders interpolate JPEG's half-size chroma: a pixel depends on one chroma sample (two pixels) beyond its own block.
CHROMA_REACH = 2


def grow(window: Window, reach: int, height: int, width: int) -> Window:
    """Extends the window by `reach` pixels on every side, clipped to a picture of this size."""
    y0, y1, x0, x1 = window
    return max(0, y0 - reach), min(height, y1 + reach), max(0, x0 - reach), min(width, x1 + reach)


def block_aligned(window: Window, height: int, width: int) -> Window:
    """Extends the window to whole blocks, counted from the picture's corner and clipped to the picture."""
    y0, y1, x0, x1 = window
    ends = (min(height, -(-y1 // BLOCK) * BLOCK), min(width, -(-x1 // BLOCK) * BLOCK))
    return y0 // BLOCK * BLOCK, ends[0], x0 // BLOCK * BLOCK, ends[1]


def relative_to(window: Window, outer: Window) -> Window:
    """Returns the window in the pixels of `outer`, which contains it."""
    y0, y1, x0, x1 = window
    return y0 - outer[0], y1 - outer[0], x0 - outer[2], x1 - outer[2]


def intersection(one: Window, two: Window) -> Window:
    """Returns the intersection of two windows, with height or width 0 when they do not overlap."""
    y0, x0 = max(one[0], two[0]), max(one[2], two[2])
    return y0, max(y0, min(one[1], two[1])), x0, max(x0, min(one[3], two[3]))


def view(clip: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    """Returns a view of the window in every frame of (T, H, W) or (T, H, W, C)."""
    y0, y1, x0, x1 = window
    return clip[:, y0:y1, x0:x1]


def copy_window(frames_THWC: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    """Returns a C-contiguous copy of the window in every frame."""
    part = view(frames_THWC, window)
    if part.strides[2] >= 0:
        return part.copy(order="C")
    # a mirrored view: cv2.flip is seven times as fast as NumPy's copy with a negative stride
    out = np.empty(part.shape, np.uint8)
    for t, frame in enumerate(part):
        cv2.flip(frame[:, ::-1], 1, dst=out[t])
    return out


def bounding_window(mask_HW: NDArray[np.uint8]) -> Window:
    """Returns the smallest window that contains every pixel above 0; all zeros when there is none."""
    x0, y0, width, height = cv2.boundingRect(mask_HW)
    return y0, y0 + height, x0, x0 + width
