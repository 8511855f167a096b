"""Multi-scale Brownian drift of the blend mask. T frames, H, W pixels; offsets are (dx, dy) in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.augment.warps import check_frames, mask_at
from stf.errors import ConfigError

Floats = NDArray[np.float32]
Steps = NDArray[np.float64]
VELOCITY_CORRELATION = 0.8  # between neighbouring steps of the smooth profile
OSCILLATION_PERIOD_FRAMES = (6.0, 16.0)


def _smooth(rng: np.random.Generator, n_steps: int) -> Steps:
    """Gaussian steps whose velocity is an AR(1) process: the mask glides."""
    noise_S2 = rng.standard_normal((n_steps, 2))
    steps_S2 = noise_S2.copy()
    for s in range(1, n_steps):
        innovation = math.sqrt(1 - VELOCITY_CORRELATION**2) * noise_S2[s]
        steps_S2[s] = VELOCITY_CORRELATION * steps_S2[s - 1] + innovation
    return steps_S2 / math.sqrt(math.pi / 2)


def _jittery(rng: np.random.Generator, n_steps: int) -> Steps:
    """Independent uniform steps: the mask shakes."""
    return rng.uniform(-1, 1, (n_steps, 2)) / 0.765  # .765: the mean length of a uniform point in that square


def _accelerating(rng: np.random.Generator, n_steps: int) -> Steps:
    """Gaussian steps whose scale grows from a quarter to seven quarters."""
    growth_S1 = np.linspace(0.25, 1.75, n_steps)[:, None]
    return growth_S1 * rng.standard_normal((n_steps, 2)) / math.sqrt(math.pi / 2)


def _oscillating(rng: np.random.Generator, n_steps: int) -> Steps:
    """A sinusoid along one axis plus Gaussian noise: the mask swings."""
    angle, phase = rng.uniform(0, 2 * math.pi, 2)
    period_frames = rng.uniform(*OSCILLATION_PERIOD_FRAMES)
    swing_S = 0.5 * math.pi * np.sin(2 * math.pi * np.arange(n_steps) / period_frames + phase)
    noise_S2 = 0.2 * rng.standard_normal((n_steps, 2))
    return swing_S[:, None] * np.array([math.cos(angle), math.sin(angle)]) + noise_S2


def _fixed(rng: np.random.Generator, n_steps: int) -> Steps:
    """Steps of one length in independent directions: V7.3's drift."""
    angle_S = rng.uniform(0, 2 * math.pi, n_steps)
    return np.stack([np.cos(angle_S), np.sin(angle_S)], -1)


# Each gives (S, 2) steps of mean length about 1, to be multiplied by the clip's step size.
PROFILES: dict[str, Callable[[np.random.Generator, int], Steps]] = {
    "smooth": _smooth,
    "jittery": _jittery,
    "accelerating": _accelerating,
    "oscillating": _oscillating,
}


@dataclass(frozen=True, eq=False)
class DriftPath:
    """The mask's offset from its position in the first frame, (T, 2) px, and the profile's name."""

    offsets_T2: Steps
    profile: str


@dataclass(frozen=True)
class MultiScaleBrownianDrift:
    """A random walk of the mask: a clip draws its step size (log-normal) and one of four velocity profiles.

    `step_range` bounds the length of every step, `max_cumulative` that of the offset from the first frame,
    in pixels at img_size scale. Equal bounds give V7.3's drift: steps of that length in any direction.
    """

    step_range: tuple[float, float] = (0.5, 5.0)
    max_cumulative: float = 8.0

    def __post_init__(self) -> None:
        low, high = self.step_range
        if not (0 < low <= high or low == high == 0) or self.max_cumulative < 0:
            raise ConfigError(
                f"drift: step_range is {self.step_range} and max_cumulative is {self.max_cumulative}; "
                "set 0 < low <= high (or 0, 0 for no drift) and max_cumulative >= 0"
            )

    def sample_step_size(self, rng: np.random.Generator) -> float:
        """Draws from a log-normal truncated to the range: median at its geometric mean, bounds at two sigma."""
        low, high = self.step_range
        if low == high:
            return high
        centre, sigma = 0.5 * math.log(low * high), 0.25 * math.log(high / low)
        while True:
            size = math.exp(rng.normal(centre, sigma))
            if low <= size <= high:
                return size

    def sample(
        self, rng: np.random.Generator, n_frames: int, scale: float = 1.0, profile: str | None = None
    ) -> DriftPath:
        """Draws the path of one clip; `scale` = crop size / img_size converts to the crop's pixels."""
        low, high = self.step_range
        name = profile or ("fixed" if low == high else list(PROFILES)[int(rng.integers(len(PROFILES)))])
        if name != "fixed" and name not in PROFILES:
            raise ConfigError(f"unknown drift profile {name!r}; use one of {', '.join([*PROFILES, 'fixed'])}")
        draw_steps = _fixed if name == "fixed" else PROFILES[name]
        steps_S2 = self.sample_step_size(rng) * draw_steps(rng, max(n_frames - 1, 0))
        length_S1 = np.linalg.norm(steps_S2, axis=1, keepdims=True)
        steps_S2 *= np.clip(length_S1, low, high) / np.maximum(length_S1, 1e-12)
        return DriftPath(_clamped_walk(steps_S2, self.max_cumulative) * scale, name)

    def apply(self, mask: NDArray[np.generic], path: DriftPath) -> Floats:
        """Moves one mask, (H, W) or (H, W, 1), or one per frame, (T, H, W): returns (T, H, W) float32."""
        check_frames("drift", mask, len(path.offsets_T2))
        return np.stack([_shift(mask_at(mask, t), *offset) for t, offset in enumerate(path.offsets_T2)])

    def apply_drift(
        self, mask: NDArray[np.generic], n_frames: int, rng: np.random.Generator | None = None
    ) -> list[Floats]:
        """Draws a path and returns `n_frames` moved masks, each of `mask`'s shape; the first one is not moved."""
        path = self.sample(rng or np.random.default_rng(), n_frames)
        return [moved.reshape(mask.shape) for moved in self.apply(mask, path)]


def _clamped_walk(steps_S2: Steps, limit: float) -> Steps:
    """Returns (S + 1, 2), the cumulative sum of the steps, pulled back into the disc of radius `limit` after each."""
    offsets_T2 = np.zeros((len(steps_S2) + 1, 2))
    for s, step in enumerate(steps_S2):
        offset = offsets_T2[s] + step
        offsets_T2[s + 1] = offset * min(1.0, limit / max(float(np.hypot(*offset)), 1e-12))
    return offsets_T2


def _shift(mask_HW: Floats, dx: float, dy: float) -> Floats:
    matrix = np.array([[1, 0, dx], [0, 1, dy]])
    height, width = mask_HW.shape
    return np.asarray(cv2.warpAffine(mask_HW, matrix, (width, height)), np.float32)
