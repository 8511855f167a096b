"""Windows (y0, y1, x0, x1), ends exclusive, of a clip: grown, aligned, cut out.

What lies outside the final crop is computed only as far as it can be seen in it. Pointwise steps, warps and JPEG on a
region then give the very pixels that the whole picture would give. T frames, H, W pixels, C channels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.faces import Window

# JPEG with 4:2:0 chroma and H.264 code blocks of 16 × 16: a region that starts and ends between blocks is coded in
# the same blocks as the whole picture.
BLOCK = 16
# Decoders interpolate JPEG's half-size chroma: a pixel sees one chroma sample, two pixels, beyond its own block.
CHROMA_REACH = 2


def grown(window: Window, reach: int, height: int, width: int) -> Window:
    """`reach` pixels more on every side, clipped to a picture of this size."""
    y0, y1, x0, x1 = window
    return max(0, y0 - reach), min(height, y1 + reach), max(0, x0 - reach), min(width, x1 + reach)


def block_aligned(window: Window, height: int, width: int) -> Window:
    """The window grown to whole blocks, counted from the picture's corner and clipped to it."""
    y0, y1, x0, x1 = window
    ends = (min(height, -(-y1 // BLOCK) * BLOCK), min(width, -(-x1 // BLOCK) * BLOCK))
    return y0 // BLOCK * BLOCK, ends[0], x0 // BLOCK * BLOCK, ends[1]


def inside(window: Window, outer: Window) -> Window:
    """The window in the pixels of `outer`, which holds it."""
    y0, y1, x0, x1 = window
    return y0 - outer[0], y1 - outer[0], x0 - outer[2], x1 - outer[2]


def overlap(one: Window, two: Window) -> Window:
    """What both windows hold; of no height or width where they do not meet."""
    y0, x0 = max(one[0], two[0]), max(one[2], two[2])
    return y0, max(y0, min(one[1], two[1])), x0, max(x0, min(one[3], two[3]))


def view(clip: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    """The window of every frame of (T, H, W) or (T, H, W, C), not copied."""
    y0, y1, x0, x1 = window
    return clip[:, y0:y1, x0:x1]


def cut(frames_THWC: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    """A C-contiguous copy of the window of every frame."""
    part = view(frames_THWC, window)
    if part.strides[2] >= 0:
        return part.copy(order="C")
    # a mirrored view: cv2 turns rows seven times as fast as NumPy copies bytes backwards
    out = np.empty(part.shape, np.uint8)
    for t, frame in enumerate(part):
        cv2.flip(frame[:, ::-1], 1, dst=out[t])
    return out


def bounding_window(mask_HW: NDArray[np.uint8]) -> Window:
    """The smallest window that holds every pixel above 0; all zeros when there is none."""
    x0, y0, width, height = cv2.boundingRect(mask_HW)
    return y0, y0 + height, x0, x0 + width
