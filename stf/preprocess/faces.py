"""Faces in one picture: the detector's interface, the extrapolated forehead, and the arrays stored on disk.

F faces, N = 81 landmarks, (x, y) in pixels of the frame; boxes (x0, y0, x1, y1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stf.data.faces import Points, bounds, face_box, stored_order

# Left half of the 13 forehead points, from the temple to the middle, in the frame of `with_forehead`: the mean hairline
# of 23 people in a 468-point mesh. Leaving one person out, its error is 5.0 % of the outer eye distance, similar to
# that of the 68 points against the same mesh (4.1 %).
_HALF_FOREHEAD = np.array(
    [
        [-0.478, 0.013],
        [-0.456, 0.141],
        [-0.414, 0.263],
        [-0.348, 0.360],
        [-0.244, 0.425],
        [-0.132, 0.453],
        [0.000, 0.459],
    ]
)
_FOREHEAD = np.concatenate([_HALF_FOREHEAD, _HALF_FOREHEAD[-2::-1] * (-1, 1)])


@dataclass(frozen=True)
class Face:
    """One face in one frame. `box_4` is the detector's; `landmarks_N2` has 81 points in the order of the files."""

    box_4: NDArray[np.float64]
    landmarks_N2: Points

    @property
    def area(self) -> float:
        """The area of the landmarks' bounds, the criterion of `stf.data.faces.largest_face`."""
        x0, y0, x1, y1 = bounds(self.landmarks_N2)
        return float((x1 - x0) * (y1 - y0))


class Detector(Protocol):
    """The interface of a face detector; it must work after a fork."""

    @property
    def identity(self) -> str:
        """Identifies everything that affects the landmarks; when it changes, videos are preprocessed again."""
        ...

    def find(self, image_HWC: NDArray[np.uint8], near_4: NDArray[np.float64] | None) -> list[Face]:
        """Finds all faces. `near_4` is the tracked face's last box: if no face is there, searches around it again."""
        ...

    def align(self, image_HWC: NDArray[np.uint8], box_4: NDArray[np.float64]) -> Face:
        """Computes the landmarks of a face that is known to be at `box_4`."""
        ...


def with_forehead(points_68: Points) -> Points:
    """Adds 13 extrapolated hairline points to the 68: (81, 2) in the order of the files.

    They are fixed in an affine frame of stable points: across, from ear to ear; upward, from the middle between the
    jaw's corners to the brows; the origin half-way between the ears' middle and the brows.
    """
    brows = points_68[17:27].mean(0)
    across = points_68[16] - points_68[0]
    upward = brows - points_68[[4, 12]].mean(0)
    origin = (points_68[[0, 16]].mean(0) + brows) / 2
    forehead = origin + _FOREHEAD[:, :1] * across + _FOREHEAD[:, 1:] * upward
    return stored_order(np.concatenate([points_68, forehead]))


def stored_arrays(faces: Sequence[Face]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns a frame's arrays for landmarks/, int64 (F, 81, 2), and retina/, boxes with five points, (F, 7, 2)."""
    landmarks = np.round(np.stack([face.landmarks_N2 for face in faces])).astype(np.int64)
    return landmarks, np.stack([face_box(points) for points in landmarks.astype(np.float64)]).astype(
        np.float64
    )
