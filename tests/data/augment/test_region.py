"""Windows of a clip: what is computed in a part is what the whole would have given."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf.data.augment.codec import h264_round_trip
from stf.data.augment.region import BLOCK, block_aligned, bounding_window, cut, grown, inside, overlap, view
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
def test_growing_keeps_within_the_picture_and_aligned_windows_end_between_blocks(window, reach) -> None:
    big = grown(window, reach, HEIGHT, WIDTH)
    aligned = block_aligned(big, HEIGHT, WIDTH)
    assert overlap(window, big) == window
    assert overlap(big, aligned) == big
    assert aligned[0] % BLOCK == aligned[2] % BLOCK == 0
    assert aligned[1] % BLOCK == 0 or aligned[1] == HEIGHT
    assert aligned[3] % BLOCK == 0 or aligned[3] == WIDTH
    clip = noise(0, 1)
    assert np.array_equal(view(view(clip, big), inside(window, big)), view(clip, window))


def test_windows_that_do_not_meet_overlap_in_nothing() -> None:
    y0, y1, x0, x1 = overlap((0, 10, 0, 10), (20, 30, 5, 8))
    assert (y1 - y0) * (x1 - x0) == 0


def test_the_bounding_window_holds_the_mask_and_an_empty_mask_has_none() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert bounding_window(mask) == (0, 0, 0, 0)
    mask[10:20, 30:33] = 1
    assert bounding_window(mask) == (10, 20, 30, 33)


@pytest.mark.parametrize("mirrored", [False, True])
def test_cut_copies_views_of_any_kind(mirrored: bool) -> None:
    clip = noise(1)
    frozen = clip.copy()
    frozen.flags.writeable = False
    source = frozen[:, :, ::-1] if mirrored else frozen
    part = cut(source, (5, 40, 7, 90))
    assert np.array_equal(part, source[:, 5:40, 7:90])
    assert part.flags.c_contiguous
    part[:] = 0
    assert np.array_equal(frozen, clip)


@settings(max_examples=60, deadline=None)
@given(seeds, windows())
def test_an_affine_window_is_made_of_its_reach_bit_for_bit(seed: int, window) -> None:
    draw, clip = AffineDraw.sample(np.random.default_rng(seed)), noise(seed)
    part = affine_reach(draw, window, HEIGHT, WIDTH)
    there = affine_window(view(clip, part), draw, part, window, (HEIGHT, WIDTH))
    assert np.array_equal(there, view(affine_frames(clip, draw), window))


@settings(max_examples=20, deadline=None)
@given(seeds, windows())
def test_an_elastic_window_is_made_of_its_reach_bit_for_bit(seed: int, window) -> None:
    elastic, clip = ElasticMask(), noise(seed)
    draw = elastic.sample(np.random.default_rng(seed), len(clip), HEIGHT, WIDTH)
    part = grown(window, draw.reach_px, HEIGHT, WIDTH)
    there = elastic.apply_to_window(view(clip, part), draw, part, window)
    # cv2 rounds places to 1/32 px; counted from another corner, a float32 that lies between two falls otherwise
    whole = view(elastic.apply_to_frames(clip, draw), window)
    assert (there != whole).mean() < 0.01


@pytest.mark.parametrize("qp", [23, 32, 40])
def test_h264_of_a_region_errs_as_much_as_h264_of_the_whole(qp: int) -> None:
    rng = np.random.default_rng(qp)
    scene = cv2.GaussianBlur(rng.normal(0, 1, (300, 340, 3)), (0, 0), 3)
    scene = 120 + 30 * scene / scene.std() + rng.normal(0, 3, scene.shape)
    clip = np.stack([scene[t : t + 272, t : t + 304] for t in range(8)]) + rng.normal(0, 2, (8, 272, 304, 3))
    clip = np.clip(clip, 0, 255).astype(np.uint8)
    window = (70, 190, 75, 215)
    region = block_aligned(grown(window, 4, 272, 304), 272, 304)
    whole = view(h264_round_trip(clip, qp, "rgb24"), window).astype(int)
    part = view(h264_round_trip(cut(clip, region), qp, "rgb24"), inside(window, region)).astype(int)
    true = view(clip, window).astype(int)
    error, error_of_part = np.abs(whole - true).mean(), np.abs(part - true).mean()
    assert error_of_part == pytest.approx(error, rel=0.03)
    assert np.abs(part - whole).mean() < error  # they differ by less than coding changes the picture
    rim = np.ones(true.shape[1:3], bool)
    rim[8:-8, 8:-8] = False  # what lies next to the region's edge is coded no worse
    assert np.abs(part - true)[:, rim].mean() == pytest.approx(np.abs(whole - true)[:, rim].mean(), rel=0.05)
