"""Windows of a clip: computing a part gives the same pixels as computing the whole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf.data.augment.codec import h264_round_trip
from stf.data.augment.region import (
    BLOCK,
    block_aligned,
    bounding_window,
    copy_window,
    grow,
    intersection,
    relative_to,
    view,
)
from stf.data.augment.warps import AffineDraw, ElasticMask, affine_frames, affine_reach, affine_window

HEIGHT, WIDTH = 90, 110
seeds = st.integers(0, 2**32 - 1)


def noise(seed: int, n_frames: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n_frames, HEIGHT, WIDTH, 3), np.uint8)


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, int, int]:
    y0, x0 = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
    return y0, draw(st.integers(y0 + 1, HEIGHT)), x0, draw(st.integers(x0 + 1, WIDTH))


@given(windows(), st.integers(0, 40))
def test_grown_windows_stay_in_the_picture_and_aligned_ones_end_between_blocks(window, reach) -> None:
    big = grow(window, reach, HEIGHT, WIDTH)
    aligned = block_aligned(big, HEIGHT, WIDTH)
    assert intersection(window, big) == window
    assert intersection(big, aligned) == big
    assert aligned[0] % BLOCK == aligned[2] % BLOCK == 0
    assert aligned[1] % BLOCK == 0 or aligned[1] == HEIGHT
    assert aligned[3] % BLOCK == 0 or aligned[3] == WIDTH
    clip = noise(0, 1)
    assert np.array_equal(view(view(clip, big), relative_to(window, big)), view(clip, window))


def test_disjoint_windows_have_an_empty_intersection() -> None:
    y0, y1, x0, x1 = intersection((0, 10, 0, 10), (20, 30, 5, 8))
    assert (y1 - y0) * (x1 - x0) == 0


def test_the_bounding_window_contains_the_mask_and_is_zero_for_an_empty_one() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert bounding_window(mask) == (0, 0, 0, 0)
    mask[10:20, 30:33] = 1
    assert bounding_window(mask) == (10, 20, 30, 33)


@pytest.mark.parametrize("mirrored", [False, True])
def test_copy_window_copies_any_kind_of_view(mirrored: bool) -> None:
    clip = noise(1)
    frozen = clip.copy()
    frozen.flags.writeable = False
    source = frozen[:, :, ::-1] if mirrored else frozen
    part = copy_window(source, (5, 40, 7, 90))
    assert np.array_equal(part, source[:, 5:40, 7:90])
    assert part.flags.c_contiguous
    part[:] = 0
    assert np.array_equal(frozen, clip)


@settings(max_examples=60, deadline=None)
@given(seeds, windows())
def test_an_affine_window_depends_on_its_reach_alone(seed: int, window) -> None:
    draw, clip = AffineDraw.sample(np.random.default_rng(seed)), noise(seed)
    part = affine_reach(draw, window, HEIGHT, WIDTH)
    warped = affine_window(view(clip, part), draw, part, window, (HEIGHT, WIDTH))
    assert np.array_equal(warped, view(affine_frames(clip, draw), window))


@settings(max_examples=20, deadline=None)
@given(seeds, windows())
def test_an_elastic_window_depends_on_its_reach_alone(seed: int, window) -> None:
    elastic, clip = ElasticMask(), noise(seed)
    draw = elastic.sample(np.random.default_rng(seed), len(clip), HEIGHT, WIDTH)
    part = grow(window, draw.reach_px, HEIGHT, WIDTH)
    warped = elastic.apply_to_window(view(clip, part), draw, part, window)
    # cv2 rounds positions to 1/32 px; relative to another corner, a float32 half-way between two may round differently
    whole = view(elastic.apply_to_frames(clip, draw), window)
    assert (warped != whole).mean() < 0.01


@pytest.mark.parametrize("qp", [23, 32, 40])
def test_h264_of_a_region_has_the_same_error_as_h264_of_the_whole(qp: int) -> None:
    rng = np.random.default_rng(qp)
    scene = cv2.GaussianBlur(rng.normal(0, 1, (300, 340, 3)), (0, 0), 3)
    scene = 120 + 30 * scene / scene.std() + rng.normal(0, 3, scene.shape)
    clip = np.stack([scene[t : t + 272, t : t + 304] for t in range(8)]) + rng.normal(0, 2, (8, 272, 304, 3))
    clip = np.clip(clip, 0, 255).astype(np.uint8)
    window = (70, 190, 75, 215)
    region = block_aligned(grow(window, 4, 272, 304), 272, 304)
    whole = view(h264_round_trip(clip, qp, "rgb24"), window).astype(int)
    part = view(h264_round_trip(copy_window(clip, region), qp, "rgb24"), relative_to(window, region)).astype(
        int
    )
    true = view(clip, window).astype(int)
    error, error_of_part = np.abs(whole - true).mean(), np.abs(part - true).mean()
    assert error_of_part == pytest.approx(error, rel=0.03)
    assert np.abs(part - whole).mean() < error  # they differ by less than the coding error
    rim = np.ones(true.shape[1:3], bool)
    rim[8:-8, 8:-8] = False  # pixels next to the region's edge have no larger error
    assert np.abs(part - true)[:, rim].mean() == pytest.approx(np.abs(whole - true)[:, rim].mean(), rel=0.05)
