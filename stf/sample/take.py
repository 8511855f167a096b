"""One recorded video: a person, acting, in a scene, before a camera. T frames, H, W pixels, C = RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stf.sample.camera import Camera, Frames, draw_camera, expose, h264
from stf.sample.expression import moved_landmarks
from stf.sample.face import Rendering, project, render
from stf.sample.performance import Acting, Staging, draw_staging
from stf.sample.scene import Scene, draw_scene, surroundings
from stf.sample.skin import Head

MIN_HULL_px = 114.0  # integer landmarks and detector jitter still leave 112


@dataclass(frozen=True)
class Take:
    """The parameters of a take and the recorded `frames_THWC`, compressed once with H.264."""

    head: Head
    acting: Acting
    staging: Staging
    camera: Camera
    scale_px: float
    origin_px: tuple[float, float]
    landmarks_T: NDArray[np.float64]  # (T, 81, 2), true
    frames_THWC: Frames

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.frames_THWC.shape[1], self.frames_THWC.shape[2]


def true_landmarks(
    head: Head, acting: Acting, staging: Staging, scale_px: float, origin_px: tuple[float, float]
) -> NDArray[np.float64]:
    """Returns the true landmarks (T, 81, 2) in pixels."""
    shape = head.identity.shape
    poses = [staging.pose(t, scale_px, origin_px) for t in range(len(acting.jaw))]
    return np.stack(
        [project(head, pose, moved_landmarks(shape, acting.at(t))) for t, pose in enumerate(poses)]
    )


def _face_scale(head: Head, acting: Acting, staging: Staging, min_width_px: float) -> float:
    """Returns the pixels per face unit for which the hull is never narrower than `min_width_px`."""
    landmarks = true_landmarks(head, acting, staging, 60.0, (0.0, 0.0))
    narrowest = float((landmarks[..., 0].max(1) - landmarks[..., 0].min(1)).min())
    return 60.0 * min_width_px / narrowest


def record(head: Head, acting: Acting, size: tuple[int, int], rng: np.random.Generator) -> Take:
    """Renders a performance in a new scene and records it with a new camera (H.264 at the camera's quality)."""
    height, width = size
    n_frames = len(acting.jaw)
    staging = draw_staging(rng, n_frames)
    scene: Scene = draw_scene(rng, head.identity.looks, height, width)
    camera = draw_camera(rng)
    scale_px = _face_scale(head, acting, staging, MIN_HULL_px + float(rng.uniform(0, 2.5)))
    off_centre_px = float(rng.choice([-1, 1]) * rng.uniform(10, 19))
    origin_px = (width / 2 + off_centre_px, 0.47 * height + float(rng.uniform(-2, 1)))
    visibility = head.visibility(staging.towards())
    frames = np.empty((n_frames, height, width, 3), np.uint8)
    for t in range(n_frames):
        pose, light = staging.pose(t, scale_px, origin_px), staging.light(t)
        shift = (float(staging.camera_x_px[t]), float(staging.camera_y_px[t]))
        picture = surroundings(scene, pose, shift, origin_px, size) * float(staging.exposure[t])
        person: Rendering = render(head, pose, acting.at(t), light, visibility, size)
        picture = picture + person.alpha_HW[..., None] * (person.colour_HWC - picture)
        frames[t] = expose(camera, picture.astype(np.float32), t, rng)
    landmarks = true_landmarks(head, acting, staging, scale_px, origin_px)
    return Take(head, acting, staging, camera, scale_px, origin_px, landmarks, h264(frames, camera.crf))
