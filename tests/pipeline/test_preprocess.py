"""`python -m pipeline.preprocess`: raw files become a tree that verify_data accepts, despite kills and broken files."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline import preprocess
from stf.audit.verify import require_ready, verify_tree
from stf.config import Params
from stf.data.ffpp import FFPPTree, fingerprint_of
from stf.preprocess.video import Settings
from tests.reference.preprocess_videos import HueDetector, draw, encode, playlist, sound

ROOT = Path(__file__).resolve().parents[2]
# The command with a slow detector for the drawn faces.
SLOW = """
import sys, time
from functools import partial
from pathlib import Path
import pipeline.preprocess as command
from stf.preprocess.video import Settings
from tests.reference.preprocess_videos import HueDetector
class Slow(HueDetector):
    def find(self, image_HWC, near_4):
        time.sleep(float(sys.argv[1]))
        return super().find(image_HWC, near_4)
command._settings = lambda options: Settings(partial(Slow, Path(sys.argv[2])), 0, 0, 8)
command.main(sys.argv[3:])
"""


@pytest.fixture(autouse=True)
def hue_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(options: dict) -> Settings:
        return Settings(HueDetector, options["start"], options["max_frames"], options["num_frames"])

    monkeypatch.setattr(preprocess, "_settings", settings)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(preprocess.main, [str(a) for a in arguments])


def speaking(path: Path, number: int, n_frames: int = 20) -> Path:
    """Writes a video of a face that moves a little, at another position for each number."""
    t = np.arange(n_frames)
    spots = zip(70 + number + 3 * np.sin(0.3 * t), 60 + 2 * np.cos(0.3 * t), strict=True)
    return encode(path, draw([[(x, y, 20, number % 3)] for x, y in spots]))


def recordings(folder: Path, n: int, n_frames: int = 20) -> Path:
    for i in range(n):
        speaking(folder / f"p{i}.mp4", i, n_frames)
    return folder


def snapshot(root: Path) -> dict[str, bytes]:
    tree = root / "FaceForensics++"
    return {str(p.relative_to(tree)): p.read_bytes() for p in sorted(tree.rglob("*")) if p.is_file()}


def test_own_videos_become_a_tree_that_is_ready_for_training(tmp_path: Path) -> None:
    raw, root = recordings(tmp_path / "raw", 6), tmp_path / "data"
    speaking(raw / "p6.mp4", 6, 5)
    for a, b in ((0, 1), (1, 0)):
        speaking(tmp_path / f"fakes/p{a}_p{b}.mp4", a)
    fakes = run(tmp_path / "fakes", "--root", root, "--method", "FaceSwap", "--workers", 1, "--num-frames", 8)
    assert fakes.exit_code == 0, fakes.output
    assert "lacks train.json, val.json, test.json" in fakes.output
    made = run(raw, "--root", root, "--workers", 2, "--num-frames", 8, "--splits")
    assert made.exit_code == 0, made.output
    assert "too short" in made.output
    assert "6 identities with a clip of 8 frames, drawn at random" in made.output
    rows = [line for line in made.output.splitlines() if "│" in line]
    assert {len(row) for row in rows} == {100}
    assert all(row.endswith("│") for row in rows)
    tree = FFPPTree(root)
    assert "p6" not in {i for split in ("train", "val", "test") for i in tree.ids(split)}
    data = dataclasses.replace(Params().data, root=str(root), quality="raw", num_frames=8, img_size=32)
    verification = verify_tree(tree, data, 0, lambda done, total: None)
    require_ready(verification)
    assert [d for d in verification.defects if d.what not in ("missing videos", "unknown ids")] == []
    report = json.loads((root / "preprocess.json").read_text())
    names = [video["name"] for video in report["videos"]]
    assert names == ["FaceSwap/raw/p0_p1", "FaceSwap/raw/p1_p0", *(f"real/raw/p{i}" for i in range(7))]
    before = fingerprint_of(root)
    again = run(raw, "--root", root, "--workers", 2, "--num-frames", 8, "--splits")
    assert again.exit_code == 0, again.output
    assert "0 made, 7 already complete, 0 failed" in again.output
    assert "existing split files were not changed" in again.output
    assert fingerprint_of(root) == before


def test_broken_and_hostile_files_give_one_line_each_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    raw, root = recordings(tmp_path / "raw", 3), tmp_path / "data"
    (raw / "a-empty.mp4").touch()
    (raw / "b-text.mp4").write_text("hello\n" * 100)
    sound(raw / "c-sound.mp4")
    for name, data in playlist(raw / "p0.mp4").items():
        (raw / f"d-{name}.mp4").write_bytes(data)
    (raw / "http:evil.mp4").write_bytes(b"x")
    (raw / "z\n\x1b[31mred.mp4").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(raw) + b"/\xff\xfe.mp4")).write_bytes(b"x")
    os.mkfifo(raw / "e-pipe.mp4")
    outside = set(tmp_path.iterdir())
    result = run(raw, "--root", root, "--workers", 2, "--num-frames", 8)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert set(tmp_path.iterdir()) == outside | {root}
    assert FFPPTree(root).video_ids(None, "raw") == ["p0", "p1", "p2"]
    report = json.loads((root / "preprocess.json").read_text())
    problems = {video["name"][9:]: video["problem"] for video in report["videos"] if video["problem"]}
    assert sorted(problems) == [
        "a-empty",
        "b-text",
        "c-sound",
        "d-concat",
        "d-dash",
        "d-playlist",
        "d-sdp",
        "e-pipe",
    ]
    assert all(text and "\n" not in text for text in problems.values())
    assert "'http:evil' is not a video id" in report["refused"][0]
    assert "3 made, 0 already complete, 11 failed" in result.output
    assert r"z\n\x1b[31mred.mp4" in result.output
    assert r"\udcff\udcfe.mp4" in result.output


def start(tmp_path: Path, delay_s: float) -> subprocess.Popen[str]:
    arguments = [str(tmp_path / "raw"), "--root", str(tmp_path / "data"), "--workers", "2"]
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(delay_s), str(tmp_path / "log"), *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_first_video(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not any((tmp_path / "data/.preprocess").glob("done/real/raw/*.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "signum",
    [signal.SIGTERM, *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGKILL, signal.SIGINT))],
)
def test_an_interrupted_run_resumes_after_the_complete_videos(signum: signal.Signals, tmp_path: Path) -> None:
    recordings(tmp_path / "raw", 6, 10)
    process = start(tmp_path, 0.1)
    wait_for_first_video(tmp_path, process)
    process.send_signal(signum)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum)
    if signum != signal.SIGKILL:
        assert "run the same command again to resume" in output
        assert "Traceback" not in output
    complete = snapshot(tmp_path / "data")
    n_complete = sum("/frames/" in name for name in complete) // 10
    assert 0 < n_complete < 6
    assert len(complete) >= 30 * n_complete
    assert len(complete) % 30 == 0 or signum == signal.SIGKILL
    time.sleep(0.3)  # the processes of a killed run exit within one frame
    (tmp_path / "log").unlink()
    second = start(tmp_path, 0)
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 0, output
    n_skipped = int(output.split(" already complete")[0].split()[-1])
    assert n_complete - 1 <= n_skipped <= n_complete + 1
    assert (tmp_path / "log").stat().st_size == 10 * (6 - n_skipped)
    whole = snapshot(tmp_path / "data")
    assert len(whole) == 6 * 30
    assert not any((tmp_path / "data/.preprocess/work").rglob("*.png"))
    uninterrupted = run(tmp_path / "raw", "--root", tmp_path / "fresh", "--workers", 1)
    assert uninterrupted.exit_code == 0
    assert snapshot(tmp_path / "fresh") == whole


def test_a_second_command_on_one_tree_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    recordings(tmp_path / "raw", 1)
    (tmp_path / "data/.preprocess").mkdir(parents=True)
    monkeypatch.setattr(preprocess, "LOCK_S", 0.1)
    with FileLock(tmp_path / "data/.preprocess/lock"):
        result = run(tmp_path / "raw", "--root", tmp_path / "data")
    assert result.exit_code == 2
    assert "another preprocess command is writing" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.mp4"], 2, "nowhere.mp4 does not exist"),
        ([], 2, "no videos found"),
        (["--table", "none.csv"], 1, "none.csv cannot be read"),
        (["--quality", "c99"], 2, "c99"),
        (["--method", "../x"], 2, "../x"),
        (["--report", "own.mp4", "own.mp4"], 2, "ends in .json"),
    ],
)
def test_wrong_arguments_give_a_one_line_error(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    result = run(*arguments, "--root", tmp_path / "data")
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "data").exists()


def test_a_file_instead_of_the_trees_folder_is_a_one_line_error(tmp_path: Path) -> None:
    recordings(tmp_path / "raw", 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/FaceForensics++").write_text("a file")
    result = run(tmp_path / "raw", "--root", tmp_path / "data")
    assert result.exit_code == 1
    assert "cannot be written" in result.output


def test_a_video_damaged_half_way_is_written_up_to_there_and_is_an_error(tmp_path: Path) -> None:
    raw, root = recordings(tmp_path / "raw", 2, 40), tmp_path / "data"
    path = raw / "p0.mp4"
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat")
    middle = at + (len(data) - at) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    for _ in range(2):
        result = run(raw, "--root", root, "--workers", 1, "--num-frames", 8)
        assert result.exit_code == 1, result.output
        assert ", 1 damaged" in result.output
        assert "real/raw/p0: damaged from frame" in result.output
    assert FFPPTree(root).video_ids(None, "raw") == ["p0", "p1"]


def test_a_video_with_missing_files_is_processed_again_and_one_given_twice_only_once(tmp_path: Path) -> None:
    raw, root = recordings(tmp_path / "raw", 2), tmp_path / "data"
    assert run(raw, "--root", root, "--workers", 1, "--num-frames", 8).exit_code == 0
    before = snapshot(root)
    tree = root / "FaceForensics++"
    next(tree.rglob("p0/*.npy")).unlink()
    next(tree.rglob("p1/*.png")).unlink()
    result = run(raw, raw / "p0.mp4", "--root", root, "--workers", 1, "--num-frames", 8)
    assert result.exit_code == 0, result.output
    assert "2 made, 0 already complete" in result.output
    assert snapshot(root) == before


def test_splits_and_report_include_the_videos_of_earlier_commands(tmp_path: Path) -> None:
    root = tmp_path / "data"
    options = ("--root", root, "--workers", 2, "--num-frames", 8)
    assert run(recordings(tmp_path / "raw", 6), *options).exit_code == 0
    speaking(tmp_path / "more/p6.mp4", 6)
    for a, b in ((0, 1), (2, 3)):
        speaking(tmp_path / f"fakes/p{a}_p{b}.mp4", a)
    assert run(tmp_path / "more", *options).exit_code == 0
    result = run(tmp_path / "fakes", *options, "--method", "FaceSwap", "--splits")
    assert result.exit_code == 0, result.output
    splits = {split: set(FFPPTree(root).ids(split)) for split in ("train", "val", "test")}
    assert sorted(i for ids in splits.values() for i in ids) == [f"p{i}" for i in range(7)]
    for pair in ({"p0", "p1"}, {"p2", "p3"}):
        assert any(pair <= ids for ids in splits.values())
    assert splits["test"] >= {"p0", "p1"} or splits["test"] >= {"p2", "p3"}
    assert len(json.loads((root / "preprocess.json").read_text())["videos"]) == 9
