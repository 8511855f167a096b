"""`--help` is fast: no command imports a heavy library before it has parsed its arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.pipeline_overhead import commands

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "albumentations", "av", "cv2", "dvc", "matplotlib", "mlflow", "numpy", "pandas", "scipy", "sklearn", "timm", "torch"
)  # fmt: skip

# Runs every command with --help in one new Python process; prints the heavy libraries that each is first to import.
RUN_HELP = """
import contextlib, importlib, io, json, sys
commands, heavy = json.loads(sys.argv[1])
imported = {}
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        importlib.import_module(f"pipeline.{command}").main(["--help"])
    imported[command] = [name for name in heavy if name in sys.modules and name not in sum(imported.values(), [])]
    if "Usage:" not in output.getvalue():
        imported[command].append("no help")
print(json.dumps(imported))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """The heavy libraries that each command imports for --help."""
    completed = subprocess.run(
        (sys.executable, "-c", RUN_HELP, json.dumps([commands(), HEAVY])),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


def test_every_stage_is_among_the_commands() -> None:
    assert {"verify_data", "train_phase_a", "eval_a", "train_phase_b", "eval_b", "compare"} <= set(commands())


@pytest.mark.parametrize("command", commands())
def test_help_imports_nothing_heavy(command: str, imported: dict[str, list[str]]) -> None:
    assert imported[command] == []
