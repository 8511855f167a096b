"""Runs every benchmark and writes what they print to results.md: python -m benchmarks.all [NAME...]

Each runs with its defaults in a process of its own. A section of the results belongs to the machine and commit that
it names. With names given, only their sections are replaced.
"""

from __future__ import annotations

import ast
import datetime
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click

from benchmarks.harness import machine
from stf.io.outputs import write_text

# In the order of their share in the price of training; overhead comes last.
NAMES = (
    "pairs",
    "h264",
    "sbi_transforms",
    "loader",
    "scan",
    "dcconv",
    "step",
    "infer",
    "checkpoint",
    "pipeline_overhead",
)
HERE = Path(__file__).parent
RESULTS = "benchmarks/results.md"
HEAD = """# Benchmarks

Written by `make bench`; one section by `make bench ARGS=NAME`. Ratios compare variants that ran in turns in one
process, so they hold on a busy machine too. Milliseconds belong to the machine named above each table.
"""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAME]...")
@click.option("--out", default=RESULTS, show_default=True, type=click.Path(dir_okay=False, path_type=Path))
def main(names: tuple[str, ...], out: Path) -> None:
    """Run the benchmarks NAME, or all of them, and write their output to a Markdown file.

    The exit code is 1 if a benchmark failed. The others still run, and the file says which failed.
    """
    sections, failed = sections_of(out), []
    for name in names or NAMES:
        click.secho(f"== {name}", bold=True)
        sections[name], ok = run(name)
        failed += [] if ok else [name]
        write_text(out, HEAD + "".join(f"\n{sections[known]}" for known in NAMES if known in sections))
    click.echo(f"wrote {out}")
    if failed:
        click.secho(f"error: failed: {', '.join(failed)}", fg="red", err=True)
        raise SystemExit(1)


def run(name: str) -> tuple[str, bool]:
    """(section of one benchmark, whether it succeeded). Its output is also printed, line by line."""
    command = ("-m", f"benchmarks.{name}")
    started, lines = time.perf_counter(), []
    with subprocess.Popen(
        (sys.executable, "-u", *command), cwd=HERE.parent, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            click.echo(line, nl=False)
            lines.append(line.rstrip())
    seconds = time.perf_counter() - started
    ended = "" if process.returncode == 0 else f", **failed with exit code {process.returncode}**"
    about = f"{datetime.date.today()}, commit {commit()}, {machine()}; took {seconds:.0f} s{ended}"
    output = "\n".join(lines).strip("\n")
    text = (
        f"## {name}\n\n{summary_of(name)}\n\n{about}\n\n```\n$ python {shlex.join(command)}\n{output}\n```\n"
    )
    return text, process.returncode == 0


def summary_of(name: str) -> str:
    """The first line of a benchmark's docstring, without the command at its end; "" if there is no such file."""
    path = HERE / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    return re.sub(r":? python -m \S+.*$", "", (docstring or "").partition("\n")[0]).rstrip(":. ") + "."


def commit() -> str:
    """The commit that is checked out, with "+" if anything but the results was changed; "unknown" outside git."""
    git = ("git", "-C", str(HERE.parent))
    changed = subprocess.run(
        (*git, "status", "--porcelain", "-uno", "--", ".", f":!{RESULTS}"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    head = subprocess.run((*git, "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=False)
    return head.stdout.strip() + "+" * bool(changed.stdout) or "unknown"


def sections_of(path: Path) -> dict[str, str]:
    """{name: section} of an existing results file; empty if there is none."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part.rstrip() + "\n" for part in parts}


if __name__ == "__main__":
    main()
