"""The synthetic sample: layout, determinism, correct landmarks, and forgeries that change only the face."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from stf.config import METHODS
from stf.data.clips import read_clip
from stf.data.faces import bounds, read_boxes, read_landmarks, reorder_landmark, stored_order
from stf.data.ffpp import SPLITS, FFPPTree
from stf.errors import DataError
from stf.sample import build as sample
from stf.sample.build import SampleSpec, generate_sample
from stf.sample.camera import h264
from stf.sample.canonical import neutral_landmarks
from stf.sample.detector import detect
from stf.sample.expression import Expression, moved_landmarks
from stf.sample.face import Light, Pose, project, render, unproject
from stf.sample.forging import hull
from stf.sample.performance import draw_acting
from stf.sample.reenactments import face2face, neural_textures
from stf.sample.skin import Head, paint_head
from stf.sample.swaps import deepfakes, faceswap
from stf.sample.take import Take, record

SMALL = SampleSpec(train=2, val=2, test=2, n_frames=5)
NEUTRAL = Expression(0, 0, 0, 0, 0, 1, 0, 0)
SPEAKING = Expression(0.2, 0.5, 0.3, 0.6, 0.3, 0.8, 0.02, 0)
SIZE = (SMALL.height, SMALL.width)


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> FFPPTree:
    root = tmp_path_factory.mktemp("sample") / "made"
    generate_sample(root, seed=3, workers=1, spec=SMALL)
    return FFPPTree(root)


@pytest.fixture(scope="module")
def head() -> Head:
    return sample._head(0, "026")


@pytest.fixture(scope="module")
def take(head: Head) -> Take:
    return record(head, draw_acting(np.random.default_rng(5), 6), SIZE, np.random.default_rng(6))


def test_any_number_of_workers_writes_the_same_bytes(tree: FFPPTree, tmp_path: Path) -> None:
    generate_sample(tmp_path / "again", seed=3, workers=2, spec=SMALL)
    assert _digests(tmp_path / "again") == _digests(tree.root)


def test_another_seed_gives_other_people(tree: FFPPTree, tmp_path: Path) -> None:
    spec = SampleSpec(train=2, val=2, test=2, n_frames=1)
    generate_sample(tmp_path / "other", seed=4, workers=1, spec=spec)
    ours, theirs = (
        read_clip(FFPPTree(r).real_videos("train", "raw")[0].frame_paths[:1])
        for r in (tree.root, tmp_path / "other")
    )
    assert np.abs(ours.astype(int) - theirs.astype(int)).mean() > 5


def test_layout(tree: FFPPTree) -> None:
    assert tree.qualities() == ("raw", "c23")
    assert tree.overlap() == {}
    assert [tree.ids(split) for split in SPLITS] == [["000", "001"], ["002", "003"], ["004", "005"]]
    for quality in tree.qualities():
        assert tree.methods(quality) == METHODS
        for split in SPLITS:
            assert [v.video_id for v in tree.real_videos(split, quality)] == tree.ids(split)
        for method in METHODS:
            videos = tree.fake_videos("test", method, quality)
            assert [v.video_id for v in videos] == ["004_005", "005_004"] == tree.expected_fake_ids("test")
            assert not any(v.borrowed_geometry for v in videos)
    text = (tree.root / "README.txt").read_text()
    assert "SYNTHETIC" in text
    assert "No real person" in text
    assert str(sample.SAMPLE_VERSION) in text


def test_default_size_and_disjoint_identities() -> None:
    spec = SampleSpec()
    ids = [identity for split in SPLITS for identity in spec.ids(split)]
    assert [len(spec.ids(split)) for split in SPLITS] == [20, 6, 16]
    assert len(set(ids)) == len(ids) == 42
    assert all({a for pair in spec.pairs(split) for a in pair} == set(spec.ids(split)) for split in SPLITS)


def test_every_video_is_complete_and_its_face_large_enough(tree: FFPPTree) -> None:
    videos = [v for q in tree.qualities() for s in SPLITS for v in tree.real_videos(s, q)]
    videos += [v for q in tree.qualities() for m in METHODS for v in tree.fake_videos("test", m, q)]
    assert len(videos) == 2 * (6 + 8)
    for video in videos:
        clip = read_clip(video.frame_paths)
        assert clip.shape == (SMALL.n_frames, *SIZE, 3)
        assert video.frame_numbers == tuple(range(SMALL.n_frames))
        for landmark_path, box_path in zip(video.landmark_paths, video.box_paths, strict=True):
            assert landmark_path is not None
            assert box_path is not None
            assert np.load(landmark_path).dtype == np.int64
            assert np.load(box_path).shape == (1, 7, 2)
            x0, y0, x1, y1 = bounds(read_landmarks(landmark_path)[0])
            assert x1 - x0 >= 112
            assert y1 - y0 >= 112
            assert x0 >= 0
            assert x1 < SIZE[1]
            assert y1 < SIZE[0]
            box = read_boxes(box_path)[0].ravel()
            assert abs(box[0] - x0) < 3
            assert abs(box[2] - x1) < 3
            assert abs(box[3] - y1) < 3


def test_enough_background_remains_around_the_face(tree: FFPPTree) -> None:
    """The leak audit measures the pixels farther than 32 px from the hull."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (65, 65))
    for video in tree.real_videos("test", "c23") + tree.real_videos("train", "c23"):
        path = video.landmark_paths[0]
        assert path is not None
        mask = np.pad(hull(read_landmarks(path)[0], SIZE), 40)
        assert 1 - cv2.dilate(mask, kernel)[40:-40, 40:-40].mean() > 0.08


def test_reordering_the_stored_forehead_points_restores_them(head: Head) -> None:
    points = neutral_landmarks(head.identity.shape)
    np.testing.assert_array_equal(reorder_landmark(stored_order(points)), points)
    forehead = points[68:]
    assert (np.diff(forehead[:, 0]) > 0).all()  # runs along the hairline from the left
    assert forehead[:, 1].max() < points[36:48, 1].min()


def test_landmarks_have_the_right_order_and_symmetry(head: Head) -> None:
    p = neutral_landmarks(head.identity.shape)
    assert p[0, 0] < p[36, 0] < p[39, 0] < p[27, 0] < p[42, 0] < p[45, 0] < p[16, 0]
    assert p[19, 1] < p[37, 1] < p[41, 1] < p[30, 1] < p[51, 1] < p[62, 1] <= p[66, 1] < p[57, 1] < p[8, 1]
    np.testing.assert_allclose(p[:17], p[16::-1] * (-1, 1), atol=1e-12)
    assert (p[[37, 38], 1] < p[[41, 40], 1]).all()


@pytest.mark.parametrize("expression", [NEUTRAL, SPEAKING])
def test_projection_and_its_inverse_agree(head: Head, expression: Expression) -> None:
    """The pixel at a landmark shows the landmark's point on the face, within half a pixel."""
    pose = Pose(0.12, -0.06, 0.05, 90, 75, 57)
    points = moved_landmarks(head.identity.shape, expression)[17:68]
    pixels = project(head, pose, points)
    u, v = unproject(head, pose, *SIZE)
    unprojected = [
        cv2.remap(
            plane,
            pixels[None, :, 0].astype(np.float32),
            pixels[None, :, 1].astype(np.float32),
            cv2.INTER_LINEAR,
        )[0]
        for plane in (u, v)
    ]
    assert np.abs(np.stack(unprojected, 1) - points).max() * pose.scale_px < 0.5


def test_features_are_painted_where_the_landmarks_are(head: Head) -> None:
    """An open mouth is dark inside its inner-lip points; an eye is brighter open than shut."""
    light = Light(np.array([-0.4, -0.4, 0.82]), np.ones(3), np.full(3, 0.4))
    pose, visibility = Pose(0.1, 0.05, -0.04, 92, 76, 57), head.visibility(light.towards)

    def inside(expression: Expression, points: slice) -> float:
        drawn = render(head, pose, expression, light, visibility, SIZE)
        mask = hull(drawn.landmarks_81[points], SIZE).astype(bool)
        return float(np.abs(drawn.colour_HWC - shut.colour_HWC)[mask].mean())

    shut = render(head, pose, Expression(0, 0, 0, 0, 0, 0, 0, 0), light, visibility, SIZE)
    wide = Expression(0.25, 0, 0, 0, 0, 1, 0, 0)
    drawn = render(head, pose, wide, light, visibility, SIZE)
    mouth, cheeks = inside(wide, slice(60, 68)), hull(drawn.landmarks_81[[2, 31, 35, 14]], SIZE).astype(bool)
    assert mouth > 0.1
    assert inside(wide, slice(36, 42)) > 0.05
    assert inside(wide, slice(42, 48)) > 0.05
    assert np.abs(drawn.colour_HWC - shut.colour_HWC)[cheeks].mean() < 0.02


def test_landmarks_follow_the_recorded_face(take: Take) -> None:
    """The optical flow of the skin between eyes and mouth agrees with the landmarks' motion."""
    first, last = (cv2.cvtColor(take.frames_THWC[t], cv2.COLOR_RGB2GRAY) for t in (0, 3))
    points = take.landmarks_T[0, 27:48].astype(np.float32)[:, None]
    guess = points.copy()
    moved, status, _ = cv2.calcOpticalFlowPyrLK(first, last, points, guess, winSize=(17, 17))
    is_tracked = status[:, 0] == 1
    error = (moved[:, 0] - take.landmarks_T[3, 27:48])[is_tracked]
    assert is_tracked.sum() >= 15
    assert np.median(np.hypot(*error.T)) < 1.0


@pytest.mark.parametrize("method", METHODS)
def test_forgeries_change_only_the_face(take: Take, method: str) -> None:
    other, acting = sample._head(0, "027"), draw_acting(np.random.default_rng(9), len(take.frames_THWC))
    rng = np.random.default_rng(1)
    table: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        "Deepfakes": lambda: deepfakes(take, other, rng),
        "FaceSwap": lambda: faceswap(take, other, rng),
        "Face2Face": lambda: face2face(take, acting, rng),
        "NeuralTextures": lambda: neural_textures(take, acting, rng),
    }
    frames, landmarks = table[method]()
    for t, frame in enumerate(frames):
        inside = hull(take.landmarks_T[t], SIZE).astype(bool)
        change = np.abs(frame.astype(int) - take.frames_THWC[t].astype(int)).max(-1)
        assert change[~inside].max() == 0
        mouth = hull(take.landmarks_T[t, 48:60], SIZE).astype(bool)
        assert change[mouth].mean() > 1
        eyes = hull(take.landmarks_T[t, 36:42], SIZE).astype(bool)
        assert method != "NeuralTextures" or change[eyes].max() == 0
    np.testing.assert_array_equal(landmarks[:, :17], take.landmarks_T[:, :17])
    assert np.abs(landmarks - take.landmarks_T).max() > 0.5
    assert np.abs(landmarks - take.landmarks_T).max() < 30


def _sharpness(frame: np.ndarray, landmarks: np.ndarray) -> float:
    x0, y0, x1, y1 = bounds(landmarks).astype(int)
    grey = cv2.cvtColor(frame[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    return float(np.log(cv2.Laplacian(grey, cv2.CV_64F).var()))


def test_faceswap_is_as_sharp_as_the_frame_it_is_pasted_into(take: Take) -> None:
    """A texture without lens blur was about 1 sharper (ln of the Laplacian's variance): AUC .99 by sharpness alone."""
    frames, _ = faceswap(take, sample._head(0, "027"), np.random.default_rng(1))
    faces = take.landmarks_T
    differences = [
        _sharpness(f, p) - _sharpness(r, p) for f, r, p in zip(frames, take.frames_THWC, faces, strict=True)
    ]
    assert abs(np.mean(differences)) < 0.35


def test_detector_errors_stay_below_a_pixel() -> None:
    truth = np.zeros((50, 81, 2))
    error = detect(truth, np.random.default_rng(0))
    assert 0.1 < error.std() < 0.6
    assert np.abs(error).max() < 1


def test_c23_is_coarser_than_raw(tree: FFPPTree) -> None:
    """c23 is raw encoded once more, at CRF 23."""
    for video_id in ("000", "004"):
        split = "train" if video_id == "000" else "test"
        raw, c23 = (
            read_clip(next(v for v in tree.real_videos(split, q) if v.video_id == video_id).frame_paths)
            for q in ("raw", "c23")
        )
        assert 0 < np.abs(raw.astype(int) - c23.astype(int)).mean() < 6
        np.testing.assert_array_equal(h264(raw, 23), c23)


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("kept")
    with pytest.raises(DataError, match="not empty"):
        generate_sample(tmp_path / "full", workers=1, spec=SMALL)
    assert (tmp_path / "full" / "precious.txt").read_text() == "kept"


def test_a_failed_run_leaves_no_sample(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    tiny = SampleSpec(train=2, val=0, test=0, n_frames=1)
    with pytest.raises(KeyboardInterrupt):
        generate_sample(tmp_path / "s", workers=1, spec=tiny, progress=stop)
    assert not (tmp_path / "s").exists()
    calls: list[tuple[int, int]] = []
    generate_sample(tmp_path / "s", workers=1, spec=tiny, progress=lambda *a: calls.append(a))
    assert calls == [(1, 2), (2, 2)]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert json.loads((tmp_path / "s" / "FaceForensics++" / "train.json").read_text()) == [["000", "001"]]


def test_equal_identities_give_equal_heads() -> None:
    first, again = (paint_head(sample.draw_identity(np.random.default_rng(4))) for _ in range(2))
    np.testing.assert_array_equal(first.albedo_alpha, again.albedo_alpha)
