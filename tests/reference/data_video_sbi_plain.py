"""Slow, plain reference of Video-SBI: whole frames, one at a time, float masks. Easy to check."""

import cv2
import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates

from stf.data.augment.codec import h264_round_trip
from stf.data.augment.colour import SourceTransform, TrainTransform
from stf.data.augment.tps import control_points
from stf.data.augmentations import affine_frames
from stf.data.blend import hull_mask, mix
from stf.data.clips import read_clip, read_geometry
from stf.data.faces import crop_face, flip_geometry
from tests.reference import data_blend_plain
from tests.reference.data_warps_plain import sampled


def plain_face_clip(video, start, num_frames, flip):
    """Returns (frames, landmarks, box): reads and mirrors whole frames, then applies the first crop."""
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


def plain_masks(landmarks, draw, recipe):
    """Returns (T, H, W) soft masks × ratio in float64: traces each cell's position back to the hull, warp by warp."""
    return np.stack([_plain_mask(landmarks, draw, recipe, t, f) for t, f in enumerate(draw.elastic.fields())])


def _plain_mask(landmarks, draw, recipe, t, field_HW2):
    height, width = draw.elastic.height, draw.elastic.width
    soft = draw.blend.soft
    y, x = np.indices((soft.height, soft.width)) + 0.5
    y, x = y * height / soft.height - 0.5, x * width / soft.width - 0.5  # the cells' positions in the crop
    x, y = x - draw.drift.offsets_T2[t, 0], y - draw.drift.offsets_T2[t, 1]
    if draw.tps is not None:
        spline = RBFInterpolator(control_points(), draw.tps.displacements_TP2[t], kernel="thin_plate_spline")
        moved = spline(np.stack([(x.ravel() + 0.5) / width, (y.ravel() + 0.5) / height], -1))
        x, y = x + moved[:, 0].reshape(x.shape), y + moved[:, 1].reshape(y.shape)
    elastic_x, elastic_y = (
        map_coordinates(field_HW2[..., i], [y, x], order=1, mode="nearest") for i in (0, 1)
    )
    (scale_x, _, shift_x), (_, scale_y, shift_y) = draw.affine.matrix(height, width)
    x, y = (x + elastic_x - shift_x) / scale_x, (y + elastic_y - shift_y) / scale_y
    anchor = landmarks[t if recipe.mask_anchor == "tracked" else 0]
    sharp = sampled(hull_mask(anchor, height, width, draw.hull_of_68), x, y)
    cells = data_blend_plain.softened(sharp, soft) * draw.blend.ratio
    return data_blend_plain.bilinear_resize(cells, height, width)


def plain_members(frames, masks, draw, recipe):
    """Returns (real, fake) before the final crop, with a loop over the frames; masks are float (T, H, W)."""
    n_frames, height, width = frames.shape[:3]
    fields = list(draw.elastic.fields())
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    real, fake = [], []
    for t in range(n_frames):
        coloured = SourceTransform().apply(frames[t : t + 1], draw.colour)[0]
        source, target = (coloured, frames[t]) if draw.colour_on_source else (frames[t], coloured)
        source = affine_frames(source[None], draw.affine)[0]
        if recipe.elastic_on_source:
            mirror = cv2.BORDER_REFLECT_101
            source = cv2.remap(source, grid + fields[t], None, cv2.INTER_LINEAR, borderMode=mirror)
        members = [target, mix(source, target, masks[t].astype(np.float32))]
        if draw.train is not None:
            members = [TrainTransform().apply(m[None], draw.train)[0] for m in members]
        real.append(members[0])
        fake.append(members[1])
    real, fake = np.stack(real), np.stack(fake)
    if draw.qp is not None:
        real, fake = (h264_round_trip(m, draw.qp, "rgb24") for m in (real, fake))
    return real, fake


def plain_final(frames, box, window, img_size):
    """Returns (3, T, S, S) in [0, 1], resized frame by frame."""
    y0, y1, x0, x1 = window
    resized = [cv2.resize(f[y0:y1, x0:x1], (img_size, img_size)).astype(np.float64) / 255 for f in frames]
    return np.stack([f.transpose(2, 0, 1) for f in resized], axis=1)
