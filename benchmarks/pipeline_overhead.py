"""The pipeline's overhead (idle `dvc repro`, --help): python -m benchmarks.pipeline_overhead

The reference is a bare DVC pipeline in a temporary folder: as many stages, dependencies and outputs of the same names
and sizes, but no parameters, metrics or plots, and commands that do nothing. The lower bound is five stages of one tiny
file each. Every run is a process of its own; compiled modules are cached.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.harness import interleaved, print_table

HERE = Path(__file__).resolve().parents[1]
Stages = dict[str, dict[str, Any]]  # of a dvc.yaml
PROJECT, BARE, TINY = "this project", "bare DVC, the same files", "bare DVC, five tiny files"
# Without the first two DVC starts a second process. Hard links, because copying the sample takes as long as the rest.
CONFIG = "[core]\n    analytics = false\n    check_update = false\n[cache]\n    type = hardlink\n"


def commands() -> list[str]:
    """Names of the modules in pipeline/ that define a command `main`. They are read, not imported."""
    paths = sorted((HERE / "pipeline").glob("*.py"))
    return [path.stem for path in paths if "\ndef main(" in path.read_text(encoding="utf-8")]


def files_of(root: Path, stages: Stages) -> dict[str, int]:
    """{path relative to `root`: bytes} of every file that the stages read or write."""
    sizes = {}
    for name in {entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage[kind]}:
        path = root / name
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        sizes |= {p.relative_to(root).as_posix(): p.stat().st_size for p in inside}
    return sizes


def bare_stages(lock: dict[str, Any]) -> Stages:
    """The stages of a dvc.lock with their dependencies and outputs, and a command that does nothing."""
    return {
        name: {
            "cmd": "true",
            **{kind: [entry["path"] for entry in stage.get(kind, [])] for kind in ("deps", "outs")},
        }
        for name, stage in lock["stages"].items()
    }


def tiny_stages() -> Stages:
    """Five stages in a row; each reads the file that the previous one writes."""
    return {f"stage{i}": {"cmd": "true", "deps": [f"{i}.txt"], "outs": [f"{i + 1}.txt"]} for i in range(5)}


def make_repository(folder: Path, stages: Stages, sizes: dict[str, int]) -> None:
    """A DVC repository in which everything is up to date. Files differ in their first 8 bytes; the rest is zeros."""
    folder.mkdir()
    for number, (name, size) in enumerate(sizes.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(number.to_bytes(8, "little")[:size])
            file.truncate(size)  # takes no room on the disk
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    for command in (("git", "init", "--quiet"), dvc("init", "--quiet")):
        subprocess.run(command, cwd=folder, check=True)
    (folder / ".dvc" / "config").write_text(CONFIG, encoding="utf-8")
    subprocess.run(dvc("commit", "--quiet", "--force"), cwd=folder, check=True, env=environment())


def dvc(*arguments: str) -> tuple[str, ...]:
    """The DVC of this Python."""
    return (sys.executable, "-m", "dvc", *arguments)


def environment() -> dict[str, str]:
    """The environment as `make` sets it: Python caches the modules it compiles."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def quiet(folder: Path, command: tuple[str, ...]) -> str:
    """Standard output of a command that must succeed."""
    return subprocess.run(
        command, cwd=folder, check=True, env=environment(), stdout=subprocess.PIPE, encoding="utf-8"
    ).stdout


def require_up_to_date(root: Path) -> None:
    """Raises ClickException if `dvc repro` would run a stage."""
    status = subprocess.run(
        dvc("status", "--json"),
        cwd=root,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if status.returncode or status.stdout.strip() != "{}":
        raise click.ClickException(f"{root} is not up to date; run `make repro` there first")


@click.command()
@click.option("--root", default=".", show_default=True, type=click.Path(exists=True, path_type=Path))
@click.option("--repeats", default=3, show_default=True)
def main(root: Path, repeats: int) -> None:
    """Time `dvc repro` with nothing to do against bare DVC, and --help of every command.

    ROOT is a checkout in which `make repro` has run.
    """
    root = root.resolve()
    require_up_to_date(root)
    stages = bare_stages(yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8")))
    sizes = files_of(root, stages)
    with tempfile.TemporaryDirectory() as temporary:
        bare, tiny = Path(temporary) / "bare", Path(temporary) / "tiny"
        make_repository(bare, stages, sizes)
        make_repository(tiny, tiny_stages(), {f"{i}.txt": 8 for i in range(6)})
        folders = {PROJECT: root, BARE: bare, TINY: tiny}
        works = {name: lambda folder=folder: quiet(folder, dvc("repro")) for name, folder in folders.items()}
        measured = interleaved(works, repeats, memory=False)
    dependencies = sum(len(stage["deps"]) for stage in stages.values())
    title = f"dvc repro with nothing to do: {len(stages)} stages, {dependencies} dependencies, {len(sizes):,} files"
    print_table(title, measured, BARE, unit="s")
    click.echo(
        f"this project / bare DVC = {measured[PROJECT].cpu_s / measured[BARE].cpu_s:.2f}, goal: at most 1.2\n"
    )
    alone = "python, click and PyYAML alone"
    commands_by_name = {alone: ("-c", "import click, yaml")}
    commands_by_name |= {
        f"pipeline.{name} --help": ("-m", f"pipeline.{name}", "--help") for name in commands()
    }
    works = {
        name: lambda args=args: quiet(HERE, (sys.executable, *args))
        for name, args in commands_by_name.items()
    }
    print_table(
        "--help of every command, goal: at most 500 ms", interleaved(works, repeats, memory=False), alone
    )


if __name__ == "__main__":
    main()
