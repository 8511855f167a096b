"""dlib's frontal face detector and shape predictor: 68 points plus an extrapolated hairline, or an 81-point model.

The second searches, at another scale and near the face's last position, run only when a face is missing.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.faces import N_POINTS, IoUfrom2bboxes
from stf.errors import DataError, UsageError
from stf.io.hashing import sha256_of
from stf.preprocess.faces import Face, with_forehead

Box = NDArray[np.float64]
INSTALL = "install the optional extra: .venv/bin/uv pip install --python .venv/bin/python -e '.[preprocess]'"
SIDE_PX = 640  # longer side of the searched picture; landmarks differ by .1 % from a search at full size
_CLOSE_FACE_PX = 130.0  # the detector's own window is 80
_CLOSE_WIDTHS = 2.2
_UPSAMPLED_PIXELS = 1_000_000
_SAME_FACE_IOU = 0.3


def find_model() -> Path:
    """Finds the 68-point model file in the package face-recognition-models, which newer Pythons cannot import."""
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "models" / "shape_predictor_68_face_landmarks.dat"
        if path.is_file():
            return path
    raise UsageError(f"the 68-point model is not installed: {INSTALL}; or give a model file with --predictor")


@functools.cache  # loaded before the workers fork, so that they share its 100 MB
def dlib_detector(predictor: str | None, side_px: int) -> DlibDetector:
    """Loads the detector with the model at `predictor`, or with the package's.

    Raises UsageError when the extra is not installed, DataError for a file that is no 68- or 81-point model.
    """
    return DlibDetector(Path(predictor) if predictor else find_model(), side_px)


class DlibDetector:
    """A `Detector`. `side_px` is the longer side of the searched picture; 0 searches at full size."""

    def __init__(self, model: Path, side_px: int) -> None:
        dlib = _dlib()
        self._dlib, self._side_px = dlib, side_px
        self._search = dlib.get_frontal_face_detector()
        self._predict, n_points = _load(dlib, model)
        self._has_forehead = n_points == N_POINTS
        model_key = f"{n_points} points, {sha256_of(model)[:16]}"
        self._identity = f"dlib {dlib.__version__}, {model_key}, searched at {side_px or 'full size'}"

    @property
    def identity(self) -> str:
        """The library's version, the model's hash and the size of the searched picture."""
        return self._identity

    def find(self, image_HWC: NDArray[np.uint8], near_4: Box | None) -> list[Face]:
        """See `Detector`."""
        longer = max(image_HWC.shape[:2])
        scale = min(1.0, self._side_px / longer) if self._side_px else 1.0
        boxes = self._boxes(image_HWC, scale)
        if near_4 is not None:
            if not any(IoUfrom2bboxes(near_4, box) > _SAME_FACE_IOU for box in boxes):
                boxes += self._boxes_near(image_HWC, near_4, boxes)
        elif not boxes:
            boxes = self._search_enlarged(image_HWC, scale)
        return [self.align(image_HWC, box) for box in boxes]

    def align(self, image_HWC: NDArray[np.uint8], box_4: Box) -> Face:
        """See `Detector`."""
        shape = self._predict(image_HWC, self._dlib.rectangle(*(round(float(v)) for v in box_4)))
        points = np.array([(p.x, p.y) for p in shape.parts()], np.float64)
        return Face(box_4, points if self._has_forehead else with_forehead(points))

    def _boxes(self, image_HWC: NDArray[np.uint8], scale: float) -> list[Box]:
        scaled = np.asarray(image_HWC)
        if scale != 1:
            interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            scaled = cv2.resize(image_HWC, None, fx=scale, fy=scale, interpolation=interpolation)
        boxes = self._search(np.ascontiguousarray(scaled, np.uint8), 0)
        return [np.array([b.left(), b.top(), b.right(), b.bottom()], np.float64) / scale for b in boxes]

    def _boxes_near(self, image_HWC: NDArray[np.uint8], near_4: Box, known: list[Box]) -> list[Box]:
        """Searches a window around `near_4`, scaled so that the face has a fixed size; at most one box."""
        height, width = image_HWC.shape[:2]
        centre, side = (near_4[:2] + near_4[2:]) / 2, max(float((near_4[2:] - near_4[:2]).max()), 8.0)
        x0, y0 = np.maximum(0, centre - _CLOSE_WIDTHS / 2 * side).astype(int).tolist()
        x1, y1 = np.minimum((width, height), centre + _CLOSE_WIDTHS / 2 * side).astype(int).tolist()
        if x1 - x0 < 8 or y1 - y0 < 8:
            return []
        boxes_in_window = self._boxes(image_HWC[y0:y1, x0:x1], _CLOSE_FACE_PX / side)
        boxes = [box + np.array([x0, y0, x0, y0]) for box in boxes_in_window]
        best = max(boxes, key=lambda box: IoUfrom2bboxes(near_4, box), default=None)
        if best is None or any(IoUfrom2bboxes(best, box) > _SAME_FACE_IOU for box in known):
            return []
        return [best] if IoUfrom2bboxes(near_4, best) > _SAME_FACE_IOU else []

    def _search_enlarged(self, image_HWC: NDArray[np.uint8], scale: float) -> list[Box]:
        """Searches for small faces at full size, then enlarged within a pixel budget."""
        enlarged = min(2.0, (_UPSAMPLED_PIXELS / (image_HWC.shape[0] * image_HWC.shape[1])) ** 0.5)
        for larger_scale in (1.0, enlarged):
            if larger_scale > scale and (boxes := self._boxes(image_HWC, larger_scale)):
                return boxes
        return []


def _dlib() -> Any:
    """Imports dlib, an optional module without type hints."""
    try:
        import dlib  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(f"dlib is not installed: {INSTALL}") from None
    return dlib


def _load(dlib: Any, model: Path) -> tuple[Any, int]:
    """Returns (predictor, its number of points)."""
    try:
        predict = dlib.shape_predictor(str(model))
        n_points = predict(np.zeros((64, 64, 3), np.uint8), dlib.rectangle(8, 8, 56, 56)).num_parts
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:80]
        raise DataError(
            f"{model} is not a landmark model ({reason}); give an unpacked dlib shape predictor (.dat)"
        ) from None
    if n_points not in (68, N_POINTS):
        raise DataError(f"{model} predicts {n_points} points; give a model with 68 or {N_POINTS}")
    return predict, n_points
