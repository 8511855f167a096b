"""The first crop of a clip, the resized window and the network's input."""

import cv2
import numpy as np
import pytest

from stf.data.clips import read_clip, read_geometry
from stf.data.face_clip import read_face_clip, resize_window, to_model_input
from stf.data.ffpp import FFPPTree
from stf.errors import DataError


def first_video(root):
    return FFPPTree(root).real_videos("train", "c23")[0]


def test_frames_and_geometry_are_mirrored_together(shared_tree):
    video = first_video(shared_tree)
    plain, mirrored = read_face_clip(video, 1, 6), read_face_clip(video, 1, 6, flip=True)
    assert plain.frames_THWC.flags.c_contiguous
    frames, track = read_clip(video.frame_paths[1:7]), read_geometry(video, 1, 6)
    width = frames.shape[2]
    x0, y0 = (track.landmarks_TN2 - plain.landmarks_TN2)[0, 0].astype(int)
    height_c, width_c = plain.frames_THWC.shape[1:3]
    np.testing.assert_array_equal(plain.frames_THWC, frames[:, y0 : y0 + height_c, x0 : x0 + width_c])
    np.testing.assert_allclose(plain.box_22, track.box_22 - (x0, y0))
    # a mirrored point keeps its distance to the mirrored frame's right edge
    left = width - 1 - track.landmarks_TN2[0, :, 0]
    offset = np.sort(left)[0] - np.sort(mirrored.landmarks_TN2[0, :, 0])[0]
    mirrored_full = frames[:, :, ::-1]
    x0, width_c = round(offset), mirrored.frames_THWC.shape[2]
    np.testing.assert_array_equal(
        mirrored.frames_THWC, mirrored_full[:, y0 : y0 + mirrored.frames_THWC.shape[1], x0 : x0 + width_c]
    )


def test_a_frame_of_another_size_is_an_error_with_its_name(tiny_tree):
    video = first_video(tiny_tree)
    cv2.imwrite(str(video.frame_paths[3]), np.zeros((60, 70, 3), np.uint8))
    with pytest.raises(DataError, match=r"003\.png is 70x60, but the clip's first frame is 144x120"):
        read_face_clip(video, 0, 6)


def test_a_face_outside_the_image_is_an_error_with_the_frames_name(tiny_tree):
    video = first_video(tiny_tree)
    for path in (video.landmark_paths[0], video.box_paths[0]):
        np.save(path, np.load(path) + 5000)
    with pytest.raises(DataError, match=r"000\.png.*outside the 144x120 image; preprocess"):
        read_face_clip(video, 0, 1)


def test_resized_window_and_model_input():
    rng = np.random.default_rng(0)
    clip_THWC = rng.integers(0, 256, (3, 20, 30, 3), np.uint8)
    same = resize_window(clip_THWC, (4, 12, 5, 13), 8)
    np.testing.assert_array_equal(same, clip_THWC[:, 4:12, 5:13])
    masks = resize_window(clip_THWC[..., 0].astype(np.float32), (0, 20, 5, 25), 10)
    assert masks.shape == (3, 10, 10)
    assert masks.dtype == np.float32
    video_CTSS = to_model_input(same)
    assert video_CTSS.dtype == np.float32
    assert video_CTSS.flags.c_contiguous
    np.testing.assert_allclose(video_CTSS, np.moveaxis(same, 3, 0) / 255, atol=1e-6)
