"""`python -m pipeline.verify_data`: its output, files and exit codes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from pipeline.verify_data import AUDIT_DETAILS, AUDIT_JSON, DATA_DETAILS, DATA_JSON, PAIRS_PNG, main
from stf.audit.leak_audit import SETTINGS
from stf.audit.probes import PROBES
from stf.config import SAMPLE_ROOT, Params
from stf.data.ffpp import fingerprint_of, is_sample, require_fingerprint, split_file, video_folder
from stf.data.png import read_header
from stf.errors import DataError

WRITTEN = (DATA_JSON, AUDIT_JSON, DATA_DETAILS, AUDIT_DETAILS)


def run_with(root: Path | str, *options: str, **audit: object) -> Result:
    values = dataclasses.asdict(Params())
    values["data"] |= {"root": str(root), "num_frames": 8, "img_size": 32}
    values["runtime"] |= {"num_workers": 2}
    values["audit"] |= {"pairs": 200} | audit
    plain = json.loads(json.dumps(values))
    Path("params.yaml").write_text(yaml.safe_dump(plain))
    return CliRunner().invoke(main, list(options))


def test_a_defect_exits_with_1_prints_the_table_and_records_no_fingerprint(
    repository_root: Path, tiny_tree: Path
) -> None:
    path = video_folder(tiny_tree, None, "c23", "frames", "002") / "003.png"
    path.write_bytes(path.read_bytes()[:100])
    Path("metrics").mkdir()
    Path(AUDIT_JSON).write_text("{}")
    result = run_with(tiny_tree)
    assert result.exit_code == 1
    assert "train/real/c23/002" in result.output
    assert "not ready for training: 1 defects (broken frame)" in result.output
    assert "ready to train\n" not in result.output
    assert max(map(len, result.output.splitlines())) <= 110  # the error line alone is not wrapped
    written = json.loads(Path(DATA_JSON).read_text())
    assert (written["ready"], written["fingerprint"], written["errors"]) == (False, None, 1)
    assert not Path(AUDIT_JSON).exists()
    with pytest.raises(DataError, match="failed verification"):
        require_fingerprint(tiny_tree, DATA_JSON)
    assert Path(SAMPLE_ROOT).is_dir()
    assert list(Path(SAMPLE_ROOT).iterdir()) == []


def test_a_hostile_split_file_is_a_one_line_error_with_exit_code_1(
    repository_root: Path, tiny_tree: Path
) -> None:
    split_file(tiny_tree, "test").write_text('[["../../../../etc", "passwd"]]')
    result = run_with(tiny_tree)
    assert result.exit_code == 1
    assert "error: " in result.output
    assert "is not a video id" in result.output
    assert "Traceback" not in result.output


def test_a_wrong_parameter_exits_with_2(repository_root: Path, tiny_tree: Path) -> None:
    assert run_with(tiny_tree, pairs=10).exit_code == 2


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_good_data_pass_and_a_second_run_writes_the_same_files(
    repository_root: Path, make_tree: Callable[..., Path], times: int
) -> None:
    root = make_tree(size=(176, 128))
    first = run_with(root)
    assert first.exit_code == 0, first.output
    assert "16 videos, 192 total frames, ready to train" in first.output
    assert "leaks the label" not in first.output
    assert max(map(len, first.output.splitlines())) <= 100
    assert len(first.output.splitlines()) == 4, "a line on the videos, on defects, on leaks, and the verdict"
    written = [Path(name).read_bytes() for name in WRITTEN]
    data, audit, _, audit_details = map(json.loads, written)
    assert data["fingerprint"] == fingerprint_of(root)
    assert all(isinstance(value, int | float | str) for value in (data | audit).values())
    assert not {"passed", "threshold"} & set(data | audit)
    assert len(data | audit) == len(data) + len(audit)
    assert require_fingerprint(root, DATA_JSON) == fingerprint_of(root)
    assert audit["audit_passed"]
    assert audit["audit_pairs"] == 200
    assert audit["audit_probes"] == len(audit_details["probes"]) == len(PROBES)
    for verdict in audit_details["probes"].values():
        assert set(verdict["win_rate_by_group"]) == {setting.name for setting in SETTINGS}
        assert abs(verdict["auc"] - 0.5) < 0.02
        for setting in SETTINGS:
            if not setting.codec:  # bit-identical backgrounds: only ties
                assert verdict["win_rate_by_group"][setting.name] == 0.5
    assert audit_details["test_videos"]["bitrate"]["n_fake"] == 8
    assert read_header(PAIRS_PNG).width > 500
    if times == 1:
        return
    verbose = run_with(root, "--verbose")
    assert verbose.exit_code == 0
    assert "Videos on disk" in verbose.output
    assert "Leak audit: 200 Video-SBI pairs" in verbose.output
    assert "The same probes on the test videos" in verbose.output
    assert max(map(len, verbose.output.splitlines())) <= 100
    assert written == [Path(name).read_bytes() for name in WRITTEN]


def test_a_missing_sample_is_generated(
    repository_root: Path, shared_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaces the generator by one whose sample has a defect, so that the audit does not run."""
    generated: list[Path] = []

    def generate(root: Path, *, progress: Callable[[int, int], None]) -> None:
        generated.append(root)
        progress(1, 1)
        video_folder(root, None, "c23", "frames", "000").mkdir(parents=True)
        for split in ("train", "val", "test"):
            split_file(root, split).write_text('[["000", "001"]]')

    monkeypatch.setattr("stf.sample.build.generate_sample", generate)
    result = run_with(SAMPLE_ROOT)
    assert is_sample(SAMPLE_ROOT)
    assert generated == [Path(SAMPLE_ROOT)]
    assert result.exit_code == 1
    assert "identity in two splits" in result.output
    assert run_with(SAMPLE_ROOT).exit_code == 1
    assert len(generated) == 1  # the second run uses the existing sample
