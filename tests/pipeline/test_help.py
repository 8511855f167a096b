"""`--help` answers at once: no command imports a heavy library before it has its arguments."""

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

# Asks every command for its help in one fresh Python, and prints which heavy libraries each brought in first.
ASK = """
import contextlib, importlib, io, json, sys
commands, heavy = json.loads(sys.argv[1])
brought = {}
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
        importlib.import_module(f"pipeline.{command}").main(["--help"])
    brought[command] = [name for name in heavy if name in sys.modules and name not in sum(brought.values(), [])]
    if "Usage:" not in told.getvalue():
        brought[command].append("no help")
print(json.dumps(brought))
"""


@pytest.fixture(scope="module")
def brought() -> dict[str, list[str]]:
    """Heavy libraries by command."""
    done = subprocess.run(
        (sys.executable, "-c", ASK, json.dumps([commands(), HEAVY])), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_stage_is_among_the_commands() -> None:
    assert {"verify_data", "train_phase_a", "eval_a", "train_phase_b", "eval_b", "compare"} <= set(commands())


@pytest.mark.parametrize("command", commands())
def test_help_imports_nothing_heavy(command: str, brought: dict[str, list[str]]) -> None:
    assert brought[command] == []
