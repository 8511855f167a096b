"""Landmarks and boxes: every shape on disk, every error, SBI's crops, mirrored geometry."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stf.data.faces import (
    FLIP_ORDER,
    IoUfrom2bboxes,
    crop_face,
    draw_side_factors,
    final_crop_window,
    first_crop_window,
    flip_geometry,
    largest_face,
    match_box,
    read_boxes,
    read_landmarks,
    reorder_landmark,
)
from stf.errors import DataError
from tests.reference.sbi_crop import final_crop, first_crop

POINTS = np.random.default_rng(0).uniform(20, 80, (81, 2))
BOX = np.array([[30.0, 25.0], [70.0, 85.0]])


@pytest.mark.parametrize("dtype", [np.int64, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("faces", [None, 1, 3])
def test_landmarks_of_every_shape_and_type(tmp_path: Path, dtype: type, faces: int | None) -> None:
    stored = (
        POINTS.astype(dtype) if faces is None else np.stack([POINTS.astype(dtype) + i for i in range(faces)])
    )
    np.save(tmp_path / "a.npy", stored)
    read = read_landmarks(tmp_path / "a.npy")
    assert read.shape == (faces or 1, 81, 2)
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, stored.reshape(-1, 81, 2).astype(np.float64))


@pytest.mark.parametrize("faces", [1, 2, 4, 7])
@pytest.mark.parametrize("tail", [(2, 2), (7, 2), (4,)])
def test_boxes_of_every_shape(tmp_path: Path, faces: int, tail: tuple[int, ...]) -> None:
    corners = np.stack([BOX + i for i in range(faces)])
    extra = np.zeros((faces, 5, 2))
    stored = np.concatenate([corners, extra], 1) if tail == (7, 2) else corners.reshape(faces, *tail)
    np.save(tmp_path / "a.npy", stored)
    np.testing.assert_array_equal(read_boxes(tmp_path / "a.npy"), corners)


def test_fortran_order_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(POINTS))
    np.testing.assert_array_equal(read_landmarks(tmp_path / "a.npy")[0], POINTS)


class Bomb:
    """Exits when unpickled, so that a test fails if anything is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((80, 2)), "shape"),
        (np.zeros((2, 81, 3)), "shape"),
        (np.zeros(()), "shape"),
        (np.zeros((0, 81, 2)), "no face"),
        (np.full((81, 2), np.nan), "NaN"),
        (np.full((81, 2), np.inf), "NaN or infinite"),
        (np.full((81, 2), "a"), "values"),
        (np.zeros((81, 2), bool), "values"),
        (np.zeros((81, 2), complex), "values"),
    ],
)
def test_wrong_landmarks_are_refused_by_name(tmp_path: Path, values: np.ndarray, message: str) -> None:
    np.save(tmp_path / "007.npy", values)
    with pytest.raises(DataError, match=rf"007\.npy.*{message}"):
        read_landmarks(tmp_path / "007.npy")


def test_pickles_archives_and_truncated_files_are_refused_and_never_executed(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="never loaded"):
        read_landmarks(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=r"not a \.npy"):
        read_landmarks(path)
    with open(path, "wb") as stream:
        np.savez(stream, a=POINTS)
    with pytest.raises(DataError, match=r"not a \.npy"):
        read_landmarks(path)
    np.save(path, POINTS)
    whole = path.read_bytes()
    for n_bytes in (0, 5, 40, 200, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(DataError):
            read_landmarks(path)
    path.write_bytes(whole.replace(b"(81, 2)", b"(8**9,)"))
    with pytest.raises(DataError):
        read_landmarks(path)
    path.write_bytes(bytes(2_000_000))
    with pytest.raises(DataError, match="2000000 bytes"):
        read_landmarks(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_landmarks(tmp_path / "none.npy")


def test_a_forged_shape_allocates_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", POINTS)
    data = (tmp_path / "a.npy").read_bytes()
    forged = data.replace(b"(81, 2), }    ", b"(99999999999,)}")[: len(data)]
    (tmp_path / "a.npy").write_bytes(forged)
    with pytest.raises(DataError):
        read_landmarks(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "values", [np.zeros((1, 3, 2)), np.zeros((2, 2)), np.zeros((1, 5)), np.zeros((1, 2, 2))]
)
def test_wrong_boxes_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=r"a\.npy"):
        read_boxes(tmp_path / "a.npy")


def test_iou_counts_end_pixels() -> None:
    assert IoUfrom2bboxes((0, 0, 9, 9), (0, 0, 9, 9)) == 1.0
    assert IoUfrom2bboxes((0, 0, 9, 9), (5, 0, 14, 9)) == pytest.approx(50 / 150)
    assert IoUfrom2bboxes((0, 0, 9, 9), (10, 0, 19, 9)) == 0.0
    assert IoUfrom2bboxes((0, 0, 9, 9), (9, 9, 20, 20)) == pytest.approx(1 / (100 + 144 - 1))


def test_the_box_of_the_right_person_is_matched() -> None:
    boxes = np.stack([BOX + 200, BOX, BOX + 30])
    np.testing.assert_array_equal(match_box(POINTS, boxes), BOX)
    assert largest_face(np.stack([POINTS * 0.5, POINTS, POINTS * 0.9])) == 1
    with pytest.raises(DataError, match="no box overlaps"):
        match_box(POINTS, boxes[:1])


def test_forehead_order_runs_along_the_hairline() -> None:
    reordered = reorder_landmark(POINTS)
    np.testing.assert_array_equal(reordered[:68], POINTS[:68])
    np.testing.assert_array_equal(reordered[68:71], POINTS[[77, 75, 76]])
    np.testing.assert_array_equal(reordered[-1], POINTS[78])
    assert sorted(map(tuple, reordered)) == sorted(map(tuple, POINTS))
    clip = np.stack([POINTS, POINTS + 1])
    np.testing.assert_array_equal(reorder_landmark(clip)[1], reordered + 1)


def test_flipping_twice_is_the_identity_and_swaps_left_for_right() -> None:
    once = flip_geometry(POINTS, BOX, 101)
    twice = flip_geometry(*once, 101)
    np.testing.assert_allclose(twice[0], POINTS)
    np.testing.assert_allclose(twice[1], BOX)
    assert sorted(FLIP_ORDER) == list(range(81))
    pairs = {0: 16, 8: 8, 17: 26, 30: 30, 31: 35, 36: 45, 39: 42, 40: 47, 41: 46, 48: 54, 51: 51, 57: 57}
    pairs |= {60: 64, 65: 67, 66: 66, 68: 80, 74: 74}
    for left, right in pairs.items():
        assert (FLIP_ORDER[left], FLIP_ORDER[right]) == (right, left)
    assert (once[1][1] > once[1][0]).all()


def test_flipped_points_lie_on_the_flipped_pixels() -> None:
    image = np.zeros((40, 101), np.uint8)
    rng = np.random.default_rng(1)
    points = np.stack([rng.permutation(101)[:81], rng.integers(0, 40, 81)], 1)
    for i, (x, y) in enumerate(points):
        image[y, x] = i + 1
    flipped, _ = flip_geometry(points, BOX, 101)
    values = image[:, ::-1][flipped[:, 1], flipped[:, 0]]
    np.testing.assert_array_equal(values, FLIP_ORDER + 1)


coordinates = st.floats(-30, 130, allow_nan=False)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=81, max_size=81))
def test_the_first_crop_equals_the_reference(points: list[tuple[float, float]]) -> None:
    plain = first_crop(points, 90, 110)
    if plain[0] < plain[1] and plain[2] < plain[3]:
        assert first_crop_window(np.array(points), 90, 110) == plain
    else:
        with pytest.raises(DataError, match="outside"):
            first_crop_window(np.array(points), 90, 110)


@given(
    st.tuples(*[st.floats(0, 60)] * 2),
    st.tuples(*[st.floats(1, 60)] * 2),
    st.tuples(*[st.floats(0.2, 0.8)] * 4),
)
def test_the_final_crop_equals_the_reference(corner: tuple, size: tuple, factors: tuple) -> None:
    box = [list(corner), [corner[0] + size[0], corner[1] + size[1]]]
    assert final_crop_window(np.array(box), 90, 110, factors) == final_crop(box, 90, 110, list(factors))


def test_side_factors_are_drawn_in_training_only() -> None:
    drawn = np.array([draw_side_factors(np.random.default_rng(i), True) for i in range(500)])
    assert drawn.min() >= 0.2
    assert drawn.max() <= 0.8
    assert np.ptp(drawn, axis=0).min() > 0.5
    assert draw_side_factors(np.random.default_rng(0), False) == (0.5, 0.5, 0.5, 0.5)


def test_crop_face_agrees_with_the_windows_and_moves_the_geometry() -> None:
    image = np.random.default_rng(2).integers(0, 255, (90, 110, 3), np.uint8)
    y0, y1, x0, x1 = first_crop_window(POINTS, 90, 110)
    crop, landmark, box, edges = crop_face(image, POINTS, BOX, margin=True, crop_by_bbox=False)
    np.testing.assert_array_equal(crop, image[y0:y1, x0:x1])
    np.testing.assert_allclose(landmark, POINTS - (x0, y0))
    np.testing.assert_allclose(box, BOX - (x0, y0))
    assert edges[0] == pytest.approx(POINTS[:68, 1].min() - y0)
    window = final_crop_window(BOX, 90, 110, (0.5,) * 4)
    assert crop_face(image, POINTS, BOX, abs_coord=True, phase="val")[4:] == window
    drawn = final_crop_window(BOX, 90, 110, draw_side_factors(np.random.default_rng(5), True))
    only = crop_face(image, None, BOX, only_img=True, rng=np.random.default_rng(5))
    assert only.shape[:2] == (drawn[1] - drawn[0], drawn[3] - drawn[2])
    assert crop_face(image, None, BOX, phase="test")[1] is None
    with pytest.raises(DataError, match="crop_face needs"):
        crop_face(image, POINTS, None)


def test_a_face_outside_the_image_is_an_error_not_an_empty_crop() -> None:
    with pytest.raises(DataError, match="outside the 110x90 image"):
        final_crop_window(BOX + 500, 90, 110, (0.5,) * 4)


def test_a_flipped_image_and_box_give_the_same_crop() -> None:
    image = np.random.default_rng(3).integers(0, 255, (90, 110, 3), np.uint8)
    _, box = flip_geometry(POINTS, BOX, 110)
    y0, y1, x0, x1 = final_crop_window(BOX, 90, 110, (0.5,) * 4)
    fy0, fy1, fx0, fx1 = final_crop_window(box, 90, 110, (0.5,) * 4)
    flipped = np.ascontiguousarray(image[:, ::-1])[fy0:fy1, fx0:fx1]
    assert (fy0, fy1, fx1 - fx0) == (y0, y1, x1 - x0)
    np.testing.assert_array_equal(cv2.flip(flipped, 1), image[y0:y1, x0:x1])
