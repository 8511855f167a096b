"""Video-SBI written plainly: whole frames, one at a time, SBI's own per-image calls. Slow, easy to check."""

import cv2
import numpy as np

from stf.data.augmentations import DriftPath, TPSDraw, TPSMaskDeformation, affine_frames, affine_masks
from stf.data.blend import alpha_blend, hull_mask
from stf.data.clips import read_clip, read_geometry
from stf.data.codec import h264_round_trip
from stf.data.colour import SourceTransform, TrainTransform
from stf.data.faces import crop_face, flip_geometry


def plain_face_clip(video, start, num_frames, flip):
    """(frames, landmarks, box): all frames are read and mirrored whole, then the first crop is cut."""
    frames = read_clip(video.frame_paths[start : start + num_frames])
    track = read_geometry(video, start, num_frames)
    landmarks, box = track.landmarks_TN2, track.box_22
    if flip:
        frames = frames[:, :, ::-1]
        landmarks, box = flip_geometry(landmarks, box, frames.shape[2])
    _, _, _, _, y0, y1, x0, x1 = crop_face(
        frames[0], landmarks[0], box, margin=True, crop_by_bbox=False, abs_coord=True
    )
    return frames[:, y0:y1, x0:x1].copy(), landmarks - (x0, y0), box - (x0, y0)


def plain_members(frames, landmarks, draw, recipe):
    """(real, fake, mask) before the final crop, from one Python loop over the frames."""
    n_frames, height, width = frames.shape[:3]
    fields = list(draw.elastic.fields())
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    real, fake, masks = [], [], []
    for t in range(n_frames):
        anchor = landmarks[t if recipe.mask_anchor == "tracked" else 0]
        mask = affine_masks(hull_mask(anchor, height, width, draw.hull_of_68), draw.affine)
        mask = cv2.remap(mask, grid + fields[t], None, cv2.INTER_LINEAR)
        if draw.tps is not None:
            mask = TPSMaskDeformation().apply(mask, TPSDraw(draw.tps.displacements_TP2[t : t + 1]))[0]
        mask = recipe.drift.apply(mask, DriftPath(draw.drift.offsets_T2[t : t + 1], draw.drift.profile))[0]
        coloured = SourceTransform().apply(frames[t : t + 1], draw.colour)[0]
        source, target = (coloured, frames[t]) if draw.colour_on_source else (frames[t], coloured)
        source = affine_frames(source[None], draw.affine)[0]
        if recipe.elastic_on_source:
            mirror = cv2.BORDER_REFLECT_101
            source = cv2.remap(source, grid + fields[t], None, cv2.INTER_LINEAR, borderMode=mirror)
        blended, soft = alpha_blend(source, target, mask, draw.blend.ratio, draw.blend.soft)
        members = [target, blended]
        if draw.train is not None:
            members = [TrainTransform().apply(m[None], draw.train)[0] for m in members]
        real.append(members[0])
        fake.append(members[1])
        masks.append(soft[..., 0])
    real, fake = np.stack(real), np.stack(fake)
    if draw.qp is not None:
        real, fake = (h264_round_trip(m, draw.qp, "rgb24") for m in (real, fake))
    return real, fake, np.stack(masks)


def plain_final(frames, box, window, img_size):
    """(3, T, S, S) float32 in [0, 1], resized frame by frame."""
    y0, y1, x0, x1 = window
    resized = [cv2.resize(f[y0:y1, x0:x1], (img_size, img_size)).astype(np.float64) / 255 for f in frames]
    return np.stack([f.transpose(2, 0, 1) for f in resized], axis=1)
