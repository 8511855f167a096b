"""Untrusted files are regular and bounded, and their JSON has one meaning."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stf.io.files import open_regular, read_bounded, read_json


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="a pipe or a device"):
            open_regular(path)


def test_a_path_that_is_not_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", ".", "loop", "x" * 300, "a\0b"):
        with pytest.raises(OSError):  # noqa: PT011 - of several kinds
            open_regular(tmp_path / name)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_bounded(tmp_path / "link", 3) == b"abc"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match=f"it has {1 << 40} bytes, more than 1000"):
        read_bounded(tmp_path / "sparse", 1000)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "'b' stands twice"),
        (b"[" * 100_000, "nests too deep"),
        (b"[" + b"9" * 5000 + b"]", "digits"),
        (b'{"a": 1', "Expecting"),
        (b"", "Expecting"),
        ("{}".encode("utf-16"), "decode"),
    ],
)
def test_invalid_or_ambiguous_json_is_a_value_error(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "written", [b'\xef\xbb\xbf{"a": [1]}', b'{\r\n"a":\r\n[1]}\r\n', b' {"a" : [ 1 ] } ']
)
def test_json_as_windows_writes_it_is_read(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "a.json").write_bytes(written)
    assert read_json(tmp_path / "a.json") == {"a": [1]}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_any_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert read_json(path) == value
