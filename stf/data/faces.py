"""Landmarks and boxes: reading, matching, flipping, and the SBI paper's two crops.

N points (81, or their first 68), F faces, T frames. Points are (x, y) in pixels of the stored frame, float64;
a box is box_22 = [[x0, y0], [x1, y1]]; a window is (y0, y1, x0, x1), ends exclusive, for slicing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stf.errors import DataError
from stf.io.files import read_bounded

Points = NDArray[np.float64]
Window = tuple[int, int, int, int]
N_POINTS = 81
MAX_GEOMETRY_BYTES = 1_000_000
MAX_COORDINATE = 1_000_000  # pixels: far outside any frame, and its square is still exact
# The header that numpy.save writes for plain numbers. numpy's own reader evaluates any Python literal and raises many
# kinds of errors.
_NUMBERS = re.compile(r"[<>|](?:[iu][1248]|f[248])")
_NPY_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|\x02\x00....)"
    rb"\{'descr': '(?P<dtype>[^']{1,20})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,9}(?:, ?|(?=\))))*)\),? *\} *\n",
    re.DOTALL,
)
# The 81-point detector numbers the 13 forehead points irregularly; SBI's order runs along the hairline.
FOREHEAD_ORDER = (77, 75, 76, 68, 69, 70, 71, 80, 72, 73, 79, 74, 78)


def _flip_order() -> NDArray[np.intp]:
    """Returns, for each of the 81 points (SBI order), the index of its counterpart in a mirrored face."""
    runs = ((0, 17), (17, 27), (31, 36), (48, 55), (55, 60), (60, 65), (65, 68), (68, 81))
    order = np.arange(N_POINTS)
    for start, stop in runs:  # jaw, brows, nostrils, four lip contours, forehead: each mirrors onto itself
        order[start:stop] = order[start:stop][::-1]
    order[36:42] = [45, 44, 43, 42, 47, 46]  # the eyes swap, corner for corner
    order[42:48] = [39, 38, 37, 36, 41, 40]
    return order


FLIP_ORDER = _flip_order()


def _read_npy(path: Path) -> NDArray[Any]:
    """Reads a small .npy file; never unpickles, and the header must agree with the file's size."""
    try:
        data = read_bounded(path, MAX_GEOMETRY_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; preprocess the video again") from None
    header = _NPY_HEADER.match(data)
    if header is None:
        raise DataError(f"{path} is not a .npy file with one array; preprocess the video again")
    dtype = header["dtype"].decode(errors="replace")
    if not _NUMBERS.fullmatch(dtype):
        raise DataError(
            f"{path} contains {dtype!r} values instead of numbers (pickled objects are never loaded); "
            "preprocess the video again"
        )
    shape = tuple(int(length) for length in header["shape"].split(b",") if length.strip())
    if int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize != len(data) - header.end():
        raise DataError(
            f"{path} is truncated or damaged: its size does not match its shape {shape}; preprocess the video again"
        )
    flat = np.frombuffer(data, dtype=dtype, offset=header.end())
    return flat.reshape(shape, order="F" if header["fortran"] == b"True" else "C")


def _checked_points(path: Path, values: NDArray[Any]) -> Points:
    if len(values) == 0:
        raise DataError(f"{path} contains no face; delete it to mark the frame as one without a face")
    points = np.ascontiguousarray(values, dtype=np.float64)
    if not np.isfinite(points).all():
        raise DataError(f"{path} contains NaN or infinite coordinates; preprocess the video again")
    if np.abs(points).max() > MAX_COORDINATE:
        limit = f"{MAX_COORDINATE:,} pixels"
        raise DataError(f"{path} contains coordinates beyond {limit}; preprocess the video again")
    return points


def read_landmarks(path: str | Path) -> Points:
    """Reads landmarks (F, 81, 2) in stored order from (81, 2) or (F, 81, 2); raises DataError with the file's name."""
    values = _read_npy(Path(path))
    if values.shape == (N_POINTS, 2):
        values = values[None]
    if values.ndim != 3 or values.shape[1:] != (N_POINTS, 2):
        raise DataError(f"{path} has shape {values.shape}; landmarks must be (81, 2) or (faces, 81, 2)")
    landmarks_FN2 = _checked_points(Path(path), values)
    if (np.ptp(landmarks_FN2, axis=1) == 0).any():
        raise DataError(
            f"{path} contains a face without area: its points lie on one line; preprocess the video again"
        )
    return landmarks_FN2


def read_boxes(path: str | Path) -> Points:
    """Reads boxes (F, 2, 2), [[x0, y0], [x1, y1]], from (F, 2, 2), (F, 7, 2) (box and five points) or (F, 4).

    Raises DataError with the file's name for another shape or a box without area.
    """
    values = _read_npy(Path(path))
    if values.ndim == 2 and values.shape[1] == 4:
        values = values.reshape(-1, 2, 2)
    if values.ndim != 3 or values.shape[1:] not in ((2, 2), (7, 2)):
        raise DataError(
            f"{path} has shape {values.shape}; boxes must be (faces, 2, 2), (faces, 7, 2) or (faces, 4)"
        )
    boxes = _checked_points(Path(path), values[:, :2])
    if (boxes[:, 1] <= boxes[:, 0]).any():
        raise DataError(
            f"{path} contains a box without area (x1 <= x0 or y1 <= y0); preprocess the video again"
        )
    return boxes


def reorder_landmark(landmark: NDArray[Any]) -> NDArray[Any]:
    """Returns a copy of (..., 81, 2) with the forehead points 68–80 in SBI's order, along the hairline."""
    reordered = np.array(landmark)
    reordered[..., 68:, :] = landmark[..., FOREHEAD_ORDER, :]
    return reordered


def bounds(landmarks_N2: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the bounds (x0, y0, x1, y1) of the points (last two axes N, 2)."""
    points = np.asarray(landmarks_N2, dtype=np.float64)
    return np.concatenate([points.min(-2), points.max(-2)], axis=-1)


def IoUfrom2bboxes(boxA: Any, boxB: Any) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1), end pixels included, as in SBI."""
    width = min(boxA[2], boxB[2]) - max(boxA[0], boxB[0]) + 1
    height = min(boxA[3], boxB[3]) - max(boxA[1], boxB[1]) + 1
    shared = max(0, width) * max(0, height)
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (boxA, boxB)]
    return float(shared / (areas[0] + areas[1] - shared))


def largest_face(landmarks_FN2: Points) -> int:
    """Returns the index of the face whose landmarks span the largest area; the first one in a tie."""
    x0, y0, x1, y1 = bounds(landmarks_FN2).T
    return int(np.argmax((x1 - x0) * (y1 - y0)))


def match_box(landmarks_N2: Points, boxes_F22: Points) -> Points:
    """Returns the box (2, 2) that overlaps the landmarks most by IoU; raises DataError when none does."""
    face = bounds(landmarks_N2)
    overlaps = [IoUfrom2bboxes(face, box.ravel()) for box in boxes_F22]
    best = int(np.argmax(overlaps))
    if overlaps[best] <= 0:
        raise DataError(
            "no box overlaps the landmarks: they belong to different faces or frames; preprocess the video again"
        )
    return boxes_F22[best]


def flip_geometry(
    landmarks: NDArray[Any], box: NDArray[Any], width: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns landmarks (..., 81 or 68, 2) in SBI order and box (2, 2) of the horizontally mirrored image, as copies.

    Pixel x moves to width - 1 - x, as in `image[:, ::-1]` (SBI computes width - x, which is one pixel off).
    """
    flipped = np.array(landmarks)[..., FLIP_ORDER[: landmarks.shape[-2]], :]
    flipped[..., 0] = width - 1 - flipped[..., 0]
    box_22 = np.array(box)
    box_22[:, 0] = width - 1 - box_22[::-1, 0]
    return flipped, box_22


# Both crops' margins (left, right, top, bottom) as shares of the face's width and height, and the factor on the final
# ones outside training. Stored with the weights, which know faces cropped like this alone.
CROP_RULES: dict[str, Any] = {
    "first_crop_margins": [0.5, 0.5, 1.0, 0.4],
    "final_crop_margins": [0.25, 0.25, 0.25, 0.25],
    "final_crop_factor": 0.5,
}


def _window(bounds_4: Any, margins_4: Any, height: int, width: int) -> Window:
    """Extends bounds (x0, y0, x1, y1) by margins (left, right, top, bottom), clips to the image, ends +1."""
    x0, y0, x1, y1 = (float(v) for v in bounds_4)
    left, right, top, bottom = (float(v) for v in margins_4)
    window = (
        max(0, int(y0 - top)),
        min(height, int(y1 + bottom) + 1),
        max(0, int(x0 - left)),
        min(width, int(x1 + right) + 1),
    )
    if window[0] >= window[1] or window[2] >= window[3]:
        raise DataError(f"the face at {bounds_4} lies outside the {width}x{height} image")
    return window


def first_crop_window(landmarks: NDArray[Any], height: int, width: int) -> Window:
    """SBI's wide first crop around landmarks[:68]: margins w/8 left and right (× 4), h/2 above and h/5 below (× 2)."""
    face = bounds(landmarks[:68])
    w, h = face[2] - face[0], face[3] - face[1]
    return _window(face, (4 * w / 8, 4 * w / 8, 2 * h / 2, 2 * h / 5), height, width)


def final_crop_window(box: NDArray[Any], height: int, width: int, side_factors_4: Any) -> Window:
    """SBI's tight final crop around the box: margins w/4 and h/4, × the factors (left, right, top, bottom)."""
    face = np.asarray(box, dtype=np.float64).ravel()[:4]
    w, h = face[2] - face[0], face[3] - face[1]
    margins = np.array([w / 4, w / 4, h / 4, h / 4]) * np.asarray(side_factors_4, dtype=np.float64)
    return _window(face, margins, height, width)


def draw_side_factors(rng: np.random.Generator, train: bool) -> tuple[float, float, float, float]:
    """Draws the final crop's four factors (left, right, top, bottom): U(.2, .8) each in training, .5 otherwise."""
    left, right, top, bottom = rng.uniform(0.2, 0.8, size=4).tolist() if train else [0.5] * 4
    return left, right, top, bottom


def crop_face(  # noqa: PLR0913 - SBI's public signature
    img: NDArray[Any],
    landmark: NDArray[Any] | None = None,
    bbox: NDArray[Any] | None = None,
    margin: bool = False,
    crop_by_bbox: bool = True,
    abs_coord: bool = False,
    only_img: bool = False,
    phase: str = "train",
    rng: np.random.Generator | None = None,
) -> Any:
    """SBI's crop_face, with the same arguments and results, for callers that crop one image.

    With `margin` the first crop's fixed factors apply; without it the margins are drawn (train) or halved.
    Returns the crop (H, W, 3), landmark and bbox in the crop's pixels, the distances (y0, x0, y1, x1) from the
    face to the crop's edges and, with `abs_coord`, the window as four ints. Raises DataError when the geometry to
    crop by is missing or the phase is unknown.
    """
    geometry = bbox if crop_by_bbox else landmark
    if geometry is None or phase not in ("train", "val", "test"):
        raise DataError(
            "crop_face needs a bbox (or a landmark with crop_by_bbox=False) and phase train, val or test"
        )
    face = np.asarray(bbox, dtype=np.float64)[:2].ravel() if crop_by_bbox else bounds(geometry[:68])
    w, h = face[2] - face[0], face[3] - face[1]
    shares = (1 / 4, 1 / 4, 1 / 4, 1 / 4) if crop_by_bbox else (1 / 8, 1 / 8, 1 / 2, 1 / 5)
    drawn = None if margin else draw_side_factors(rng or np.random.default_rng(), phase == "train")
    factors = drawn or (4, 4, 2, 2)
    margins = np.array([w, w, h, h]) * shares * factors
    y0, y1, x0, x1 = window = _window(face, margins, *img.shape[:2])
    crop = img[y0:y1, x0:x1]
    if only_img:
        return crop
    moved = [None if g is None else np.asarray(g, dtype=np.float64) - (x0, y0) for g in (landmark, bbox)]
    edges = (face[1] - y0, face[0] - x0, y1 - face[3], x1 - face[2])
    return (crop, *moved, edges, *window) if abs_coord else (crop, *moved, edges)


def stored_order(landmarks: Points) -> Points:
    """Returns (..., 81, 2) with the forehead points in the order of the files; the inverse of `reorder_landmark`."""
    stored = np.array(landmarks)
    stored[..., FOREHEAD_ORDER, :] = landmarks[..., 68:, :]
    return stored


def face_box(landmarks_81: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Returns (7, 2) as in a RetinaFace file: [x0 y0], [x1 y1], eyes, nose tip, corners of the mouth."""
    jaw, brows, forehead = landmarks_81[:17], landmarks_81[17:27], landmarks_81[68:]
    x0, x1, y1 = jaw[:, 0].min(), jaw[:, 0].max(), jaw[:, 1].max()
    y0 = 0.45 * brows[:, 1].min() + 0.55 * forehead[:, 1].min()
    eyes = [landmarks_81[36:42].mean(0), landmarks_81[42:48].mean(0)]
    return np.array([[x0, y0], [x1, y1], *eyes, landmarks_81[30], landmarks_81[48], landmarks_81[54]])
