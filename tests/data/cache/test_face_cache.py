"""The face cache: its clips equal the PNGs' bit for bit, and damaged or stale files are never used."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stf.config import DataParams
from stf.data.cache import build as face_cache_build
from stf.data.cache.build import CachePlan, build, estimate, require_space
from stf.data.cache.face_cache import FaceCache
from stf.data.clips import possible_starts, read_geometry
from stf.data.face_clip import FaceClip, FirstCrop, read_face_clip
from stf.data.faces import Window
from stf.data.ffpp import FFPPTree, Video
from stf.data.pairs import PairBatchSampler, make_loader
from stf.errors import DataError
from tests.reference.data_video_sbi_sets import dataset_for

T = 8
HEIGHT, WIDTH = 120, 144


def silent(done: int, total: int) -> None:
    """No progress bar."""


def videos_of(root: Path) -> list[Video]:
    return FFPPTree(root).real_videos("train", "c23")


def built(tmp_path: Path, root: Path, n_workers: int = 0, **data: object) -> FaceCache:
    cache = FaceCache.for_data(tmp_path / "cache", DataParams(root=str(root), num_frames=T, **data), "0" * 64)
    with cache.locked():
        build(cache, videos_of(root), n_workers, silent)
    return cache


def assert_equal(a: FaceClip, b: FaceClip) -> None:
    for name in ("frames_THWC", "landmarks_TN2", "box_22"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(one, other)
    assert b.frames_THWC.flags.c_contiguous


def unchanged(video: Video) -> None:
    """Leaves the video unchanged."""


def a_second_face_grows_and_passes(video: Video) -> None:
    """Adds a second face that moves over the first and becomes the largest halfway."""
    for t, path in enumerate(video.landmark_paths):
        face_N2 = np.load(path)[0]
        centre = face_N2.mean(0)
        other = centre + (face_N2 - centre) * (0.6 + 0.08 * t) + (30 - 6 * t, 0)
        faces = np.stack([face_N2, np.round(other).astype(face_N2.dtype)])
        np.save(path, faces[:: 1 if t % 3 else -1])
    for path in video.box_paths:
        box = np.load(path)[:, :2]
        np.save(path, np.concatenate([box + np.array([30, 0]), box]))


def faces_at_the_border(video: Video) -> None:
    for t, (landmarks, box) in enumerate(zip(video.landmark_paths, video.box_paths, strict=True)):
        shift = (60 - 9 * t, -50 + 5 * t)
        for path in (landmarks, box):
            np.save(path, np.load(path).astype(float) + shift)


def missing_frames_and_faces(video: Video) -> None:
    for path in (video.frame_paths[1], video.landmark_paths[10], video.box_paths[3]):
        path.unlink()


def a_face_is_lost(video: Video) -> None:
    np.save(video.landmark_paths[9], np.load(video.landmark_paths[9]) + 1000)


@pytest.mark.parametrize(
    "change",
    [
        unchanged,
        a_second_face_grows_and_passes,
        faces_at_the_border,
        missing_frames_and_faces,
        a_face_is_lost,
    ],
)
@pytest.mark.parametrize("allow_strided", [False, True])
def test_every_clip_equals_the_pngs_bit_for_bit(
    tiny_tree: Path, tmp_path: Path, change: Callable[[Video], None], allow_strided: bool
) -> None:
    change(videos_of(tiny_tree)[0])
    video = videos_of(tiny_tree)[0]
    cache = built(tmp_path, tiny_tree, allow_strided=allow_strided)
    expected: dict[tuple[int, bool], FaceClip] = {}
    for start in possible_starts(video, T, allow_strided):
        for flip in (False, True):
            try:
                expected[start, flip] = read_face_clip(video, start, T, flip)
            except DataError as error:
                with pytest.raises(DataError) as caught:
                    cache.read(video, start, T, flip)
                assert str(caught.value) == str(error)
    assert expected
    for frame in video.frame_paths:
        frame.unlink()  # from here on, only the cache has the pixels
    for (start, flip), clip in expected.items():
        assert_equal(clip, cache.read(video, start, T, flip))


def windows_by_definition(video: Video) -> list[Window | None]:
    """Slow reference: for each frame, the union of the first crops of all clips that contain it, mirrored or not."""
    unions: list[Window | None] = [None] * len(video.frame_paths)
    for start in possible_starts(video, T):
        for flip in (False, True):
            window = FirstCrop.plan(read_geometry(video, start, T), HEIGHT, WIDTH, flip).stored_window
            for index in range(start, start + T):
                y0, y1, x0, x1 = unions[index] or window
                a0, a1, b0, b1 = window
                unions[index] = (min(y0, a0), max(y1, a1), min(x0, b0), max(x1, b1))
    return unions


@pytest.mark.parametrize(
    "change", [unchanged, a_second_face_grows_and_passes, faces_at_the_border, missing_frames_and_faces]
)
def test_of_each_frame_exactly_the_pixels_that_some_clip_needs_are_stored(
    tiny_tree: Path, change: Callable[[Video], None]
) -> None:
    change(videos_of(tiny_tree)[0])
    video = videos_of(tiny_tree)[0]
    plan = CachePlan(video, T, allow_strided=False)
    for window, stored in zip(
        windows_by_definition(video), plan.tables.frames["window"][:-1].tolist(), strict=True
    ):
        assert stored == list(window or (0, 0, 0, 0))


def a_truncated_frame(video: Video) -> None:
    video.frame_paths[6].write_bytes(video.frame_paths[6].read_bytes()[:300])


def a_frame_of_another_size(video: Video) -> None:
    cv2.imwrite(str(video.frame_paths[11]), np.zeros((60, 70, 3), np.uint8))


@pytest.mark.parametrize("change", [unchanged, a_truncated_frame, a_frame_of_another_size, a_face_is_lost])
def test_training_gets_the_same_pixels_and_the_same_failures(
    tiny_tree: Path, tmp_path: Path, change: Callable[[Video], None]
) -> None:
    for video in videos_of(tiny_tree)[:2]:
        change(video)
    cache = built(tmp_path, tiny_tree)
    plain, cached = dataset_for(tiny_tree), dataset_for(tiny_tree, reader=cache.read)
    failures = 0
    for epoch in range(3):
        for index in range(len(plain)):
            one, other = plain[epoch, index], cached[epoch, index]
            assert torch.equal(one["video"], other["video"])
            assert one["provenance"] == other["provenance"]
            failures += len(one["provenance"].failures)
    assert bool(failures) == (change is not unchanged)


def test_the_build_reports_clips_that_it_cannot_cache(tiny_tree: Path, tmp_path: Path) -> None:
    video = videos_of(tiny_tree)[0]
    a_truncated_frame(video)
    cache = FaceCache(tmp_path / "cache", T, allow_strided=False)
    with cache.locked():
        report = {b.name: b for b in build(cache, videos_of(tiny_tree), 0, silent)}
    bad = report.pop(video.name)
    assert (bad.n_clips, bad.n_cached) == (5, 0)
    assert str(video.frame_paths[6]) in bad.problem
    assert all((b.n_cached, b.problem) == (5, "") for b in report.values())


def test_files_do_not_depend_on_the_number_of_processes_and_their_size_is_estimated_exactly(
    shared_tree: Path, tmp_path: Path
) -> None:
    one, two = built(tmp_path / "1", shared_tree), built(tmp_path / "2", shared_tree, n_workers=2)
    videos = videos_of(shared_tree)
    planned = estimate(one, videos, 0, silent)
    sizes = [one.path(video).stat().st_size for video in videos]
    assert (planned.n_videos, planned.n_frames, planned.n_bytes) == (4, 48, sum(sizes))
    assert planned.core_seconds > 0
    for video in videos:
        assert one.path(video).read_bytes() == two.path(video).read_bytes()
    assert estimate(one, [], 0, silent).n_bytes == 0


def test_a_damaged_file_is_never_read_and_is_rebuilt(
    shared_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, videos = built(tmp_path, shared_tree), videos_of(shared_tree)
    path = cache.path(videos[1])
    whole = path.read_bytes()
    for data in (b"", whole[:40], whole[:5000], whole[:-1], whole + b"x", b"x" + whole[1:], None):
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)
        assert cache.missing(videos) == [videos[1]]
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert_equal(read_face_clip(videos[1], 2, T, True), cache.read(videos[1], 2, T, True))
        assert videos[1].name in caplog.text
    tables = bytearray(whole)
    tables[200] ^= 1
    path.write_bytes(tables)
    assert cache.missing(videos) == [videos[1]]
    with cache.locked():
        build(cache, cache.missing(videos), 0, silent)
    assert cache.missing(videos) == []
    assert path.read_bytes() == whole


def test_a_file_for_other_frames_is_not_used(shared_tree: Path, tmp_path: Path, make_tree) -> None:
    cache = built(tmp_path, shared_tree)
    longer = FFPPTree(make_tree(n_frames=13)).real_videos("train", "c23")
    assert cache.missing(longer) == longer
    assert_equal(read_face_clip(longer[0], 5, T), cache.read(longer[0], 5, T))
    shorter = videos_of(shared_tree)[0]
    assert_equal(read_face_clip(shorter, 0, T - 1), cache.read(shorter, 0, T - 1))


def test_a_window_that_is_not_stored_is_read_from_the_pngs(
    shared_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a change of the crop rule."""
    cache, video = built(tmp_path, shared_tree), videos_of(shared_tree)[0]
    monkeypatch.setattr("stf.data.face_clip.first_crop_window", lambda *_: (0, HEIGHT, 0, WIDTH))
    assert_equal(read_face_clip(video, 0, T), cache.read(video, 0, T))
    assert "another crop" in caplog.text


def test_data_and_clip_length_choose_the_folder(tmp_path: Path) -> None:
    data, seen = DataParams(), set()
    for fingerprint in ("a" * 64, "b" * 64):
        for other in (
            data,
            DataParams(num_frames=16),
            DataParams(quality="raw"),
            DataParams(allow_strided=True),
        ):
            seen.add(FaceCache.for_data(tmp_path, other, fingerprint).folder)
    assert len(seen) == 8
    assert FaceCache.for_data(tmp_path, DataParams(train_pairs_per_video=7), "a" * 64).folder in seen


def test_an_interrupted_build_resumes(
    shared_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, videos = FaceCache(tmp_path / "cache", T, allow_strided=False), videos_of(shared_tree)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), cache.locked():
        build(cache, videos, 0, interrupt)
    assert cache.missing(videos) == videos[1:]
    partial = cache.folder / "001.faces.77.part"
    partial.write_bytes(b"half")
    first = cache.path(videos[0]).stat()
    with cache.locked():
        build(cache, cache.missing(videos), 0, silent)
    assert cache.missing(videos) == []
    assert cache.path(videos[0]).stat() == first
    assert not partial.exists()


def test_a_full_disk_is_an_error_before_and_during_the_build(
    shared_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, videos = FaceCache(tmp_path / "a/cache", T, allow_strided=False), videos_of(shared_tree)
    needed = estimate(cache, videos, 0, silent).n_bytes
    usage = shutil.disk_usage(tmp_path)._replace(free=needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    require_space(cache, needed)
    with pytest.raises(DataError, match=r"a/cache needs .* GB are free; .*runtime\.face_cache: \"\""):
        require_space(cache, needed + 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(face_cache_build, "write_file", full)
    with pytest.raises(DataError, match=r"a/cache is full; .*runtime\.face_cache"):
        build(cache, videos, 0, silent)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_workers_read_from_the_cache(shared_tree: Path, tmp_path: Path, num_workers: int) -> None:
    cache = built(tmp_path, shared_tree)
    dataset = dataset_for(shared_tree, reader=cache.read)
    loader = make_loader(dataset, PairBatchSampler(dataset.n_pairs, 4, 0, shuffle=False), num_workers)
    plain = dataset_for(shared_tree)
    videos = torch.cat([batch["video"] for batch in loader])
    assert torch.equal(videos, torch.stack([plain[i]["video"] for i in range(len(plain))]))


def test_a_folder_that_cannot_be_created_is_an_error_with_the_parameter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = FaceCache(tmp_path / "file/cache", T, allow_strided=False)
    with (
        pytest.raises(DataError, match=r"runtime\.face_cache: .* set another folder"),
        cache.locked(),
    ):
        pass
