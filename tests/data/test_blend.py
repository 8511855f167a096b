"""Hull masks, soft masks and blending."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf.data.blend import (
    BLEND_RATIOS,
    BlendDraw,
    SoftMaskDraw,
    alpha_blend,
    dynamic_blend,
    get_blend_mask,
    hull_mask,
    mix,
    mix_into,
    soften,
)
from stf.errors import DataError
from tests.reference import data_blend_plain as plain

HEIGHT, WIDTH = 120, 140
seeds = st.integers(0, 2**32 - 1)


def face_points(rng: np.random.Generator, n: int = 81) -> np.ndarray:
    angle, radius = rng.uniform(0, 2 * np.pi, n), np.sqrt(rng.uniform(0, 1, n))
    return np.stack([70 + 38 * radius * np.cos(angle), 60 + 45 * radius * np.sin(angle)], -1)


def centroid(mask_HW: np.ndarray) -> np.ndarray:
    y, x = np.indices(mask_HW.shape)
    return np.array([(x * mask_HW).sum(), (y * mask_HW).sum()]) / mask_HW.sum()


def ellipse(dtype: type, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    y, x = np.indices((height, width))
    inside = ((x - width / 2) / (width * 0.3)) ** 2 + ((y - height / 2) / (height * 0.35)) ** 2 <= 1
    return inside.astype(dtype)


def two_images(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=25, deadline=None)
@given(seeds, st.booleans())
def test_hull_contains_its_points_and_is_convex(seed: int, use_68: bool) -> None:
    rng = np.random.default_rng(seed)
    points = face_points(rng)
    mask = hull_mask(points, HEIGHT, WIDTH, use_68)
    used = points[: 68 if use_68 else 81]
    assert mask.dtype == np.float32
    assert (mask.min(), mask.max()) == (0, 1)
    low, high = (
        np.rint(used - 0.01).astype(int),
        np.rint(used + 0.01).astype(int),
    )  # a point between two pixels
    assert (np.maximum(mask[low[:, 1], low[:, 0]], mask[high[:, 1], high[:, 0]]) > 0).all()
    full = np.argwhere(mask == 1)
    a, b = full[rng.integers(len(full), size=(2, 500))]
    middle = (a + b) // 2
    even = ((a + b) % 2 == 0).all(1)
    assert even.sum() > 50
    assert (mask[middle[even, 0], middle[even, 1]] == 1).all()


def test_hull_equals_the_exact_coverage() -> None:
    points = face_points(np.random.default_rng(3))
    hull = cv2.convexHull(points.astype(np.float32)).reshape(-1, 2).astype(np.float64)
    difference = hull_mask(points, HEIGHT, WIDTH, False) - plain.hull_coverage(hull, HEIGHT, WIDTH)
    assert np.abs(difference).max() < 0.36  # cv2 draws an outline of 1/4 px along the edge
    assert np.abs(difference).mean() < 0.25 * 270 / (HEIGHT * WIDTH)  # its perimeter is 270 px


def test_hull_of_68_excludes_the_forehead() -> None:
    points = face_points(np.random.default_rng(0))
    points[68:] = (70, 5)
    assert hull_mask(points, HEIGHT, WIDTH, False)[6, 70] > 0
    assert hull_mask(points, HEIGHT, WIDTH, True)[:10].max() == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int32])
def test_hull_accepts_any_numeric_type(dtype: type) -> None:
    points = np.rint(face_points(np.random.default_rng(0))).astype(dtype)
    expected = hull_mask(points.astype(np.float64), HEIGHT, WIDTH, False)
    assert np.array_equal(hull_mask(points, HEIGHT, WIDTH, False), expected)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-1, 1), st.floats(-1, 1))
def test_hull_follows_fractions_of_a_pixel(seed: int, dx: float, dy: float) -> None:
    points = face_points(np.random.default_rng(seed))
    before = centroid(hull_mask(points, HEIGHT, WIDTH, False))
    after = centroid(hull_mask(points + np.array([dx, dy]), HEIGHT, WIDTH, False))
    assert np.abs(after - before - np.array([dx, dy])).max() < 0.02


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_a_box_shaped_hull_follows_fractions_of_a_pixel_too(fraction: float) -> None:
    box = np.array([[30, 30], [90, 30], [90, 90], [30, 90]], float)
    moved = centroid(hull_mask(box + fraction, HEIGHT, WIDTH, False)) - centroid(
        hull_mask(box, HEIGHT, WIDTH, False)
    )
    assert np.abs(moved - fraction).max() < 0.02


def test_a_hull_outside_the_image_is_empty_and_one_partly_outside_is_clipped() -> None:
    points = face_points(np.random.default_rng(0))
    assert hull_mask(points + 1000, HEIGHT, WIDTH, False).max() == 0
    whole = hull_mask(points, HEIGHT, WIDTH, False)
    clipped = hull_mask(points - np.array([70, 0]), HEIGHT, WIDTH, False)
    assert (
        np.abs(clipped[:, :70] - whole[:, 70:]).max() <= 0.25
    )  # cv2 may draw a clipped edge one sub-pixel off
    assert np.abs(clipped[:, :70] - whole[:, 70:]).mean() < 1e-3


@pytest.mark.parametrize("points", [np.full((81, 2), np.nan), np.zeros((81, 3)), np.zeros((0, 2))])
def test_hull_of_broken_landmarks_is_refused(points: np.ndarray) -> None:
    with pytest.raises(DataError, match="landmarks"):
        hull_mask(points, HEIGHT, WIDTH, False)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_soft_mask_is_never_empty_for_any_type(dtype: type) -> None:
    for seed in range(40):
        soft = get_blend_mask(ellipse(dtype), rng=np.random.default_rng(seed))
        assert (soft.shape, soft.dtype) == ((HEIGHT, WIDTH, 1), np.float32)
        assert soft.min() >= 0
        assert 0.95 < soft.max() <= 1
        assert 0.05 < (soft > 0.5).mean() < ellipse(float).mean()  # eroded, not erased


def test_soft_mask_does_not_depend_on_type_or_scale() -> None:
    draw = SoftMaskDraw.sample(np.random.default_rng(1))
    expected = soften(ellipse(np.float32), draw)
    assert np.array_equal(soften(ellipse(np.float64), draw), expected)
    assert np.array_equal(soften(ellipse(np.uint8), draw), expected)
    assert np.allclose(soften(ellipse(np.uint8) * 255, draw), expected, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_soft_mask_equals_its_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    draw = SoftMaskDraw.sample(rng)
    mask = hull_mask(face_points(rng), HEIGHT, WIDTH, False)
    difference = np.abs(soften(mask, draw) - plain.soft_mask(mask, draw))
    # A pixel on the edge of the plateau may fall on either side of the threshold in float32.
    assert difference.mean() < 5e-4
    assert difference.max() < 0.25


def test_empty_mask_stays_empty_and_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    source, target = two_images(rng, (HEIGHT, WIDTH, 3))
    blended, mask = dynamic_blend(source, target, np.zeros((HEIGHT, WIDTH), np.float32), rng=rng)
    assert mask.max() == 0
    assert np.array_equal(blended, target)


def test_a_mask_of_one_pixel_does_not_vanish() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    mask[60, 70] = 1
    for seed in range(10):
        soft = soften(mask, SoftMaskDraw.sample(np.random.default_rng(seed)))
        assert soft.max() > 0.5
        assert np.abs(centroid(soft) - (70, 60)).max() < 2


def test_draws_cover_their_ranges() -> None:
    rng = np.random.default_rng(0)
    draws = [BlendDraw.sample(rng) for _ in range(6000)]
    soft = [d.soft for d in draws]
    for values, low, high in (
        ([s.height for s in soft], 192, 256),
        ([s.width for s in soft], 192, 256),
        ([s.erode_kernel for s in soft], 5, 25),
        ([s.blur_kernel for s in soft], 5, 25),
        ([s.blur_sigma for s in soft], 5, 45),
    ):
        assert (min(values), max(values)) == (low, high)
    assert all(s.erode_kernel % 2 == s.blur_kernel % 2 == 1 for s in soft)
    shares = {r: np.mean([d.ratio == r for d in draws]) for r in set(BLEND_RATIOS)}
    assert shares == pytest.approx({0.25: 1 / 6, 0.5: 1 / 6, 0.75: 1 / 6, 1.0: 0.5}, abs=0.03)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_ratio_0_and_everything_outside_the_mask_are_the_target_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = two_images(rng, (HEIGHT, WIDTH, 3))
    none, _ = alpha_blend(source, target, ellipse(np.float32), ratio=0.0, rng=rng)
    assert np.array_equal(none, target)
    some, mask = dynamic_blend(source, target, ellipse(np.float32), rng=rng)
    outside = mask[..., 0] == 0
    assert np.array_equal(some[outside], target[outside])
    assert some.dtype == np.uint8
    assert not np.array_equal(some, target)


def test_blending_an_image_with_itself_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    image, _ = two_images(rng, (HEIGHT, WIDTH, 3))
    for seed in range(10):  # truncation instead of rounding would darken the inside of the mask
        blended, _ = dynamic_blend(image, image, ellipse(np.float32), rng=np.random.default_rng(seed))
        assert np.array_equal(blended, image)


def test_blend_equals_its_reference() -> None:
    rng = np.random.default_rng(0)
    source, target = two_images(rng, (HEIGHT, WIDTH, 3))
    soft = soften(ellipse(np.float32), SoftMaskDraw.sample(rng))
    difference = mix(source, target, soft).astype(int) - plain.mixed(source, target, soft)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-3  # ties of float32


def test_integer_blending_equals_the_rounded_blend_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    source, target = two_images(rng, (256, 256, 3))
    mask = rng.integers(0, 256, (256, 256), np.uint8)  # 255 is odd, so there are no ties to round
    mask[:20], mask[20:40] = 0, 255
    mixed = target.copy()
    mix_into(mixed, source, mask)
    assert np.array_equal(mixed, mix(source, target, np.asarray(mask / np.float32(255), np.float32)))
    assert np.array_equal(mixed[:20], target[:20])
    assert np.array_equal(mixed[20:40], source[20:40])


def test_floats_blend_without_rounding() -> None:
    rng = np.random.default_rng(0)
    source, target = (image.astype(np.float32) / 255 for image in two_images(rng, (HEIGHT, WIDTH, 3)))
    blended, mask = alpha_blend(source, target, ellipse(np.float32), 0.5, rng=rng)
    assert blended.dtype == np.float32
    assert np.allclose(blended, mask * source + (1 - mask) * target, atol=1e-6)


def test_same_generator_state_same_blend() -> None:
    source, target = two_images(np.random.default_rng(0), (HEIGHT, WIDTH, 3))
    first, second, other = (
        dynamic_blend(source, target, ellipse(np.float32), rng=np.random.default_rng(seed))[0]
        for seed in (7, 7, 8)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert get_blend_mask(ellipse(np.uint8)).max() > 0  # SBI's own call, without a generator
