"""Affine, elastic, TPS and down-scaling (drift: test_drift.py)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf.data.augment.tps import CONTROL_PER_AXIS
from stf.data.augmentations import (
    AffineDraw,
    ElasticDraw,
    ElasticMask,
    MultiScaleBrownianDrift,
    RandomDownScale,
    TPSDraw,
    TPSMaskDeformation,
    affine_frames,
    affine_masks,
)
from tests.reference import data_warps_plain as plain

HEIGHT, WIDTH, N_FRAMES = 90, 110, 8
seeds = st.integers(0, 2**32 - 1)


def soft_disc() -> np.ndarray:
    y, x = np.indices((HEIGHT, WIDTH))
    return np.clip(30 - np.hypot(x - 55, y - 45), 0, 1).astype(np.float32)


def test_affine_ranges_and_reference() -> None:
    rng = np.random.default_rng(0)
    draws = [AffineDraw.sample(rng) for _ in range(2000)]
    for name, low, high in (
        ("translate_x", -0.03, 0.03),
        ("translate_y", -0.015, 0.015),
        ("scale_x", 0.95, 1 / 0.95),
        ("scale_y", 0.95, 1 / 0.95),
    ):
        values = np.array([getattr(draw, name) for draw in draws])
        margin = 0.01 * (high - low)
        assert low <= values.min() < low + margin
        assert high - margin < values.max() <= high
    for draw in draws[:10]:
        assert np.abs(affine_masks(soft_disc(), draw) - plain.affine(soft_disc(), draw)).max() < 0.05


def test_affine_moves_source_and_mask_together_without_black_edges() -> None:
    draw = AffineDraw(0.03, -0.015, 0.95, 0.95)
    frames = np.repeat((soft_disc() * 155 + 100).astype(np.uint8)[None, :, :, None], 3, 3)
    moved, mask = affine_frames(frames, draw)[0, :, :, 0], affine_masks(soft_disc(), draw)
    assert moved.min() >= 100
    assert np.abs((moved.astype(float) - 100) / 155 - mask).max() < 0.02
    identity = AffineDraw(0, 0, 1, 1)
    assert np.array_equal(affine_frames(frames, identity), frames)
    stack = np.stack([soft_disc(), soft_disc().T.reshape(HEIGHT, WIDTH)])
    assert np.array_equal(affine_masks(stack, draw)[0], mask)


def fields(seed: int, n_frames: int = 32, size: tuple[int, int] = (160, 200)) -> np.ndarray:
    return np.stack(list(ElasticMask().sample(np.random.default_rng(seed), n_frames, *size).fields()))


def test_elastic_displacement_matches_the_formula_of_albumentations_1() -> None:
    ours = np.linalg.norm(fields(0), axis=-1)
    rng = np.random.default_rng(0)
    old = np.stack([plain.elastic_field(rng, 160, 200, 50, 7) for _ in range(8)])
    old_length = np.linalg.norm(old, axis=-1)
    assert ours.mean() == pytest.approx(1.54, rel=0.08)
    assert ours.mean() == pytest.approx(old_length.mean(), rel=0.08)
    assert np.quantile(ours, 0.95) == pytest.approx(np.quantile(old_length, 0.95), rel=0.1)
    near, far = (np.mean([(f[:, 7:] * f[:, :-7]).sum() / (f**2).sum() for f in s]) for s in (fields(1), old))
    assert near == pytest.approx(far, abs=0.08)  # as smooth in space


def test_elastic_is_correlated_between_neighbours_but_not_over_the_clip() -> None:
    moving = fields(3)
    correlation = [np.corrcoef(moving[t].ravel(), moving[t + 1].ravel())[0, 1] for t in range(31)]
    assert min(correlation) > 0.95
    assert max(correlation) < 0.9999  # it does move
    assert abs(np.corrcoef(moving[0].ravel(), moving[31].ravel())[0, 1]) < 0.4
    strength = np.linalg.norm(moving, axis=-1).mean((1, 2))
    assert strength.max() / strength.min() < 1.3  # no pulse between key fields


def test_elastic_equals_its_reference_on_masks_and_moves_frames_alike() -> None:
    elastic, mask = ElasticMask(), soft_disc()
    draw = elastic.sample(np.random.default_rng(0), N_FRAMES, HEIGHT, WIDTH)
    bent = elastic.apply(mask, draw)
    for t, field in enumerate(draw.fields()):
        assert np.abs(bent[t] - plain.warp_image(mask, field)).max() < 0.05
    frames = np.repeat((mask * 255).astype(np.uint8)[None, :, :, None], N_FRAMES, 0).repeat(3, 3)
    assert np.abs(elastic.apply_to_frames(frames, draw)[..., 0] / 255.0 - bent).max() < 0.02
    still = ElasticDraw(np.zeros_like(draw.keys_Khw2), N_FRAMES, HEIGHT, WIDTH, 8)
    assert all(np.array_equal(m, mask) for m in elastic.apply(mask, still))
    assert np.array_equal(elastic.apply_to_frames(frames, still), frames)


def test_tps_without_displacement_is_the_identity() -> None:
    still = TPSDraw(np.zeros((3, CONTROL_PER_AXIS**2, 2)))
    assert all(np.array_equal(m, soft_disc()) for m in TPSMaskDeformation().apply(soft_disc(), still))


def test_tps_equals_its_reference() -> None:
    tps = TPSMaskDeformation(1.0)
    draw = tps.sample(np.random.default_rng(0), 3, scale=1.5)
    assert draw is not None
    bent = tps.apply(soft_disc(), draw)
    for t, field in enumerate(plain.tps_fields(draw, HEIGHT, WIDTH)):
        assert np.abs(bent[t] - plain.warp_image(soft_disc(), field)).max() < 0.12  # a 29 × 29 grid, 1/32 px
        assert np.abs(bent[t] - plain.warp_image(soft_disc(), field)).mean() < 0.002
    assert not np.allclose(bent[0], bent[2], atol=0.02)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.5, 3))
def test_tps_walk_is_bounded_and_slow(seed: int, scale: float) -> None:
    draw = TPSMaskDeformation(1.0).sample(np.random.default_rng(seed), 32, scale)
    assert draw is not None
    assert np.linalg.norm(draw.displacements_TP2, axis=-1).max() <= 4.0 * scale + 1e-9
    steps = np.linalg.norm(np.diff(draw.displacements_TP2, axis=0), axis=-1)
    assert 0.2 * scale < steps.mean() < 1.0 * scale


def test_tps_is_drawn_with_its_probability() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([TPSMaskDeformation().sample(rng, 2) is not None for _ in range(2000)]) == pytest.approx(
        0.3, abs=0.03
    )
    assert TPSMaskDeformation(0.0).sample(rng, 2) is None


def test_same_generator_state_same_draws() -> None:
    for sample in (
        lambda rng: MultiScaleBrownianDrift().sample(rng, 16).offsets_T2,
        lambda rng: TPSMaskDeformation(1.0).sample(rng, 16).displacements_TP2,
        lambda rng: ElasticMask().sample(rng, 16, 60, 60).keys_Khw2,
        lambda rng: AffineDraw.sample(rng).matrix(10, 10),
    ):
        first, second, other = (sample(np.random.default_rng(seed)) for seed in (4, 4, 5))
        assert np.array_equal(first, second)
        assert not np.array_equal(first, other)


def test_down_scaling_takes_every_second_or_fourth_pixel() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    for ratio in (2, 4):
        coarse = RandomDownScale().apply(frames, ratio)
        assert coarse.shape == frames.shape
        again = coarse[:, ratio // 2 :: ratio, ratio // 2 :: ratio].astype(int)
        assert (
            np.abs(np.diff(coarse.astype(int), axis=2)).mean()
            < 0.8 * np.abs(np.diff(frames.astype(int), axis=2)).mean()
        )
        assert again.shape == (2, 64 // ratio, 48 // ratio, 3)
    flat = np.full((1, 33, 35, 3), 77, np.uint8)
    assert np.array_equal(RandomDownScale().apply(flat, 4), flat)
    rng = np.random.default_rng(0)
    assert np.mean([RandomDownScale().sample(rng) == 2 for _ in range(2000)]) == pytest.approx(0.5, abs=0.04)
    assert RandomDownScale()(frames[0], rng).shape == (64, 48, 3)
