"""A face cache with wrong tables is refused and the clip read from its PNGs: never a crash, never NaN."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stf.config import DataParams
from stf.data.cache.build import build_video
from stf.data.cache.face_cache import FaceCache
from stf.data.cache.file import FACE, FRAME, HEADER, START, check_file
from stf.data.face_clip import read_face_clip
from stf.data.ffpp import FFPPTree
from stf.data.video import Video

T, N = 8, 12


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, tree_writer: Callable[..., Path]
) -> tuple[FaceCache, Video]:
    """A cache of one video of 12 frames, for clips of 8 frames."""
    root = tree_writer(tmp_path_factory.mktemp("tree") / "data", size=(96, 112), methods=())
    video = FFPPTree(root).real_videos("train", "c23")[0]
    cache = FaceCache.for_data(root.parent, DataParams(root=str(root), num_frames=T), "x")
    cache.folder.mkdir()
    build_video(cache, video)
    shutil.copy(cache.path(video), root.parent / "intact")
    return cache, video


def damaged(built: tuple[FaceCache, Video], at: int, value: np.ndarray) -> Path:
    """Replaces one number in the cache's tables; returns the file."""
    cache, video = built
    data = bytearray((cache.folder.parent / "intact").read_bytes())
    data[at : at + value.nbytes] = value.tobytes()
    cache.path(video).write_bytes(data)
    return cache.path(video)


def reads_like_the_pngs(built: tuple[FaceCache, Video], start: int) -> bool:
    cache, video = built
    clip, plain = cache.read(video, start, T), read_face_clip(video, start, T)
    same = (clip.frames_THWC.shape == plain.frames_THWC.shape) and (
        clip.landmarks_TN2 == plain.landmarks_TN2
    ).all()
    return bool(same) and bool((clip.frames_THWC == plain.frames_THWC).all())


EXTREME_VALUES = [-1, 0, 1, N, 10**6, 10**12, 2**62, -(2**62)]
FRAMES_AT = HEADER.itemsize
STARTS_AT = FRAMES_AT + (N + 1) * FRAME.itemsize
FACES_AT = STARTS_AT + N * START.itemsize


@given(
    st.sampled_from(["pixels_at", "n_frames", "n_faces", "file_bytes", "num_frames", "height", "width"]),
    st.sampled_from([*EXTREME_VALUES, 10**9]),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_a_wrong_header_the_clip_is_read_from_the_pngs(
    built: tuple[FaceCache, Video], name: str, value: int
) -> None:
    path = damaged(built, HEADER.fields[name][1], np.array(value, "<i8"))
    check_file(path, N, T)
    assert reads_like_the_pngs(built, 0)


@pytest.mark.parametrize("value", EXTREME_VALUES)
@pytest.mark.parametrize("at", [FRAMES_AT, FRAMES_AT + 8, STARTS_AT, FACES_AT, FACES_AT + FACE.itemsize])
def test_a_wrong_row_number_never_gives_another_face(
    built: tuple[FaceCache, Video], at: int, value: int
) -> None:
    """Row numbers are range-checked when read; the tables' checksum is checked when training starts."""
    cache, video = built
    path = damaged(built, at, np.array(value, "<i8"))
    whole = check_file(path, N, T)
    clip = cache.read(video, 0, T)
    assert np.isfinite(clip.landmarks_TN2).all()
    assert len(clip.frames_THWC) == T
    assert not whole or reads_like_the_pngs(built, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308, -1e9])
@pytest.mark.parametrize("at", [STARTS_AT + 8, FACES_AT + 8])
def test_invalid_points_are_not_used(built: tuple[FaceCache, Video], at: int, value: float) -> None:
    damaged(built, at, np.array(value, "<f8"))
    assert reads_like_the_pngs(built, 0)


@pytest.mark.parametrize("window", [(0, 10**9, 0, 10**9), (-5, 5, 0, 9), (9, 3, 0, 9), (0, 2**31 - 1, 0, 1)])
def test_a_window_beyond_the_picture_is_not_allocated(
    built: tuple[FaceCache, Video], window: tuple[int, ...]
) -> None:
    damaged(built, FRAMES_AT + 16, np.array(window, "<i4"))
    assert reads_like_the_pngs(built, 0)
