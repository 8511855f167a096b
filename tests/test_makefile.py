"""The targets install what they need, and CI runs the README's commands."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "target",
    [
        "repro",
        "test",
        "test-all",
        "lint",
        "check",
        "fuzz",
        "drill",
        "bench",
        "ui",
        "baseline",
        "grid",
        "lock",
    ],
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
    assert len(lines) > steps[-1] + 1  # then the target's own commands


def test_the_list_of_targets_fits_the_terminal() -> None:
    done = subprocess.run(
        ("make", "--no-print-directory", "help"), cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert {"repro", "test", "test-all", "fuzz", "drill"} <= {line.split()[1] for line in lines}
    assert max(map(len, lines)) <= 100


def test_make_test_and_make_test_all_together_run_every_test_once() -> None:
    commands = [
        subprocess.run(
            ("make", "--no-print-directory", "--dry-run", target, "ARGS=--collect-only"),
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.splitlines()[-1]
        for target in ("test", "test-all")
    ]  # fmt: skip
    assert commands[0].replace(" -m 'not slow' ", " -m slow ") == commands[1]
    assert commands[0] == "pytest -n auto --dist loadgroup -m 'not slow' --collect-only"


# A real venv with stand-ins for pip, uv and dvc. The stand-in of dvc contains the full path of its interpreter, as real
# scripts do, behind a shell, because a "#!" line cannot hold a path with a space.
PYTHON = f"""#!/bin/bash
[ "$1" = -c ] && exit
echo "$*" >> "$CALLS"
{shlex.quote(sys.executable)} -m venv --without-pip "${{@:3}}" || exit
printf '#!/bin/bash\necho "uv $1" >> "$CALLS"\n' | tee .venv/bin/pip > .venv/bin/uv
ln -s /bin/bash .venv/bin/runner
cat > .venv/bin/dvc <<END
#!/bin/sh
exec "$PWD/.venv/bin/runner" -c 'echo "dvc of \\$0"' "\\$0"
END
chmod +x .venv/bin/{{pip,uv,dvc}}
"""


class Installer:
    """Runs make with PYTHON instead of python3, and records what it installs."""

    def __init__(self, folder: Path) -> None:
        self.python, self.calls = folder / "a python", folder / "calls"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def make(self, target: str, folder: Path) -> str:
        self.calls.write_text("")
        environment = {**os.environ, "CALLS": str(self.calls), "PWD": str(folder)}  # as after `cd folder`
        return subprocess.run(
            ("make", target, f"PYTHON={self.python}"),
            cwd=folder, env=environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    @property
    def called(self) -> str:
        return self.calls.read_text()


def copy_makefile(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    return Installer(tmp_path)


@pytest.mark.parametrize("relocate", [shutil.move, shutil.copytree])
@pytest.mark.parametrize("name", ["repository", "my prójects"])
def test_a_moved_or_copied_folder_gets_a_new_environment_once(
    name: str, relocate: Callable[..., object], installer: Installer, tmp_path: Path
) -> None:
    """Also in a folder with a space and an accent in its name."""
    old, new = tmp_path / "here" / name / "stf", tmp_path / name / "stf"
    copy_makefile(old)
    new.parent.mkdir()
    installer.make("install", old)
    assert installer.called == "-m venv .venv\nuv pip\n"
    installer.make("install", old)
    assert installer.called == ""
    (old / ".venv/old-file").touch()
    relocate(old, new)
    assert f"dvc of {new}/.venv/bin/dvc" in installer.make("repro", new)
    assert installer.called == "-m venv --clear .venv\nuv pip\n"
    assert not (new / ".venv/old-file").exists()
    assert f"dvc of {new}/.venv/bin/dvc" in installer.make("repro", new)
    assert installer.called == ""
    if old.exists():
        installer.make("install", old)
        assert installer.called == ""


@pytest.mark.parametrize(
    ("cache", "works"), [("/my projects/.dvc/cache", True), ("/prójects/.dvc/cache", False)]
)
def test_experiments_in_a_copy_require_an_ascii_path_of_the_cache(
    cache: str, works: bool, installer: Installer, tmp_path: Path
) -> None:
    """DVC itself would fail with "'ascii' codec can't encode character"."""
    copy_makefile(tmp_path / "stf")
    installer.make("install", tmp_path / "stf")
    (tmp_path / "stf/.venv/bin/dvc").write_text(f"#!/bin/sh\necho '{cache}'\n", encoding="utf-8")
    if works:
        installer.make("ascii-cache", tmp_path / "stf")
        return
    with pytest.raises(subprocess.CalledProcessError) as failed:
        installer.make("ascii-cache", tmp_path / "stf")
    assert "see docs/folders.md" in failed.value.stderr


def test_a_link_to_the_folder_uses_the_same_environment(installer: Installer, tmp_path: Path) -> None:
    """Whether it was installed through the link or in the folder."""
    folder, link = tmp_path / "my prójects" / "stf", tmp_path / "a link"
    copy_makefile(folder)
    link.symlink_to(folder)
    for first, second in ((link, folder), (folder, link)):
        shutil.rmtree(folder / ".venv", ignore_errors=True)
        installer.make("install", first)
        assert installer.called == "-m venv .venv\nuv pip\n"
        assert f"dvc of {folder}/.venv/bin/dvc" in installer.make("repro", second)
        assert installer.called == ""


@pytest.mark.xdist_group("one process")
def test_tests_of_a_group_run_in_one_process(request: pytest.FixtureRequest) -> None:
    """xdist distributes by the group at the end of a test's name (see conftest.py)."""
    is_distributed = getattr(request.config.option, "loadgroup", False)
    assert request.node.nodeid.endswith("@one process") == is_distributed


def test_ci_runs_every_test_once_and_the_readmes_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert ci[-4:] == ["make repro", "make test", "make test-all", "make lint"]
    for command in ("make repro", "make test"):
        assert any(line.strip().startswith(command) for line in readme), command


def test_lock_pins_everything_by_hash_and_contains_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert "--index" not in lock.replace("--no-emit-index-url", "")
    pinned = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert all("==" in line and line.endswith("\\") for line in pinned)
