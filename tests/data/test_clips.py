"""Frames and clips: consecutive runs, errors with file names, tracking of the right face, suspected stride."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from stf.audit.stride import Motion, check_stride, data_set_looks_strided, image_pairs, stride_of_numbers
from stf.data.clips import (
    clip_starts,
    possible_starts,
    read_clip,
    read_frame,
    read_geometry,
    spread_evenly,
    video_clip_starts,
)
from stf.data.faces import reorder_landmark
from stf.data.ffpp import FFPPTree, Video
from stf.errors import DataError

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def png_bytes(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def forged_header(width: int, height: int, bit_depth: int = 8) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, bit_depth, 2, 0, 0, 0)
    ihdr = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return png_bytes(IMAGE)[:8] + ihdr + png_bytes(IMAGE)[33:]


@pytest.fixture
def video(tiny_tree: Path) -> Video:
    return FFPPTree(tiny_tree).real_videos("train", "c23")[0]


def test_a_frame_is_read_as_rgb(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(IMAGE[..., ::-1]))
    frame = read_frame(tmp_path / "a.png")
    np.testing.assert_array_equal(frame, IMAGE)
    assert frame.flags["C_CONTIGUOUS"]
    (tmp_path / "grey.png").write_bytes(png_bytes(IMAGE[..., 0]))
    assert read_frame(tmp_path / "grey.png").shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG"),
        (cv2.imencode(".jpg", IMAGE)[1].tobytes(), "not a PNG"),
        (png_bytes(IMAGE)[:20], "header"),
        (png_bytes(IMAGE)[:-40], "truncated"),
        (png_bytes(IMAGE)[:-12], "truncated"),
        (png_bytes(IMAGE.astype(np.uint16) * 200), "16 bits"),
        (forged_header(100_000, 100_000), "100000x100000"),
        (forged_header(0, 5), "0x5"),
        (forged_header(300, 200), "decoded"),
        (png_bytes(IMAGE)[:60] + b"\x00\x01" + png_bytes(IMAGE)[62:], "damaged"),
    ],
)
def test_broken_frames_are_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "012.png").write_bytes(data)
    with pytest.raises(DataError, match=rf"012\.png.*{message}"):
        read_frame(tmp_path / "012.png")


def test_a_frame_truncated_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = png_bytes(IMAGE[:4, :4])
    for n_bytes in range(len(whole)):
        (tmp_path / "a.png").write_bytes(whole[:n_bytes])
        with pytest.raises(DataError):
            read_frame(tmp_path / "a.png")


def test_a_clip_contains_its_frames_in_order_and_in_one_size(video: Video, tmp_path: Path) -> None:
    clip = read_clip(video.frame_paths[3:7])
    assert clip.shape == (4, 120, 144, 3)
    assert clip.dtype == np.uint8
    np.testing.assert_array_equal(clip[2], read_frame(video.frame_paths[5]))
    (tmp_path / "odd.png").write_bytes(png_bytes(IMAGE))
    with pytest.raises(DataError, match=r"odd\.png is 30x20, but the clip's first frame is 144x120"):
        read_clip([*video.frame_paths[:2], tmp_path / "odd.png"])
    with pytest.raises(DataError, match="0 frames"):
        read_clip([])
    with pytest.raises(DataError, match="cannot be read"):
        read_clip([tmp_path / "gone.png"])


def test_starts_are_evenly_spaced_from_first_to_last() -> None:
    assert clip_starts(40, 16, 4) == [0, 8, 16, 24]
    assert clip_starts(40, 16, 1) == [12]
    assert clip_starts(16, 16, 4) == [0]
    assert clip_starts(15, 16, 4) == []
    assert clip_starts(18, 16, 9) == [0, 1, 2]
    assert spread_evenly([5, 7, 100], 2) == [5, 100]
    assert spread_evenly([5, 7], 0) == []


def brute_force_starts(video: Video, num_frames: int) -> list[int]:
    """Slow reference: checks the definition frame by frame."""
    starts = []
    for start in range(len(video.frame_numbers) - num_frames + 1):
        span = range(start, start + num_frames)
        consecutive = all(video.frame_numbers[i] == video.frame_numbers[start] + i - start for i in span)
        faces = all(video.landmark_paths[i] is not None for i in span)
        if consecutive and faces and video.box_paths[start] is not None:
            starts.append(start)
    return starts


@pytest.mark.parametrize("seed", range(20))
def test_a_clip_never_spans_a_gap_or_a_frame_without_a_face(shared_tree: Path, seed: int) -> None:
    video = FFPPTree(shared_tree).real_videos("train", "c23")[0]
    rng = np.random.default_rng(seed)
    n = 60
    numbers = tuple(np.cumsum(rng.choice([1, 1, 1, 1, 1, 1, 1, 2, 9], n)).tolist())
    path = Path("x")
    with_gaps = replace(
        video,
        frame_paths=(path,) * n,
        frame_numbers=numbers,
        landmark_paths=tuple(path if rng.random() > 0.05 else None for _ in range(n)),
        box_paths=tuple(path if rng.random() > 0.1 else None for _ in range(n)),
    )
    for num_frames in (1, 3, 8):
        assert possible_starts(with_gaps, num_frames) == brute_force_starts(with_gaps, num_frames)


def test_a_strided_video_has_no_clip_unless_allowed(video: Video) -> None:
    strided = replace(video, frame_numbers=tuple(range(0, 120, 10)))
    assert possible_starts(strided, 8) == []
    assert possible_starts(strided, 8, allow_strided=True) == [0, 1, 2, 3, 4]
    assert video_clip_starts(strided, 8, 2, allow_strided=True) == [0, 4]
    assert video_clip_starts(video, 8, 3) == [0, 2, 4]


def test_the_largest_face_of_the_first_frame_is_tracked(video: Video) -> None:
    expected = []
    for t, path in enumerate(video.landmark_paths):
        assert path is not None
        face = np.load(path)[0]
        expected.append(face)
        bystander = face * 0.5 + (200, 0) if t < 3 else face * 1.5 + (200, 0)  # grows larger later
        np.save(path, np.stack([bystander, face] if t % 2 else [face, bystander]))
    track = read_geometry(video, 0, 12)
    np.testing.assert_array_equal(track.landmarks_TN2, reorder_landmark(np.stack(expected)))
    assert track.box_22.shape == (2, 2)
    with pytest.raises(DataError, match=r"004\.npy.*no box overlaps"):
        read_geometry(video, 4, 3)  # here the bystander is largest, but only the face has a box


def test_a_lost_face_and_a_missing_file_are_errors_with_the_name(video: Video) -> None:
    path = video.landmark_paths[5]
    assert path is not None
    np.save(path, np.load(path) + 500)
    with pytest.raises(DataError, match=r"005\.npy: no face overlaps"):
        read_geometry(video, 0, 12)
    assert read_geometry(video, 6, 4).landmarks_TN2.shape == (4, 81, 2)
    one_missing = tuple(None if i == 3 else p for i, p in enumerate(video.landmark_paths))
    with pytest.raises(DataError, match=r"003\.png has no landmarks"):
        read_geometry(replace(video, landmark_paths=one_missing), 2, 2)
    with pytest.raises(DataError, match="has no box"):
        read_geometry(replace(video, box_paths=(None,) * 12), 0, 2)
    box_path = video.box_paths[0]
    assert box_path is not None
    np.save(box_path, np.array([[900.0, 900, 950, 950]]))
    with pytest.raises(DataError, match=r"000\.npy.*no box overlaps"):
        read_geometry(video, 0, 2)


def test_the_stride_follows_from_the_frame_numbers() -> None:
    assert stride_of_numbers(range(0, 300, 10)) == 10
    assert stride_of_numbers([0, 1, 2, 5, 6, 7, 8]) == 1
    assert stride_of_numbers([4]) == 1
    assert image_pairs(12) == [0, 5, 10]
    assert image_pairs(1) == []


def every_nth(video: Video, n: int) -> Video:
    """The video as the official preprocessing would renumber it: every n-th frame, numbered 0…N−1."""
    strided = slice(None, None, n)
    return replace(
        video,
        frame_paths=video.frame_paths[strided],
        frame_numbers=tuple(range(len(video.frame_paths[strided]))),
        landmark_paths=video.landmark_paths[strided],
        box_paths=video.box_paths[strided],
    )


def test_a_renumbered_strided_video_is_suspected_by_its_motion(make_tree: Callable[..., Path]) -> None:
    tree = FFPPTree(make_tree(n_frames=73, methods=()))
    videos = [v for split in ("train", "val", "test") for v in tree.real_videos(split, "c23")]
    consecutive = [check_stride(v) for v in videos]
    assert not any(report.suspected for report in consecutive)
    strided = [check_stride(every_nth(v, 6)) for v in videos]
    assert all(report.stride == 1 for report in strided)
    motions = [r.motion for r in consecutive if r.motion], [r.motion for r in strided if r.motion]
    assert not data_set_looks_strided(motions[0])
    assert data_set_looks_strided(motions[1])
    assert not data_set_looks_strided(motions[1][:2])


def test_a_fast_head_alone_or_a_flash_alone_is_not_suspected() -> None:
    assert Motion(9.0, 9.0).exceeds((6.0, 8.0))
    assert not Motion(9.0, 1.0).exceeds((6.0, 8.0))
    assert not Motion(1.0, 60.0).exceeds((6.0, 8.0))


def test_a_stride_in_the_numbers_is_reported_without_reading_a_frame(video: Video) -> None:
    strided = replace(video, frame_numbers=tuple(range(0, 36, 3)), frame_paths=(Path("missing"),) * 12)
    report = check_stride(strided)
    assert (report.stride, report.suspected, report.motion) == (3, False, None)
