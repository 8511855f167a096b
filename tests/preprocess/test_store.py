"""Complete videos are skipped, unfinished ones start again, and crashes and full disks are reported."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stf.data.ffpp import video_folder
from stf.errors import DataError, Interrupted
from stf.preprocess import video as video_module
from stf.preprocess.faces import Face
from stf.preprocess.store import Job, VideoFolders
from stf.preprocess.video import Settings, VideoEntry, preprocess_video, preprocess_videos
from tests.reference.preprocess_videos import HueDetector, draw, encode

N = 24


def settings(num_frames: int = 8, max_frames: int = 0, log: Path | None = None) -> Settings:
    return Settings(partial(HueDetector, log), 0, max_frames, num_frames)


def files(root: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (root / "FaceForensics++").rglob("*") if p.is_file()}


def test_a_complete_video_is_skipped_until_its_source_or_the_settings_change(tmp_path: Path) -> None:
    log = tmp_path / "log"
    source = encode(tmp_path / "v/000.mp4", draw([[(40 + t, 60, 20, 0)] for t in range(N)]))

    def run(options: Settings) -> VideoEntry:
        log.unlink(missing_ok=True)
        return preprocess_video(tmp_path, options, os.getpid(), Job(source, "000", None, "raw"))

    first = run(settings(log=log))
    before = files(tmp_path)
    second = run(settings(num_frames=9, log=log))
    assert second == VideoEntry.from_dict({**vars(first), "outcome": "kept"})
    assert not log.exists()
    assert run(settings(num_frames=25)).notes[0].startswith("too short: 24 consecutive frames")
    assert run(settings(num_frames=24)).notes == ()
    os.utime(source)  # like a copy: another time, the same contents
    assert run(settings(log=log)).outcome == "kept"
    assert files(tmp_path) == before
    assert run(settings(max_frames=12, log=log)).frames == 12
    assert len(files(tmp_path)) == 36
    encode(source, draw([[(50 + t, 60, 20, 0)] for t in range(N)]))
    assert run(settings(max_frames=12, log=log)).outcome == "made"
    assert log.stat().st_size == 12
    assert not VideoFolders(tmp_path, Job(source, "000", None, "raw")).work.exists()


def test_frames_of_another_program_are_not_touched(tmp_path: Path) -> None:
    folder = video_folder(tmp_path, None, "raw", "frames", "000")
    folder.mkdir(parents=True)
    (folder / "000.png").write_text("somebody's")
    source = encode(tmp_path / "000.mp4", draw([[(40, 60, 20, 0)]] * 9))
    entry = preprocess_video(tmp_path, settings(), os.getpid(), Job(source, "000", None, "raw"))
    assert entry.outcome == "failed"
    assert "was not made by this command" in entry.problem
    assert (folder / "000.png").read_text() == "somebody's"


@pytest.mark.parametrize("n_moved", [0, 1, 2, 3])
def test_a_video_whose_move_into_the_tree_was_killed_starts_again(
    n_moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = encode(tmp_path / "000.mp4", draw([[(40, 60, 20, 0)]] * 9))
    job, rename, calls = Job(source, "000", None, "raw"), Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        if len(calls) == n_moved:
            raise KeyboardInterrupt
        calls.append(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    if n_moved < 3:
        with pytest.raises(KeyboardInterrupt):
            preprocess_video(tmp_path, settings(), os.getpid(), job)
    monkeypatch.undo()
    entry = preprocess_video(tmp_path, settings(), os.getpid(), job)
    assert entry.outcome == "made"
    assert len(files(tmp_path)) == 27
    assert preprocess_video(tmp_path, settings(), os.getpid(), job).outcome == "kept"


def test_a_full_disk_gives_a_one_line_error_and_leaves_no_partial_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = encode(tmp_path / "000.mp4", draw([[(40, 60, 20, 0)]] * 9))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(VideoFolders, "write_frame", full)
    with pytest.raises(
        DataError, match=r"disk of .* is full; free some space and run the same command again"
    ):
        list(preprocess_videos(tmp_path, settings(), [Job(source, "000", None, "raw")], 1, 60))
    assert not (tmp_path / "FaceForensics++").exists()


class _Crashing(HueDetector):
    """Kills, hangs or ends its process when it sees person 2, as a broken decoder would."""

    def __init__(self, crash: Callable[[], None]) -> None:
        super().__init__()
        self.crash = crash

    def find(self, image_HWC: np.ndarray, near_4: np.ndarray | None) -> list[Face]:
        faces = super().find(image_HWC, near_4)
        if image_HWC[60, 40, 2] > 180 and image_HWC[60, 40, 0] < 80:
            self.crash()
        return faces


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("crash", "message"),
    [
        (_kill_self, "the process died (SIGKILL)"),
        (partial(os._exit, 7), "the process died (exit code 7)"),
        (partial(time.sleep, 60), "took longer than 5 s"),
    ],
)
def test_a_crash_fails_only_one_video(crash: Callable[[], None], message: str, tmp_path: Path) -> None:
    good, bad = draw([[(40, 60, 20, 0)]] * 9), draw([[(40, 60, 20, 2)]] * 9)
    jobs = [
        Job(encode(tmp_path / f"{i}.mp4", bad if i == 1 else good), f"{i}", None, "raw") for i in range(4)
    ]
    made = list(preprocess_videos(tmp_path, Settings(partial(_Crashing, crash), 0, 0, 8), jobs, 2, 5))
    assert {m.name: m.outcome for m in made} == {
        f"real/raw/{i}": "failed" if i == 1 else "made" for i in range(4)
    }
    assert message in next(m.problem for m in made if m.outcome == "failed")
    assert not video_folder(tmp_path, None, "raw", "frames", "1").exists()


def test_a_process_without_its_parent_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = encode(tmp_path / "000.mp4", draw([[(40, 60, 20, 0)]] * 9))
    monkeypatch.setattr(video_module.os, "getpid", lambda: 1)
    with pytest.raises(Interrupted):
        preprocess_video(tmp_path, settings(), 2, Job(source, "000", None, "raw"))
    assert not (tmp_path / "FaceForensics++").exists()


def test_a_damaged_marker_is_reported(tmp_path: Path) -> None:
    source = encode(tmp_path / "000.mp4", draw([[(40, 60, 20, 0)]] * 9))
    job = Job(source, "000", None, "raw")
    preprocess_video(tmp_path, settings(), os.getpid(), job)
    marker = next(tmp_path.rglob("*.json"))
    assert json.loads(marker.read_text())["complete"] is True
    for text in ("{", "[]", '{"complete": true}', '{"complete": true, "signature": {"size": 1}, "entry": 3}'):
        marker.write_text(text)
        assert "is damaged" in preprocess_video(tmp_path, settings(), os.getpid(), job).problem, text
