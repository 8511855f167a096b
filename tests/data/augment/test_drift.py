"""Multi-scale Brownian drift of the mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf.data.augment.drift import PROFILES
from stf.data.augmentations import DriftPath, MultiScaleBrownianDrift
from stf.errors import ConfigError, DataError
from tests.reference import data_warps_plain as plain

HEIGHT, WIDTH, N_FRAMES = 90, 110, 8
seeds = st.integers(0, 2**32 - 1)


def soft_disc() -> np.ndarray:
    y, x = np.indices((HEIGHT, WIDTH))
    return np.clip(30 - np.hypot(x - 55, y - 45), 0, 1).astype(np.float32)


def centroid(mask_HW: np.ndarray) -> np.ndarray:
    y, x = np.indices(mask_HW.shape)
    return np.array([(x * mask_HW).sum(), (y * mask_HW).sum()]) / mask_HW.sum()


def steps_of(profile: str, n_clips: int = 200) -> np.ndarray:
    """Returns (n_clips, 31, 2) steps, without clamping."""
    drift = MultiScaleBrownianDrift((0.01, 50.0), max_cumulative=1e9)
    rng = np.random.default_rng(0)
    return np.stack(
        [np.diff(drift.sample(rng, 32, profile=profile).offsets_T2, axis=0) for _ in range(n_clips)]
    )


def lag_correlation(steps: np.ndarray) -> float:
    return float((steps[:, 1:] * steps[:, :-1]).sum() / (steps**2).sum())


def swing_share(steps: np.ndarray) -> float:
    """Returns the mean share of a clip's step energy along its strongest axis."""
    values = np.array([np.linalg.svd(clip, compute_uv=False) ** 2 for clip in steps])
    return float((values[:, 0] / values.sum(1)).mean())


def test_no_drift_is_the_identity() -> None:
    mask = soft_disc()
    still = MultiScaleBrownianDrift((0.0, 0.0)).apply_drift(mask, N_FRAMES)
    assert len(still) == N_FRAMES
    assert all(np.array_equal(moved, mask) for moved in still)
    assert np.array_equal(MultiScaleBrownianDrift(max_cumulative=0.0).apply_drift(mask, 5)[4], mask)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([*PROFILES, None]), st.floats(0.3, 4), st.integers(1, 40))
def test_steps_and_offsets_stay_within_their_bounds(
    seed: int, profile: str | None, scale: float, n_frames: int
) -> None:
    path = MultiScaleBrownianDrift().sample(np.random.default_rng(seed), n_frames, scale, profile)
    assert path.offsets_T2.shape == (n_frames, 2)
    assert np.array_equal(path.offsets_T2[0], (0, 0))
    assert np.linalg.norm(path.offsets_T2, axis=1).max() <= 8.0 * scale + 1e-9
    assert np.linalg.norm(np.diff(path.offsets_T2, axis=0), axis=1).max(initial=0) <= 5.0 * scale + 1e-9


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(list(PROFILES)))
def test_every_step_is_at_least_the_lower_bound_until_the_clamp(seed: int, profile: str) -> None:
    drift = MultiScaleBrownianDrift((0.5, 5.0), max_cumulative=1e9)
    steps = np.diff(drift.sample(np.random.default_rng(seed), 32, profile=profile).offsets_T2, axis=0)
    assert np.linalg.norm(steps, axis=1).min() >= 0.5 - 1e-9


def test_scale_multiplies_the_path() -> None:
    drift = MultiScaleBrownianDrift()
    one, two = (drift.sample(np.random.default_rng(5), 20, scale).offsets_T2 for scale in (1.0, 2.5))
    assert np.allclose(two, 2.5 * one)


def test_equal_bounds_are_v73s_fixed_step_in_any_direction() -> None:
    drift = MultiScaleBrownianDrift((2.0, 2.0), max_cumulative=1e9)
    path = drift.sample(np.random.default_rng(0), 4001)
    steps = np.diff(path.offsets_T2, axis=0)
    assert path.profile == "fixed"
    assert np.allclose(np.linalg.norm(steps, axis=1), 2.0)
    octants = np.histogram(np.arctan2(steps[:, 1], steps[:, 0]), 8, (-np.pi, np.pi))[0]
    assert octants.min() > 400


def test_step_size_is_log_normal_within_its_range() -> None:
    rng = np.random.default_rng(0)
    sizes = np.log([MultiScaleBrownianDrift().sample_step_size(rng) for _ in range(4000)])
    assert np.log(0.5) <= sizes.min()
    assert sizes.max() <= np.log(5)
    assert np.median(sizes) == pytest.approx(0.5 * np.log(2.5), abs=0.04)  # the geometric mean
    assert sizes.std() == pytest.approx(0.88 * np.log(10) / 4, rel=0.05)  # .88: a normal cut at two sigma
    assert abs(((sizes - sizes.mean()) ** 3).mean()) < 0.1 * sizes.std() ** 3


def test_the_four_profiles_differ() -> None:
    steps = {name: steps_of(name) for name in PROFILES}
    correlation = {name: lag_correlation(s) for name, s in steps.items()}
    assert correlation["smooth"] > 0.6
    assert abs(correlation["jittery"]) < 0.1
    assert abs(correlation["accelerating"]) < 0.1
    length = {name: np.linalg.norm(s, axis=-1) for name, s in steps.items()}
    growth = {name: lengths[:, -8:].mean() / lengths[:, :8].mean() for name, lengths in length.items()}
    assert growth["accelerating"] > 2
    assert all(0.8 < growth[name] < 1.25 for name in ("smooth", "jittery", "oscillating"))
    swing = {name: swing_share(s) for name, s in steps.items()}
    assert swing["oscillating"] > 0.85
    assert swing["jittery"] < 0.75


def test_all_profiles_are_drawn_equally_often() -> None:
    rng = np.random.default_rng(0)
    names = [MultiScaleBrownianDrift().sample(rng, 2).profile for _ in range(2000)]
    assert all(abs(names.count(name) / 2000 - 0.25) < 0.04 for name in PROFILES)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_drift_moves_the_mask_by_its_offsets_and_equals_the_reference(seed: int) -> None:
    drift, mask = MultiScaleBrownianDrift(), soft_disc()
    path = drift.sample(np.random.default_rng(seed), N_FRAMES)
    moved = drift.apply(mask, path)
    assert (moved.shape, moved.dtype) == ((N_FRAMES, HEIGHT, WIDTH), np.float32)
    for t, (dx, dy) in enumerate(path.offsets_T2):
        assert np.abs(centroid(moved[t]) - centroid(mask) - (dx, dy)).max() < 0.05
        assert np.abs(moved[t] - plain.shifted(mask, dx, dy)).max() < 0.04  # cv2's step is 1/32 px


def test_each_per_frame_mask_moves_by_its_own_offset() -> None:
    drift = MultiScaleBrownianDrift()
    masks = np.stack([np.roll(soft_disc(), t, 0) for t in range(N_FRAMES)])
    path = drift.sample(np.random.default_rng(0), N_FRAMES)
    moved = drift.apply(masks, path)
    for t in range(N_FRAMES):
        assert np.array_equal(
            moved[t], drift.apply(masks[t], DriftPath(path.offsets_T2[t : t + 1], "smooth"))[0]
        )
    with pytest.raises(DataError, match="8 frames but got 3 masks"):
        drift.apply(masks[:3], path)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_apply_drift_accepts_masks_of_any_type(shape: tuple[int, ...], dtype: type) -> None:
    mask = (soft_disc() > 0.5).astype(dtype).reshape(shape)
    masks = MultiScaleBrownianDrift(step_range=(0.5, 5.0), max_cumulative=8.0).apply_drift(mask, 16)
    assert [m.shape for m in masks] == [shape] * 16
    assert np.array_equal(masks[0], mask)
    assert not np.array_equal(masks[15], mask)


@pytest.mark.parametrize(
    "bad", [{"step_range": (5.0, 0.5)}, {"step_range": (0.0, 5.0)}, {"max_cumulative": -1.0}]
)
def test_invalid_drift_settings_are_refused(bad: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match="drift"):
        MultiScaleBrownianDrift(**bad)
    with pytest.raises(ConfigError, match="zigzag"):
        MultiScaleBrownianDrift().sample(np.random.default_rng(0), 4, profile="zigzag")
