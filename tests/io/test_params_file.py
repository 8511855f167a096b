"""params.yaml as a file: what YAML could hide is refused in one line that names the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stf.config import Params
from stf.errors import ConfigError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "anchors and aliases are not allowed"),
        ("data: &d {root: a}\nsbi: *d\n", "anchors and aliases"),
        ("data:\n  <<: [{root: a}]\n", "merge keys (<<) are not allowed"),
        ("seed: 1\ndata: {root: a}\nseed: 2\n", """the key 'seed' appears twice in "params.yaml", line 3"""),
        ("data:\n  root: a\n  root: b\n", "the key 'root' appears twice"),
        ("seed: !!python/object/apply:os.mkdir [x]\n", "tags (!) are not allowed"),
        ("seed: !!int x\n", "tags (!) are not allowed"),
        ("seed: 2001-99-99\n", "not valid YAML"),
        (f"seed: {'9' * 5000}\n", "not valid YAML"),
        (f"seed: 0x{'f' * 5000}\n", "write plain digits"),
        ("seed: 010\n", "YAML 1.1 and YAML 1.2, which DVC reads, take '010' for different numbers"),
        ("budget:\n  max_budget: 1:30\n", "write plain digits"),
        ("seed: 1_000\n", "write plain digits"),
        ("phase_a:\n  lr: 00.1\n", "write plain digits"),
        ("a: " + "[" * 5000, "the nesting is too deep"),
        ("{a: " * 5000, "the nesting is too deep"),
        ("seed: 1\n# " + "x" * 300_000, "more than 200000 are not read"),
        ("? [a, b]\n: 1\n", "not valid YAML|unknown key"),
        ("1: 2\n", 'unknown key "1"'),
        ("data:\n\troot: a\n", "not valid YAML"),
    ],
)
def test_yaml_that_hides_something_is_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Params.load(path)
    message = str(caught.value)
    assert any(part in message for part in expected.split("|"))
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize("start", ["\ufeff", "# as Windows writes it\r\n"])
def test_yaml_as_windows_writes_it_is_read(tmp_path: Path, start: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes((start + "seed: 3\r\ndata:\r\n  quality: c40\r\n").encode())
    params = Params.load(path)
    assert (params.seed, params.data.quality) == (3, "c40")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("data: {root: m\xfcnchen}".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        Params.load(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Params.load(tmp_path)
