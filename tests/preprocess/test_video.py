"""One video from raw file to tree: the tracked person, gaps, and the report's notes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stf.data.clips import read_clip, read_geometry
from stf.data.faces import bounds, largest_face, read_boxes, read_landmarks, reorder_landmark
from stf.data.ffpp import SPLITS, FFPPTree, split_file
from stf.data.video import Video
from stf.preprocess.faces import with_forehead
from stf.preprocess.person import MAX_GAP, Tracker, choose_person
from stf.preprocess.store import Job
from stf.preprocess.video import Settings, VideoEntry, longest_run, preprocess_video
from stf.sample.canonical import neutral_landmarks
from stf.sample.identity import draw_identity
from tests.reference.preprocess_videos import HueDetector, Spot, draw, encode

N = 24


def settings(num_frames: int = 8, max_frames: int = 0, start: int = 0) -> Settings:
    return Settings(HueDetector, start, max_frames, num_frames)


def preprocess(
    tmp_path: Path, frames: Sequence[Sequence[Spot]], own: Settings | None = None
) -> tuple[VideoEntry, Video]:
    """Preprocesses a drawn video; returns its report entry and the video in the tree."""
    source = encode(tmp_path / "000.mp4", draw(frames))
    entry = preprocess_video(tmp_path, own or settings(), os.getpid(), Job(source, "000", None, "raw"))
    for split in SPLITS:
        split_file(tmp_path, split).write_text('[["000", "001"]]')
    return entry, FFPPTree(tmp_path).real_videos("train", "raw")[0]


def centres(video: Video) -> dict[int, np.ndarray]:
    """Returns the centre of the largest face, by frame number."""
    centre_of = {}
    for number, path in zip(video.frame_numbers, video.landmark_paths, strict=True):
        if path is not None:
            faces = read_landmarks(path)
            centre_of[number] = bounds(faces[largest_face(faces)]).reshape(2, 2).mean(0)
    return centre_of


def test_frames_are_consecutive_and_contain_the_face(tmp_path: Path) -> None:
    entry, video = preprocess(tmp_path, [[(40 + 2 * t, 60, 20, 0)] for t in range(N)])
    assert (entry.outcome, entry.problem, entry.notes) == ("made", "", ())
    assert (entry.frames, entry.fps, entry.width, entry.height, entry.longest_run) == (N, 25.0, 160, 120, N)
    assert video.frame_numbers == tuple(range(N))
    assert read_clip(video.frame_paths).shape == (N, 120, 160, 3)
    for t, centre in centres(video).items():
        assert np.abs(centre - (40 + 2 * t, 60)).max() < 2
    track = read_geometry(video, 0, N)
    assert track.landmarks_TN2.shape == (N, 81, 2)
    landmarks, box = np.load(video.landmark_paths[3]), np.load(video.box_paths[3])  # type: ignore[arg-type]
    assert (landmarks.dtype, landmarks.shape, box.dtype, box.shape) == (
        np.int64,
        (1, 81, 2),
        np.float64,
        (1, 7, 2),
    )


def test_start_and_max_frames_select_the_frames(tmp_path: Path) -> None:
    entry, video = preprocess(tmp_path, [[(40 + 2 * t, 60, 20, 0)] for t in range(N)], settings(8, 10, 5))
    assert entry.frames == 10
    assert video.frame_numbers == tuple(range(10))
    assert np.abs(centres(video)[0] - (50, 60)).max() < 2


def test_the_person_who_is_largest_over_the_video_is_the_largest_in_every_frames_files(
    tmp_path: Path,
) -> None:
    """Person 1 is larger than person 0 for six frames: their face is omitted from those frames."""
    frames = [[(40, 60, 20, 0), (120, 60, 10 if t < 18 else 24, 1)] for t in range(N)]
    entry, video = preprocess(tmp_path, frames)
    assert all(np.abs(centre - (40, 60)).max() < 3 for centre in centres(video).values())
    assert (entry.several, entry.larger_left_out, entry.jumps, entry.faceless) == (N, 6, 0, 0)
    counts = [[len(read_boxes(path)) for path in video.box_paths if path]]
    counts.append([len(read_landmarks(path)) for path in video.landmark_paths if path])
    assert counts == [[2] * 18 + [1] * 6] * 2
    for start in range(N - 8):
        assert np.abs(bounds(read_geometry(video, start, 8).landmarks_TN2[-1])[0] - 20) < 4


def test_short_gaps_are_filled_and_long_ones_are_not(tmp_path: Path) -> None:
    gap, long = range(5, 9), range(14, 14 + MAX_GAP + 1)
    frames = [[] if t in gap or t in long else [(40 + t, 60, 20, 0)] for t in range(40)]
    entry, video = preprocess(tmp_path, frames)
    assert (entry.filled, entry.faceless, entry.jumps) == (len(gap), len(long), 1)
    assert entry.longest_run == 40 - long.stop
    centre_of = centres(video)
    assert sorted(centre_of) == [t for t in range(40) if t not in long]
    assert all(np.abs(centre_of[t] - (40 + t, 60)).max() < 2.5 for t in gap)
    assert "found again 1×" in entry.notes[0]


def test_another_person_never_takes_over(tmp_path: Path) -> None:
    """Person 0 leaves; person 1, visible at the same time, is never tracked instead. After a cut anybody is."""
    beside = [[(40, 60, 22, 0), (120, 60, 14, 1)] if t < 14 else [(120, 60, 14, 1)] for t in range(28)]
    entry, video = preprocess(tmp_path / "a", beside)
    assert sorted(centres(video)) == list(range(14))
    assert (entry.faceless, entry.jumps) == (14, 0)
    cut = [[(40, 60, 22, 0)] if t < 14 else [(120, 60, 14, 0)] for t in range(28)]
    entry, video = preprocess(tmp_path / "b", cut)
    assert (entry.faceless, entry.jumps) == (0, 1)


def test_a_pattern_of_a_few_frames_is_not_tracked() -> None:
    tracker = Tracker()
    face = HueDetector().align(np.zeros(0), np.array([10.0, 10, 40, 40]))
    blip = HueDetector().align(np.zeros(0), np.array([90.0, 10, 99, 19]))
    for t in range(30):
        tracker.update(t, [face] if t < 10 else [blip] if 14 < t < 18 else [])
    assert [track.first for track in choose_person(tracker.tracks)] == [0]


@pytest.mark.parametrize(
    ("numbers", "run"), [([], []), ([3], [3]), ([0, 1, 3, 4, 5, 7], [3, 4, 5]), ([0, 1, 4, 5], [0, 1])]
)
def test_longest_run(numbers: list[int], run: list[int]) -> None:
    assert longest_run(numbers) == run


def test_short_videos_and_videos_without_a_face_get_a_note(tmp_path: Path) -> None:
    short, _ = preprocess(tmp_path / "a", [[(40, 60, 20, 0)]] * 6)
    assert short.notes == ("too short: 6 consecutive frames with a face, a clip needs 8",)
    empty, video = preprocess(tmp_path / "b", [[]] * 10)
    assert (empty.notes, empty.faceless, set(video.landmark_paths)) == (("no face",), 10, {None})


def test_missing_frames_are_suspected(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    clip = draw([[(40 + 10 * abs(t % 16 - 8), 60, 20, 0)] for t in range(N)])
    dark = (clip * rng.uniform(0.6, 1, (N, 1, 1, 1))).astype(np.uint8)
    entry = preprocess_video(
        tmp_path, settings(), os.getpid(), Job(encode(tmp_path / "000.mp4", dark), "000", None, "raw")
    )
    assert any("stride" in note for note in entry.notes), entry


def test_a_forehead_is_extrapolated_in_the_order_of_the_files() -> None:
    face = np.array(neutral_landmarks(draw_identity(np.random.default_rng(0)).shape)) * 100
    extrapolated = reorder_landmark(with_forehead(face[:68]))
    assert (extrapolated[:68] == face[:68]).all()
    eyes = np.linalg.norm(face[45] - face[36])
    # a synthetic face, so the error is larger than on real ones
    assert np.linalg.norm(extrapolated[68:] - face[68:], axis=1).mean() < 0.15 * eyes
    assert (np.diff(extrapolated[68:, 0]) > 0).all()  # from the left temple to the right
    turn, shift = 2 * np.array([[0.8, 0.6], [-0.6, 0.8]]), 7
    turned = reorder_landmark(with_forehead(face[:68] @ turn + shift))
    assert np.allclose(turned, extrapolated @ turn + shift)
