"""dlib on rendered faces, whose landmarks are known. Needs the optional extra `preprocess`."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.preprocess import main
from stf.data.clips import read_geometry
from stf.data.faces import IoUfrom2bboxes, bounds, reorder_landmark
from stf.data.ffpp import FFPPTree
from stf.errors import DataError, UsageError
from stf.preprocess import dlib_detector as module
from stf.preprocess.dlib_detector import DlibDetector, dlib_detector, find_model
from stf.sample import build as sample
from stf.sample.performance import draw_acting
from stf.sample.take import Take, record
from tests.reference.preprocess_videos import encode

dlib = pytest.importorskip("dlib", reason="the optional extra `preprocess` is not installed")
N = 10


@pytest.fixture(scope="module")
def take() -> Take:
    rng = np.random.default_rng(3)
    return record(sample._head(0, "003"), draw_acting(rng, N), (152, 184), rng)


@pytest.fixture(scope="module")
def detector() -> DlibDetector:
    return dlib_detector(None, 640)


def error_pct(landmarks_N2: np.ndarray, true_N2: np.ndarray) -> float:
    """Returns the mean distance in percent of the outer eye distance; both in SBI order."""
    eyes = np.linalg.norm(true_N2[36] - true_N2[45])
    return float(np.linalg.norm(landmarks_N2 - true_N2, axis=1).mean() / eyes * 100)


def test_a_face_is_found_at_its_true_position(take: Take, detector: DlibDetector) -> None:
    for frame, true_N2 in zip(take.frames_THWC[::3], take.landmarks_T[::3], strict=True):
        faces = detector.find(frame, None)
        assert len(faces) == 1
        # 5 to 8 on rendered faces, 4 on real ones
        assert error_pct(reorder_landmark(faces[0].landmarks_N2), true_N2) < 9
    assert detector.find(np.full((200, 200, 3), 127, np.uint8), None) == []


def small_face(take: Take, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first frame, scaled down inside a picture of 640x480 (H, W, 3), and its landmarks there."""
    small = cv2.resize(take.frames_THWC[0], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    picture = np.full((480, 640, 3), 110, np.uint8)
    picture[100 : 100 + len(small), 300 : 300 + small.shape[1]] = small
    return picture, take.landmarks_T[0] * scale + (300, 100)


def test_a_small_face_is_found_by_an_enlarged_search(take: Take, detector: DlibDetector) -> None:
    picture, true_N2 = small_face(take, 0.4)
    assert detector._boxes(picture, 1.0) == []
    faces = detector.find(picture, None)
    assert len(faces) == 1
    assert error_pct(reorder_landmark(faces[0].landmarks_N2), true_N2) < 12


def test_a_tracked_face_is_searched_near_its_last_position(take: Take, detector: DlibDetector) -> None:
    picture, true_N2 = small_face(take, 0.4)
    near_4 = bounds(true_N2[:68]) + np.array([3, -2, 3, -2])
    faces = detector.find(picture, near_4)
    assert len(faces) == 1
    assert IoUfrom2bboxes(bounds(faces[0].landmarks_N2[:68]), bounds(true_N2[:68])) > 0.6
    assert detector.find(picture, np.array([20.0, 300, 60, 340])) == []
    assert detector.find(picture, np.array([-50.0, -50, -20, -20])) == []


def test_a_large_picture_is_searched_at_the_given_size(take: Take) -> None:
    large = cv2.resize(take.frames_THWC[0], None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    searched = []

    class RecordingDetector(DlibDetector):
        def _boxes(self, image_HWC: np.ndarray, scale: float) -> list[np.ndarray]:
            searched.append(max(image_HWC.shape) * scale)
            return super()._boxes(image_HWC, scale)

    faces = RecordingDetector(find_model(), 640).find(large, None)
    assert searched == [640]
    assert error_pct(reorder_landmark(faces[0].landmarks_N2), take.landmarks_T[0] * 5) < 9


def test_the_identity_depends_on_model_and_size(detector: DlibDetector) -> None:
    assert detector.identity == dlib_detector(None, 640).identity
    assert detector.identity != dlib_detector(None, 320).identity
    assert "68 points" in detector.identity


@pytest.mark.parametrize("kind", ["pickle", "text", "empty", "cut", "folder", "missing"])
def test_a_bad_model_file_is_refused_and_never_unpickled(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.dat"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        content = {
            "pickle": pickle.dumps(Bomb(tmp_path / "exploded")),
            "text": b"a model\n" * 100,
            "empty": b"",
            "cut": find_model().read_bytes()[:100_000],
        }
        path.write_bytes(content[kind])
    with pytest.raises(DataError) as caught:
        DlibDetector(path, 640)
    assert "model.dat" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_the_error_of_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"68-point model is not installed.*\[preprocess\].*--predictor"):
        find_model()


def test_a_recording_becomes_a_video_of_the_tree(take: Take, tmp_path: Path) -> None:
    video = encode(tmp_path / "raw/000.mp4", take.frames_THWC)
    arguments = [str(video), "--root", str(tmp_path / "data"), "--workers", "1", "--num-frames", str(N)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "1 made" in result.output
    for split in ("train", "val", "test"):
        (tmp_path / f"data/FaceForensics++/{split}.json").write_text('[["000", "001"]]')
    track = read_geometry(FFPPTree(tmp_path / "data").real_videos("train", "raw")[0], 0, N)
    errors = [
        error_pct(landmarks_N2, true_N2)
        for landmarks_N2, true_N2 in zip(track.landmarks_TN2, take.landmarks_T, strict=True)
    ]
    assert max(errors) < 10
    assert IoUfrom2bboxes(track.box_22.ravel(), bounds(take.landmarks_T[0][:68])) > 0.6
