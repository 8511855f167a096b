"""Colour, sharpening and JPEG of SBI."""

from __future__ import annotations

import functools
import os
import re
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from stf.data.augment import colour
from stf.data.augment.colour import SourceDraw, SourceTransform, TrainDraw, TrainTransform
from tests.reference import data_colour_plain as plain


def scene(n_frames: int = 4, height: int = 60, width: int = 128) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width + n_frames, 3)), (0, 0), 2)
    picture = np.clip(128 + 150 * noise, 0, 255).astype(np.uint8)
    return np.stack([picture[:, t : t + width] for t in range(n_frames)])


def draws(transform: SourceTransform | TrainTransform, n: int) -> list:
    rng = np.random.default_rng(0)
    return [transform.sample(rng) for _ in range(n)]


def test_source_equals_its_reference_frame_by_frame() -> None:
    clip = scene()
    for draw in draws(SourceTransform(), 20):
        assert np.array_equal(
            SourceTransform().apply(clip, draw), [plain.source(frame, draw) for frame in clip]
        )


def test_train_equals_its_reference_frame_by_frame() -> None:
    clip = scene()
    for draw in draws(TrainTransform(), 20):
        assert np.array_equal(
            TrainTransform().apply(clip, draw), [plain.train(frame, draw) for frame in clip]
        )


def test_a_part_of_a_frame_gets_the_same_colours_as_in_the_whole_frame() -> None:
    # cv2's HSV conversions alone would fail: they round differently in the last columns, which fill no SIMD vector
    clip = scene(width=150)
    for draw in draws(TrainTransform(), 40):
        whole, part = (TrainTransform().apply(frames, draw) for frames in (clip, clip[:, 16:48, 32:112]))
        # JPEG's chroma depends on two pixels beyond the edge of a part
        assert np.array_equal(part[:, 2:-2, 2:-2], whole[:, 18:46, 34:110])


@pytest.mark.parametrize("transform", [SourceTransform(), TrainTransform()])
def test_one_draw_for_the_whole_clip(transform: SourceTransform | TrainTransform) -> None:
    still = np.repeat(scene(1), 5, 0)
    for draw in draws(transform, 20):
        out = transform.apply(still, draw)
        assert (out.shape, out.dtype) == (still.shape, np.uint8)
        assert all(np.array_equal(frame, out[0]) for frame in out)


@pytest.mark.parametrize("transform", [SourceTransform(), TrainTransform()])
def test_apply_is_pure(transform: SourceTransform | TrainTransform) -> None:
    clip = scene()
    before = clip.copy()
    first, other = draws(transform, 2)
    once = transform.apply(clip, first)
    transform.apply(clip, other)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    assert np.array_equal(transform.apply(clip, first), once)
    assert np.array_equal(clip, before)


def test_same_generator_state_same_draw() -> None:
    for transform in (SourceTransform(), TrainTransform()):
        first, second, other = (transform.sample(np.random.default_rng(seed)) for seed in (2, 2, 3))
        assert first == second != other


def test_source_always_changes_the_picture_and_either_down_scales_or_sharpens() -> None:
    clip = scene()
    chosen = draws(SourceTransform(), 400)
    assert np.mean([d.ratio is None for d in chosen]) == pytest.approx(0.5, abs=0.08)
    assert {d.ratio for d in chosen} == {None, 2, 4}
    detail = {}
    for ratio in (None, 2, 4):
        out = SourceTransform().apply(clip, SourceDraw(1, 2, ratio))
        assert not np.array_equal(out, clip)
        detail[ratio] = np.abs(np.diff(out.astype(int), axis=2)).mean()
    assert detail[None] > detail[2] > detail[4]


def test_source_colour_stays_within_its_limits() -> None:
    grey = np.full((1, 16, 16, 3), 120, np.uint8)
    shifts = np.array(
        [SourceTransform().apply(grey, d)[0, 8, 8].astype(int) - 120 for d in draws(SourceTransform(), 200)]
    )
    # RGB shift 20, HSV 1, brightness .1 · 255, contrast .1 · 141
    assert np.abs(shifts).max() <= 20 + 2 + 26 + 15
    assert np.abs(shifts).mean() > 5
    same = (shifts == shifts[:, :1]).all(1).mean()
    assert 0.55 < same < 0.85  # three channels differ only when RGB shift (p = .3) was drawn


def test_train_draws_its_parts_independently() -> None:
    """About half the clips are JPEG-compressed, whether or not their colour is shifted."""
    clip = scene(1)
    shifted, compressed = [], []
    for draw in draws(TrainTransform(), 200):
        compressed.append(not np.array_equal(TrainTransform().apply(clip, draw), _colour_only(clip, draw)))
        grey = np.full((1, 8, 8, 3), 120, np.uint8)
        pixel = _colour_only(grey, draw)[0, 4, 4]
        shifted.append(bool((pixel != pixel[0]).any()))
    shifted, compressed = np.array(shifted), np.array(compressed)
    assert compressed.mean() == pytest.approx(0.5, abs=0.1)
    assert shifted.mean() == pytest.approx(0.3, abs=0.1)
    assert abs(compressed[shifted].mean() - compressed[~shifted].mean()) < 0.2


def _colour_only(clip: np.ndarray, draw: TrainDraw) -> np.ndarray:
    return TrainTransform().apply(clip, TrainDraw(draw.colour_seed, _identity_seeds().jpeg_seed))


@functools.cache
def _identity_seeds() -> TrainDraw:
    noisy = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    pairs = (TrainDraw(a, b) for a in range(40) for b in range(10))
    return next(draw for draw in pairs if np.array_equal(TrainTransform().apply(noisy, draw), noisy))


def test_jpeg_quality_reaches_down_to_40() -> None:
    """albumentations 2 ignores quality_lower and would stay at 99-100."""
    clip = scene(1, 96, 96)
    errors = [
        np.abs(TrainTransform().apply(clip, d).astype(int) - _colour_only(clip, d)).mean()
        for d in draws(TrainTransform(), 60)
    ]
    at_40 = cv2.imdecode(cv2.imencode(".jpg", clip[0][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)[
        ..., ::-1
    ]
    worst = np.abs(at_40.astype(int) - clip[0]).mean()
    assert 0.7 * worst < max(errors) < 1.6 * worst


def test_albumentations_is_imported_in_one_file_and_does_not_check_for_updates() -> None:
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
    root = Path(colour.__file__).parents[2]
    importing = [
        path
        for path in root.rglob("*.py")
        if re.search(r"^\s*(import|from) albumentations", path.read_text(), re.M)
    ]
    assert importing == [Path(colour.__file__)]


def test_source_transform_is_fast() -> None:
    clip = scene(32, 256, 256)
    for draw in (SourceDraw(0, 1, None), SourceDraw(0, 1, 2)):
        SourceTransform().apply(clip, draw)
        started = time.process_time()
        SourceTransform().apply(clip, draw)
        assert time.process_time() - started < 0.6  # about 25 ms on an idle core
