"""Identity swaps: Deepfakes (an autoencoder's soft face) and FaceSwap (a fitted 3-D model, pasted).

T frames, H, W pixels. Each function returns frames (T, H, W, 3) and true landmarks (T, 81, 2) of the fake.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.sample import exact, portable
from stf.sample.camera import Frames, LENS_BLUR_px
from stf.sample.face import Light, render
from stf.sample.forging import (
    Picture,
    develop,
    feather,
    fit_affine,
    hull,
    match_colours,
    move,
    paste,
)
from stf.sample.performance import wander
from stf.sample.relief import blur
from stf.sample.skin import Head
from stf.sample.take import Take

Landmarks = NDArray[np.floating[Any]]
INNER = slice(17, 68)  # brows, nose, eyes, mouth: what face swaps align


def _place(picture: Picture, matrix: Landmarks) -> Picture:
    size = (picture.shape[1], picture.shape[0])
    placed = cv2.warpAffine(
        exact.on_grid(picture), matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(placed, np.float32)


def _shaken(matrix: Landmarks, centre: Landmarks, shift_px: Landmarks, turn: float, grow: float) -> Landmarks:
    """Appends to the map a small rotation and scaling about `centre`, and a shift."""
    c, s = (1 + grow) * portable.cos(turn), (1 + grow) * portable.sin(turn)
    extra = np.array([[c, -s], [s, c]])
    linear = np.stack(
        [(extra[:, :1] * matrix[:1, k] + extra[:, 1:] * matrix[1:, k])[:, 0] for k in range(3)], 1
    )
    linear[:, 2] += centre - (extra[:, 0] * centre[0] + extra[:, 1] * centre[1]) + shift_px
    return linear


def deepfakes(target: Take, source: Head, rng: np.random.Generator) -> tuple[Frames, Landmarks]:
    """Renders the source's face in the target's pose, expression and light, like the output of a shared autoencoder.

    The output is small (64–100 pixels across the face crop) and smooth, each frame is aligned independently, and
    colours are matched before blending with a wide feather.
    """
    size, frames, landmarks = target.size, target.frames_THWC.copy(), target.landmarks_T.copy()
    n_frames = len(frames)
    visibility = source.visibility(target.staging.towards())
    resolution = float(rng.uniform(64, 100)) / 150.0
    feather_px = float(rng.uniform(7, 13))
    shake = rng.normal(size=(n_frames, 4)) * (0.45, 0.45, 0.005, 0.006)
    gain = 1 + rng.normal(0, 0.008, n_frames)
    for t in range(n_frames):
        pose = target.staging.pose(t, target.scale_px, target.origin_px)
        drawn = render(source, pose, target.acting.at(t), target.staging.light(t), visibility, size)
        matrix = fit_affine(drawn.landmarks_81[INNER], target.landmarks_T[t, INNER], similarity=True)
        centre = target.landmarks_T[t, INNER].mean(0)
        matrix = _shaken(matrix, centre, shake[t, :2], shake[t, 2], shake[t, 3])
        picture = _place(develop(target, drawn), matrix)
        small = cv2.resize(picture, None, fx=resolution, fy=resolution, interpolation=cv2.INTER_AREA)
        picture = exact.enlarge(small, *size)
        mask = feather(hull(target.landmarks_T[t], size), feather_px) * _place(drawn.alpha_HW, matrix)
        picture = match_colours(picture, frames[t].astype(np.float32), mask, 0.7) * np.float32(gain[t])
        frames[t] = paste(frames[t], picture, mask)
        landmarks[t, INNER] = move(drawn.landmarks_81, matrix)[INNER]
    return frames, landmarks


def faceswap(target: Take, source: Head, rng: np.random.Generator) -> tuple[Frames, Landmarks]:
    """Pastes the source's texture on a face model fitted to the target and lit by an estimated light.

    No shadows and no skin oil, a damped expression, a fit that drifts by a pixel or two, a narrow feather. The texture
    comes from the source's own video and was softened by that camera's lens: without this blur, the sharpness of the
    face alone separated these fakes from the reals.
    """
    size, frames, landmarks = target.size, target.frames_THWC.copy(), target.landmarks_T.copy()
    n_frames = len(frames)
    matte = dataclasses.replace(source, normal_gloss=exact.on_grid(source.normal_gloss * (1, 1, 1, 0.15)))
    visibility = exact.on_grid(np.dstack([np.ones_like(source.occlusion), source.occlusion]))
    error = np.stack([wander(rng, n_frames, spread, 0.12) for spread in (1.0, 1.0, 0.010, 0.012)], 1)
    wrong_light, damping = float(rng.normal(0, 0.35)), float(rng.uniform(0.65, 0.9))
    feather_px, lens_px = float(rng.uniform(1.5, 3.5)), float(rng.uniform(*LENS_BLUR_px))
    for t in range(n_frames):
        pose = target.staging.pose(t, target.scale_px, target.origin_px)
        acted = target.acting.at(t)
        acted = dataclasses.replace(acted, jaw=acted.jaw * damping, lids=0.25 + 0.75 * acted.lids, frown=0.0)
        true = target.staging.light(t)
        light = Light(target.staging.towards(wrong_light), true.key, true.fill * 1.3)
        drawn = render(matte, pose, acted, light, visibility, size)
        soft = dataclasses.replace(drawn, colour_HWC=blur(drawn.colour_HWC, lens_px))
        matrix = fit_affine(drawn.landmarks_81[:68], target.landmarks_T[t, :68], similarity=False)
        matrix = _shaken(matrix, target.landmarks_T[t, INNER].mean(0), error[t, :2], error[t, 2], error[t, 3])
        picture = _place(develop(target, soft), matrix)
        mask = feather(hull(target.landmarks_T[t, :68], size), feather_px) * _place(drawn.alpha_HW, matrix)
        picture = match_colours(picture, frames[t].astype(np.float32), mask, 0.6)
        frames[t] = paste(frames[t], picture, mask)
        landmarks[t, INNER] = move(drawn.landmarks_81, matrix)[INNER]
    return frames, landmarks
