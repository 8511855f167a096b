"""Untrained scalars measure what they say, and an unreadable video is not measured."""

import cv2
import numpy as np
import pandas as pd
import pytest

from stf.data.ffpp import FFPPTree
from stf.errors import DataError
from stf.evaluation.baselines import SCALARS, clip_scalars, scalar_auc, video_scalars
from tests.reference.evaluation_plain import auc_by_counting
from tests.reference.evaluation_sets import write_three_pairs


def noisy_clip(amplitude, seed=0):
    rng = np.random.default_rng(seed)
    clip = 128 + rng.normal(0, amplitude, (6, 64, 80, 3))
    return np.clip(clip, 0, 255).astype(np.uint8)


BOX = np.array([[20.0, 10.0], [60.0, 46.0]])


def test_face_size_is_the_side_of_a_square_of_the_boxs_area():
    assert clip_scalars(noisy_clip(5), BOX)["face_px"] == pytest.approx(np.sqrt(40 * 36))


def test_bits_and_sharpness_rise_with_detail():
    soft, sharp = clip_scalars(noisy_clip(3), BOX), clip_scalars(noisy_clip(30), BOX)
    assert sharp["bits_per_pixel"] > 2 * soft["bits_per_pixel"] > 0
    assert sharp["sharpness"] > soft["sharpness"] + 1
    blurred = np.stack([cv2.GaussianBlur(frame, (5, 5), 2) for frame in noisy_clip(30)])
    assert clip_scalars(blurred, BOX)["sharpness"] < sharp["sharpness"] - 1


def test_sharpness_is_the_faces_not_the_backgrounds():
    clip = noisy_clip(3)
    outside = clip.copy()
    outside[:, :8] = noisy_clip(60)[:, :8]
    assert clip_scalars(outside, BOX)["sharpness"] == clip_scalars(clip, BOX)["sharpness"]


def test_a_box_outside_the_frame_is_an_error():
    with pytest.raises(DataError, match="outside the 80x64 frame"):
        clip_scalars(noisy_clip(3), BOX + 100)


def test_the_table_has_a_row_per_video_and_reports_unreadable_ones(tmp_path):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",), methods=("FaceSwap",), n_frames=8)
    videos = FFPPTree(root).real_videos("test", "c23")
    videos[2].frame_paths[3].write_bytes(b"")
    table = video_scalars(videos, 8)
    assert list(table.columns) == [*SCALARS, "scalar_error"]
    assert table["bits_per_pixel"].isna().tolist() == [False, False, True, False, False, False]
    assert videos[2].name in table["scalar_error"][2]
    assert table["face_px"].dropna().tolist() == pytest.approx([np.sqrt(52 * 64)] * 5)
    pd.testing.assert_frame_equal(table, video_scalars(videos, 8, num_workers=2))


def test_scalar_auc_leaves_the_unmeasured_out():
    table = pd.DataFrame(
        {
            "label": [0, 0, 0, 1, 1, 1],
            "identity_pair": ["a", "b", "c", "a", "b", "c"],
            "face_px": [1.0, 2.0, np.nan, 3.0, 1.5, 9.0],
        }
    )
    result = scalar_auc(table, "face_px", 200, 0)
    measured = table.dropna()
    expected = auc_by_counting(measured["label"].to_numpy(), measured["face_px"].to_numpy())
    assert (result.n_real, result.n_fake, result.auc) == (2, 3, pytest.approx(expected))
    assert result.interval.low <= result.auc <= result.interval.high
    assert scalar_auc(table[table["label"] == 1], "face_px", 200, 0).auc is None
