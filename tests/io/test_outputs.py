"""What commands write: whole or not at all, and never over somebody's other file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from stf.data.png import read_header
from stf.errors import DataError, UsageError
from stf.io.outputs import require_own_json, write_bytes, write_png, write_text


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("params.yaml", None, r"ends in \.json"),
        ("metrics/gate_a.json", None, "not in metrics/"),
        ("metrics/../metrics/plots/x.json", None, "not in metrics/"),
        ("test.json", '[["000", "003"]]', "holds something else"),
        ("other.json", '{"passed": true}', "holds something else"),
        ("broken.json", '{"forecasts": [', "holds something else"),
        ("clip.json", "\x89PNG", "holds something else"),
        ("/proc/none/x.json", None, "cannot be written"),
        ("file/x.json", None, "cannot be written"),
        ("folder.json", None, "cannot be written"),
    ],
)
def test_other_files_are_not_replaced(
    path: str, content: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder.json").mkdir()
    if content is not None:
        Path(path).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=expected):
        require_own_json("--output", Path(path), "forecasts")
    assert content is None or Path(path).read_text(encoding="utf-8") == content


def test_an_earlier_result_of_the_same_kind_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/f.json"
    require_own_json("--output", path, "forecasts")
    path.write_text(json.dumps({"forecasts": []}), encoding="utf-8")
    require_own_json("--output", path, "forecasts")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.json"
    write_text(path, "before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"e\.json cannot be written: No space left on device; .* untouched"):
        write_bytes(path, b"after")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_a_picture_is_written_whole_and_names_no_version(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([0, 1])
    for name in ("a.png", "b.png"):
        write_png(tmp_path / "plots" / name, figure)
    pictures = [(tmp_path / "plots" / name).read_bytes() for name in ("a.png", "b.png")]
    header = read_header(tmp_path / "plots/a.png")
    assert (header.width, header.height) == (100, 50)
    assert pictures[0] == pictures[1]
    assert b"Software" not in pictures[0]
