"""`python -m pipeline.build_cache`, and training with runtime.face_cache."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from rich.console import Console

from pipeline.build_cache import main
from pipeline.train_phase_a import main as train
from stf.config import Params
from stf.console.face_cache import MAX_LISTED, print_uncached
from stf.data.cache.build import BuiltVideo
from stf.data.face_clip import read_face_clip
from stf.data.ffpp import FFPPTree, fingerprint_of
from stf.errors import DataError
from stf.training.face_cache import prepare_face_cache, training_reader
from tests.reference.training_commands import digest, run_training

pytestmark = pytest.mark.usefixtures("plain_training")


def params_with(face_cache: str, num_workers: int = 2) -> Params:
    params = Params()
    data = dataclasses.replace(params.data, root="data", num_frames=8, img_size=32)
    runtime = dataclasses.replace(params.runtime, face_cache=face_cache, num_workers=num_workers)
    return dataclasses.replace(params, data=data, runtime=runtime)


def run(*options: str, face_cache: str = "cache/faces") -> Result:
    values = json.loads(json.dumps(dataclasses.asdict(params_with(face_cache))))
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return CliRunner().invoke(main, options)


@pytest.mark.usefixtures("training_root")
def test_without_a_cache_folder_it_estimates_for_the_usual_one() -> None:
    estimated = run("--estimate", face_cache="")
    assert estimated.exit_code == 0, estimated.output
    assert "cache/faces" in estimated.output.partition("to be built")[2]
    assert not Path("cache").exists()


def files() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path("cache").rglob("*.faces")}


def test_estimate_then_build_then_nothing_left_to_build(training_root: Path) -> None:
    estimated = run("--estimate")
    assert estimated.exit_code == 0, estimated.output
    assert "to be built" in estimated.output
    assert "4 videos, 48 frames" in estimated.output
    assert not Path("cache").exists()
    built = run()
    assert built.exit_code == 0, built.output
    assert "4 videos, 48 frames" in built.output
    before = files()
    assert sorted(before) == ["000.faces", "001.faces", "002.faces", "003.faces"]
    again = run()
    assert "the crops of 4 training videos are in" in again.output
    assert "48 frames" not in again.output
    assert files() == before
    assert "0 videos, 0 frames" in run("--estimate").output


def test_a_truncated_file_is_built_again(training_root: Path) -> None:
    run()
    path = next(Path("cache").rglob("001.faces"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "1 videos, 12 frames" in run().output
    assert path.read_bytes() == whole


def test_a_relative_folder_is_in_the_real_repository(
    training_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under `dvc exp run --temp`, whose working folder is temporary."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    assert run().exit_code == 0
    assert not Path("cache").exists()
    assert len([*(tmp_path / "repository/cache/faces").rglob("*.faces")]) == 4


def test_an_empty_parameter_and_changed_data_are_one_line_errors(training_root: Path) -> None:
    refused = run(face_cache="")
    assert refused.exit_code == 2
    assert "runtime.face_cache is empty" in refused.output
    (training_root / "data/FaceForensics++/new.txt").write_text("data changed")
    changed = run()
    assert changed.exit_code == 1
    assert "has changed since it was verified" in changed.output
    assert not Path("cache").exists()


def test_a_full_disk_is_a_one_line_error_with_a_way_out(
    training_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(training_root)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    result = run()
    assert result.exit_code == 1
    assert "error: the face cache" in result.output
    assert "0.0 GB are free" in result.output
    assert 'set runtime.face_cache: "" to train without it' in result.output
    assert files() == {}


def test_training_fills_the_cache_and_reads_the_same_clips(
    training_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = fingerprint_of("data")
    prepare_face_cache(params_with(""), fingerprint)
    assert training_reader(params_with(""), fingerprint) is read_face_clip
    assert capsys.readouterr().out == ""
    reader = training_reader(params_with("cache/faces", 0), fingerprint)
    prepare_face_cache(params_with("cache/faces", 0), fingerprint)
    assert "4 videos, 48 frames" in capsys.readouterr().out
    prepare_face_cache(params_with("cache/faces", 0), fingerprint)
    assert capsys.readouterr().out == ""
    video = FFPPTree("data").real_videos("train", "c23")[0]
    plain = read_face_clip(video, 3, 8, True)
    shutil.rmtree("data")
    assert (reader(video, 3, 8, True).frames_THWC == plain.frames_THWC).all()
    with pytest.raises(DataError):
        read_face_clip(video, 3, 8, True)


def test_at_most_ten_videos_with_uncached_clips_are_listed() -> None:
    console = Console(record=True, width=100)
    built = [
        BuiltVideo(f"train/real/c23/{i:03d}", 5, i % 5, f"{i}.png is missing [x]")
        for i in range(MAX_LISTED + 2)
    ]
    print_uncached([*built, BuiltVideo("train/real/c23/whole", 5, 5, "")], console)
    text = console.export_text()
    assert "train/real/c23/003: 3 of 5 clips are cached; 3.png is missing [x]" in text
    assert "and 2 more such videos" in text
    assert "whole" not in text


def test_training_with_and_without_the_cache_gives_the_same_weights(training_root: Path) -> None:
    weights = {}
    for face_cache in ("", "cache/faces"):
        result = run_training(train, "--fresh", runtime={"face_cache": face_cache})
        assert result.exit_code == 0, result.output
        weights[face_cache] = digest(Path("weights/phase_a.safetensors"))
        assert ("4 videos, 48 frames" in result.output) == bool(face_cache)
    assert len(set(weights.values())) == 1
    shutil.rmtree("cache")
    assert run_training(train, "--dry-run", runtime={"face_cache": "cache/faces"}).exit_code == 0
    assert not Path("cache").exists()
