"""A person's performance in front of a camera: head pose, speech, blinks, gaze, a hand-held camera, drifting light.

T frames at 25 per second. Every track is drawn once per video; real and forged videos use the same functions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stf.sample import portable
from stf.sample.expression import Expression
from stf.sample.face import Light, Pose

Track = NDArray[np.float64]
FPS = 25
_BLINK = (0.55, 0.08, 0.0, 0.0, 0.25, 0.6, 0.88)  # lids, frame by frame


def wander(rng: np.random.Generator, n_frames: int, spread: float, smooth_s: float) -> Track:
    """Draws smooth random motion of standard deviation `spread`: white noise blurred over `smooth_s` seconds."""
    sigma = smooth_s * FPS
    radius = int(3 * sigma) + 1
    kernel = portable.exp(-((np.arange(-radius, radius + 1) / sigma) ** 2) / 2)
    kernel /= np.sqrt((kernel**2).sum())
    drawn = rng.normal(size=n_frames + 2 * radius)
    return spread * portable.convolve(drawn, kernel)


@dataclass(frozen=True)
class Acting:
    """The face's movements, (T,) each: fields as in Expression."""

    jaw: Track
    smile: Track
    pucker: Track
    brow: Track
    frown: Track
    lids: Track
    gaze_u: Track
    gaze_v: Track

    def at(self, t: int) -> Expression:
        """Returns the expression in frame t."""
        return Expression(*(float(getattr(self, field.name)[t]) for field in dataclasses.fields(self)))


@dataclass(frozen=True)
class Staging:
    """The positions of head, camera and light, (T,) each; angles in radians, pixels, exposure as a factor."""

    yaw: Track
    pitch: Track
    roll: Track
    head_x_px: Track
    head_y_px: Track
    zoom: Track
    camera_x_px: Track
    camera_y_px: Track
    light_turn: Track
    exposure: Track
    light_angle: float  # around the viewing axis, 0 from above
    light_height: float  # towards the viewer
    fill: float
    warmth: float

    def pose(self, t: int, scale_px: float, origin_px: tuple[float, float]) -> Pose:
        """Returns the head's pose in frame t, for a face of `scale_px` around `origin_px`."""
        x = origin_px[0] + self.head_x_px[t] + self.camera_x_px[t]
        y = origin_px[1] + self.head_y_px[t] + self.camera_y_px[t]
        angles = (float(self.yaw[t]), float(self.pitch[t]), float(self.roll[t]))
        return Pose(*angles, float(x), float(y), float(scale_px * self.zoom[t]))

    def towards(self, turn: float = 0.0) -> NDArray[np.float64]:
        """Returns the unit vector to the key light (right, down, viewer), turned by `turn` radians from its mean."""
        angle = self.light_angle + turn
        flat = np.sqrt(1 - self.light_height**2)
        return np.array([flat * portable.sin(angle), -flat * portable.cos(angle), self.light_height])

    def light(self, t: int) -> Light:
        """Returns the light in frame t, scaled by the camera's exposure; the camera adds the flicker."""
        tint = np.array([1 + self.warmth, 1.0, 1 - self.warmth])
        strength = float(self.exposure[t])
        fill = np.array([1 - 0.5 * self.warmth, 1.0, 1 + 0.5 * self.warmth]) * self.fill
        return Light(self.towards(float(self.light_turn[t])), tint * strength, fill * strength)


def _speech(rng: np.random.Generator, n_frames: int) -> Track:
    """Draws the mouth opening of speech: syllables at 3–6 Hz, in phrases with pauses."""
    t = np.arange(n_frames, dtype=np.float64)
    jaw = np.zeros(n_frames)
    start, loud = -float(rng.uniform(0, 8)), float(rng.uniform(0.5, 1.1))
    while start < n_frames:
        length = float(rng.uniform(4.2, 8.3))
        width = length * float(rng.uniform(0.26, 0.36))
        jaw += loud * float(rng.uniform(0.05, 0.21)) * portable.exp(-(((t - start) / width) ** 2))
        start += length + (float(rng.uniform(6, 16)) if rng.random() < 0.12 else 0.0)
    return np.clip(jaw - 0.012, 0, 0.27)


def _blinks(rng: np.random.Generator, n_frames: int) -> Track:
    lids = np.ones(n_frames)
    start = int(rng.integers(-10, 45))
    while start < n_frames:
        for k, value in enumerate(_BLINK):
            if 0 <= start + k < n_frames:
                lids[start + k] = value
        start += int(rng.integers(18, 80))
    return lids


def _gaze(rng: np.random.Generator, n_frames: int, spread: float) -> Track:
    gaze, t = np.zeros(n_frames), 0
    while t < n_frames:
        length = int(rng.integers(8, 30))
        gaze[t : t + length] = np.clip(rng.normal(0, spread), -2 * spread, 2 * spread)
        t += length
    return gaze + wander(rng, n_frames, 0.0015, 0.03)


def draw_acting(rng: np.random.Generator, n_frames: int) -> Acting:
    """Draws speech, smiles, brows, blinks and gaze of one take."""
    lids = _blinks(rng, n_frames) * np.clip(
        float(rng.uniform(0.82, 1.0)) + wander(rng, n_frames, 0.04, 0.25), 0.6, 1.1
    )
    return Acting(
        jaw=_speech(rng, n_frames),
        smile=np.clip(float(rng.uniform(-0.2, 0.7)) + wander(rng, n_frames, 0.2, 0.4), -0.3, 1),
        pucker=np.clip(wander(rng, n_frames, 0.35, 0.11), -0.2, 0.9),
        brow=np.clip(float(rng.normal(0, 0.15)) + wander(rng, n_frames, 0.3, 0.25), -0.7, 1),
        frown=np.clip(wander(rng, n_frames, 0.4, 0.4), 0, 1),
        lids=lids,
        gaze_u=_gaze(rng, n_frames, 0.022),
        gaze_v=_gaze(rng, n_frames, 0.008),
    )


def draw_staging(rng: np.random.Generator, n_frames: int) -> Staging:
    """Draws head motion, camera motion and light of one take."""
    shake = float(rng.uniform(0.25, 1.5))
    return Staging(
        yaw=float(rng.uniform(-0.12, 0.12)) + wander(rng, n_frames, 0.06, 0.35),
        pitch=float(rng.uniform(-0.05, 0.06)) + wander(rng, n_frames, 0.035, 0.25),
        roll=float(rng.uniform(-0.04, 0.04)) + wander(rng, n_frames, 0.025, 0.35),
        head_x_px=wander(rng, n_frames, 2.2, 0.4),
        head_y_px=wander(rng, n_frames, 1.5, 0.3),
        zoom=1 + wander(rng, n_frames, 0.008, 0.5),
        camera_x_px=wander(rng, n_frames, shake, 0.18),
        camera_y_px=wander(rng, n_frames, shake, 0.18),
        light_turn=wander(rng, n_frames, 0.06, 0.6),
        exposure=float(rng.uniform(0.85, 1.15)) * portable.exp(wander(rng, n_frames, 0.02, 0.5)),
        light_angle=float(rng.uniform(-1.1, 1.1)),
        light_height=float(rng.uniform(0.62, 0.88)),
        fill=float(rng.uniform(0.3, 0.5)),
        warmth=float(rng.uniform(-0.05, 0.08)),
    )
