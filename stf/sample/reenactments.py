"""Expression transfer: Face2Face (the target's own pixels, warped) and NeuralTextures (a re-rendered mouth).

T frames, H, W pixels. Each function returns frames (T, H, W, 3) and true landmarks (T, 81, 2) of the fake. The jaw
line and the forehead are the target's, so nothing outside the hull has to move.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.sample import exact, portable
from stf.sample.camera import Frames
from stf.sample.expression import Expression
from stf.sample.face import Rendering, render
from stf.sample.forging import (
    Mask,
    Picture,
    develop,
    feather,
    hull,
    match_colours,
    paste,
    warp_field,
)
from stf.sample.performance import Acting
from stf.sample.relief import Visibility
from stf.sample.skin import noise
from stf.sample.take import Take

Landmarks = NDArray[np.floating[Any]]
BROWS, MOUTH, INNER_LIPS = slice(17, 27), slice(48, 68), slice(60, 68)


def _transferred(target: Take, source: Acting, t: int, brows: bool) -> Expression:
    """Combines the target's gaze and lids with the source's mouth and, with `brows`, the source's brows."""
    own, other = target.acting.at(t), source.at(t)
    brow, frown = (other.brow, other.frown) if brows else (own.brow, own.frown)
    return dataclasses.replace(
        own, jaw=other.jaw, smile=other.smile, pucker=other.pucker, brow=brow, frown=frown
    )


def _driven(
    target: Take, source: Acting, visibility: Visibility, t: int, brows: bool
) -> tuple[Rendering, Landmarks]:
    """Renders the target with the source's expression; also returns the fake's landmarks."""
    pose = target.staging.pose(t, target.scale_px, target.origin_px)
    expression = _transferred(target, source, t, brows)
    drawn = render(target.head, pose, expression, target.staging.light(t), visibility, target.size)
    landmarks = target.landmarks_T[t].copy()
    landmarks[MOUTH] = drawn.landmarks_81[MOUTH]
    if brows:
        landmarks[BROWS] = drawn.landmarks_81[BROWS]
    return drawn, landmarks


def _warped(frame: NDArray[np.uint8], new: Landmarks, old: Landmarks) -> Picture:
    maps = warp_field(new, old, frame.shape[:2])
    return exact.cubic_lookup(frame, *maps)


def _lips_mask(landmarks: Landmarks, size: tuple[int, int], blur_px: float) -> Mask:
    """Returns a soft mask of the opening between the lips; empty for a closed mouth."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(landmarks[INNER_LIPS] * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return np.minimum(1, 1.4 * cv2.GaussianBlur(mask, (0, 0), blur_px).astype(np.float32) / 255)


def _mouth_region(landmarks: Landmarks, size: tuple[int, int], feather_px: float) -> Mask:
    """Returns a soft mask of the lower face between nose and chin, the region of a mouth generator."""
    mouth, nose, chin = landmarks[48:60], landmarks[33], landmarks[8]
    centre = 0.5 * (nose + chin)
    widened = centre + (mouth - mouth.mean(0)) * (1.45, 1.0)
    reach = np.concatenate([widened, [0.85 * nose + 0.15 * centre], [0.85 * chin + 0.15 * centre]])
    reach = np.concatenate([reach, landmarks[[5, 11]] * 0.55 + centre * 0.45])
    return feather(hull(reach, size), feather_px)


def face2face(target: Take, source: Acting, rng: np.random.Generator) -> tuple[Frames, Landmarks]:
    """Warps the target's frames to the source's mouth and brows; only the inside of the mouth is synthetic.

    Light and texture of the re-rendered face are slightly smoother than the target's own.
    """
    visibility = target.head.visibility(target.staging.towards())
    size, frames, landmarks = target.size, target.frames_THWC.copy(), target.landmarks_T.copy()
    blur_px, feather_px = float(rng.uniform(0.35, 0.7)), float(rng.uniform(4, 8))
    relit = np.float32(rng.uniform(0.01, 0.03)) * noise(rng, 40, *size)
    for t in range(len(frames)):
        drawn, landmarks[t] = _driven(target, source, visibility, t, brows=True)
        picture = _warped(frames[t], landmarks[t], target.landmarks_T[t])
        mask = feather(hull(target.landmarks_T[t], size), feather_px)
        model = match_colours(develop(target, drawn), frames[t].astype(np.float32), mask, 0.5)
        picture += _lips_mask(landmarks[t], size, 0.8)[..., None] * (model - picture)
        picture = exact.gaussian_blur(picture, blur_px) * (1 + relit[..., None])
        frames[t] = paste(frames[t], picture, mask)
    return frames, landmarks


def neural_textures(target: Take, source: Acting, rng: np.random.Generator) -> tuple[Frames, Landmarks]:
    """Re-renders the mouth with the source's speech; eyes and brows are the target's.

    Simulates a generator's artefacts: a texture smoother than skin, a faint upsampling lattice, slow shimmer.
    """
    visibility = target.head.visibility(target.staging.towards())
    size, frames, landmarks = target.size, target.frames_THWC.copy(), target.landmarks_T.copy()
    blur_px, feather_px = float(rng.uniform(0.7, 1.1)), float(rng.uniform(5, 9))
    period = int(rng.choice([2, 4]))
    y, x = np.mgrid[: size[0], : size[1]]
    lattice = (((x // (period // 2)) + (y // (period // 2))) % 2 - 0.5).astype(np.float32) * float(
        rng.uniform(1.0, 2.2)
    )
    shimmer = np.stack([noise(rng, 7, *size) for _ in range(3)])
    for t in range(len(frames)):
        drawn, landmarks[t] = _driven(target, source, visibility, t, brows=False)
        recorded = frames[t].astype(np.float32)
        warped = _warped(frames[t], landmarks[t], target.landmarks_T[t])
        mask = _mouth_region(landmarks[t], size, feather_px) * feather(hull(target.landmarks_T[t], size), 5.0)
        model = match_colours(develop(target, drawn), recorded, mask, 0.6)
        picture = warped + 0.65 * (model - warped)
        picture += _lips_mask(landmarks[t], size, 1.0)[..., None] * (model - picture)
        wave = portable.sin(0.7 * t + np.arange(3) * 2.1)
        grain = lattice + 1.2 * (shimmer[0] * wave[0] + shimmer[1] * wave[1] + shimmer[2] * wave[2]).astype(
            np.float32
        )
        picture = exact.gaussian_blur(picture, blur_px) + grain[..., None]
        frames[t] = paste(frames[t], picture, mask)
    return frames, landmarks
