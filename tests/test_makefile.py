"""The README's two commands work from nothing, and CI calls the same ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "target", ["repro", "test", "lint", "check", "fuzz", "drill", "bench", "ui", "baseline", "grid"]
)
def test_every_target_installs_from_the_lock_first(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ("make", "--dry-run", target), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    steps = [
        next(i for i, line in enumerate(lines) if step in line)
        for step in ("-m venv", "pip install", "-r requirements.lock")
    ]
    assert steps == sorted(steps)
    assert len(lines) > steps[-1] + 1  # and then the job itself


def test_ci_runs_the_readmes_own_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for command in ("make repro", "make test"):
        assert command in ci
        assert any(line.strip().startswith(command) for line in readme), command


def test_lock_names_no_host_and_pins_everything_by_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert "--index" not in lock.replace("--no-emit-index-url", "")
    pinned = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert all("==" in line and line.endswith("\\") for line in pinned)
