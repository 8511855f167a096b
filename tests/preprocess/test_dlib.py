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


def error_pct(found: np.ndarray, true_N2: np.ndarray) -> float:
    """Mean distance in percent of the outer eye distance, both in SBI order."""
    eyes = np.linalg.norm(true_N2[36] - true_N2[45])
    return float(np.linalg.norm(found - true_N2, axis=1).mean() / eyes * 100)


def test_it_finds_a_face_where_it_is(take: Take, detector: DlibDetector) -> None:
    for frame, true_N2 in zip(take.frames_THWC[::3], take.landmarks_T[::3], strict=True):
        faces = detector.find(frame, None)
        assert len(faces) == 1
        assert (
            error_pct(reorder_landmark(faces[0].landmarks_N2), true_N2) < 9
        )  # 5 to 8 on rendered, 4 on real faces
    assert detector.find(np.full((200, 200, 3), 127, np.uint8), None) == []


def on_a_stage(take: Take, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The first frame, small, in a picture of 640x480 (H, W, 3), and its landmarks there."""
    small = cv2.resize(take.frames_THWC[0], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    stage = np.full((480, 640, 3), 110, np.uint8)
    stage[100 : 100 + len(small), 300 : 300 + small.shape[1]] = small
    return stage, take.landmarks_T[0] * scale + (300, 100)


def test_a_small_face_is_looked_for_again_enlarged(take: Take, detector: DlibDetector) -> None:
    stage, true_N2 = on_a_stage(take, 0.4)
    assert detector._boxes(stage, 1.0) == []
    faces = detector.find(stage, None)
    assert len(faces) == 1
    assert error_pct(reorder_landmark(faces[0].landmarks_N2), true_N2) < 12


def test_a_followed_face_is_looked_for_where_it_was(take: Take, detector: DlibDetector) -> None:
    stage, true_N2 = on_a_stage(take, 0.4)
    near_4 = bounds(true_N2[:68]) + np.array([3, -2, 3, -2])
    faces = detector.find(stage, near_4)
    assert len(faces) == 1
    assert IoUfrom2bboxes(bounds(faces[0].landmarks_N2[:68]), bounds(true_N2[:68])) > 0.6
    assert detector.find(stage, np.array([20.0, 300, 60, 340])) == []
    assert detector.find(stage, np.array([-50.0, -50, -20, -20])) == []


def test_it_searches_a_large_picture_at_the_given_size(take: Take) -> None:
    large = cv2.resize(take.frames_THWC[0], None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    searched = []

    class Watched(DlibDetector):
        def _boxes(self, image_HWC: np.ndarray, scale: float) -> list[np.ndarray]:
            searched.append(max(image_HWC.shape) * scale)
            return super()._boxes(image_HWC, scale)

    faces = Watched(find_model(), 640).find(large, None)
    assert searched == [640]
    assert error_pct(reorder_landmark(faces[0].landmarks_N2), take.landmarks_T[0] * 5) < 9


def test_the_identity_tells_model_and_size_apart(detector: DlibDetector) -> None:
    assert detector.identity == dlib_detector(None, 640).identity
    assert detector.identity != dlib_detector(None, 320).identity
    assert "68 points" in detector.identity


@pytest.mark.parametrize("kind", ["pickle", "text", "empty", "cut", "folder", "missing"])
def test_what_is_no_model_is_refused_and_never_unpickled(kind: str, tmp_path: Path) -> None:
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
    with pytest.raises(DataError) as told:
        DlibDetector(path, 640)
    assert "model.dat" in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"68-point model is not there.*\[preprocess\].*--predictor"):
        find_model()


def test_from_a_recording_to_the_tree(take: Take, tmp_path: Path) -> None:
    video = encode(tmp_path / "raw/000.mp4", take.frames_THWC)
    arguments = [str(video), "--root", str(tmp_path / "data"), "--workers", "1", "--num-frames", str(N)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "1 made" in result.output
    for split in ("train", "val", "test"):
        (tmp_path / f"data/FaceForensics++/{split}.json").write_text('[["000", "001"]]')
    track = read_geometry(FFPPTree(tmp_path / "data").real_videos("train", "raw")[0], 0, N)
    errors = [
        error_pct(found, true_N2)
        for found, true_N2 in zip(track.landmarks_TN2, take.landmarks_T, strict=True)
    ]
    assert max(errors) < 10
    assert IoUfrom2bboxes(track.box_22.ravel(), bounds(take.landmarks_T[0][:68])) > 0.6
