"""What the pipeline costs beside its work (idle `dvc repro`, --help): python -m benchmarks.pipeline_overhead

The reference is a bare DVC pipeline, made in a temporary folder: as many stages, with files of the same names and sizes
as dependencies and outputs, but no parameters, metrics or plots, and commands that do nothing. Beside it stands the
least that DVC costs, five stages of one tiny file each. Every run is a process of its own, with compiled modules kept.
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
# Without the first two DVC starts a second process. Nothing is read again from the cache, so it may be the same files:
# a copy of the sample would take as long as all else.
CONFIG = "[core]\n    analytics = false\n    check_update = false\n[cache]\n    type = hardlink\n"


def commands() -> list[str]:
    """Modules of pipeline/ that define a command, `main`; read, not imported."""
    paths = sorted((HERE / "pipeline").glob("*.py"))
    return [path.stem for path in paths if "\ndef main(" in path.read_text(encoding="utf-8")]


def files_of(root: Path, stages: Stages) -> dict[str, int]:
    """Sizes in bytes of all that the stages read and write, by path relative to `root`."""
    sizes = {}
    for name in {entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage[kind]}:
        path = root / name
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        sizes |= {p.relative_to(root).as_posix(): p.stat().st_size for p in inside}
    return sizes


def bare_stages(lock: dict[str, Any]) -> Stages:
    """The stages of a dvc.lock, with nothing but dependencies, outputs and a command that does nothing."""
    return {
        name: {
            "cmd": "true",
            **{kind: [entry["path"] for entry in stage.get(kind, [])] for kind in ("deps", "outs")},
        }
        for name, stage in lock["stages"].items()
    }


def tiny_stages() -> Stages:
    """Five stages in a row; each reads the file that the one before it writes."""
    return {f"stage{i}": {"cmd": "true", "deps": [f"{i}.txt"], "outs": [f"{i + 1}.txt"]} for i in range(5)}


def make_repository(folder: Path, stages: Stages, sizes: dict[str, int]) -> None:
    """A DVC repository in which everything is up to date; no two files are alike, but all that follows is zeros."""
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
    """Ours, as `make` sets it: Python keeps the modules it compiles."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def quiet(folder: Path, command: tuple[str, ...]) -> str:
    """Standard output of a command that must succeed."""
    return subprocess.run(
        command, cwd=folder, check=True, env=environment(), stdout=subprocess.PIPE, encoding="utf-8"
    ).stdout


def require_up_to_date(root: Path) -> None:
    """Raises ClickException where `dvc repro` would have something to do."""
    status = subprocess.run(
        dvc("status", "--json"),
        cwd=root,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if status.returncode or status.stdout.strip() != "{}":
        raise click.ClickException(f"{root}: dvc repro has something to do; run `make repro` first")


@click.command()
@click.option("--root", default=".", show_default=True, type=click.Path(exists=True, path_type=Path))
@click.option("--repeats", default=3, show_default=True)
def main(root: Path, repeats: int) -> None:
    """Times `dvc repro` with nothing to do against bare DVC, and --help of every command.

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
    asked = {alone: ("-c", "import click, yaml")}
    asked |= {f"pipeline.{name} --help": ("-m", f"pipeline.{name}", "--help") for name in commands()}
    works = {name: lambda args=args: quiet(HERE, (sys.executable, *args)) for name, args in asked.items()}
    print_table(
        "--help of every command, goal: at most 500 ms", interleaved(works, repeats, memory=False), alone
    )


if __name__ == "__main__":
    main()
