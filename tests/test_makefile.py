"""The README's two commands work from nothing, and CI calls the same ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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


def test_the_list_of_targets_fits_the_terminal() -> None:
    done = subprocess.run(
        ("make", "--no-print-directory", "help"), cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert {"repro", "test", "fuzz", "drill"} <= {line.split()[1] for line in lines}
    assert max(map(len, lines)) <= 100


# A real venv with stand-ins for what is installed; dvc begins with the folder's path as pip's and uv's scripts do.
PYTHON = f"""#!/bin/bash
[ "$1" = -c ] && exit
echo "$*" >> "$CALLS"
{sys.executable} -m venv --without-pip "${{@:3}}" || exit
printf '#!/bin/bash\\necho "uv $1" >> "$CALLS"\\n' | tee .venv/bin/pip > .venv/bin/uv
ln -s /bin/bash .venv/bin/runner
printf '#!%s/.venv/bin/runner\\necho "dvc of $0"\\n' "$PWD" > .venv/bin/dvc
chmod +x .venv/bin/{{pip,uv,dvc}}
"""


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_moved_or_copied_folder_is_installed_anew_and_once(
    how: Callable[..., object], tmp_path: Path
) -> None:
    old, new = tmp_path / "here" / "repository", tmp_path / "repository"
    old.mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, old)
    calls = tmp_path / "calls"
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def make(target: str, folder: Path) -> str:
        calls.write_text("")
        return subprocess.run(
            ("make", target, f"PYTHON={tmp_path / 'python'}"),
            cwd=folder, env={**os.environ, "CALLS": str(calls)}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    make("install", old)
    assert calls.read_text() == "-m venv .venv\nuv pip\n"
    make("install", old)
    assert calls.read_text() == ""
    (old / ".venv/left").touch()
    how(old, new)
    assert f"dvc of {new}/.venv/bin/dvc" in make("repro", new)
    assert calls.read_text() == "-m venv --clear .venv\nuv pip\n"
    assert not (new / ".venv/left").exists()
    assert f"dvc of {new}/.venv/bin/dvc" in make("repro", new)
    assert calls.read_text() == ""
    if old.exists():
        make("install", old)
        assert calls.read_text() == ""


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
