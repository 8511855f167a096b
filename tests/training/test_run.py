"""Training stays readable in one place: few frames from the command to backward(), few types to know."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import pytest
import torch

import stf.training.run
import stf.training.step
from pipeline.train_phase_a import main
from tests.reference.training_commands import run_training

ROOT = Path(__file__).resolve().parents[2]
MOST_FRAMES, MOST_TYPES = 5, 14


@pytest.mark.usefixtures("training_root")
def test_at_most_five_frames_are_between_the_command_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[list[str]] = []
    backward = torch.Tensor.backward

    def record_stack(tensor: torch.Tensor, *args: object) -> None:
        frame, own = sys._getframe(1), []
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(ROOT / "stf") or path.is_relative_to(ROOT / "pipeline"):
                own.append(f"{path.relative_to(ROOT)}:{frame.f_code.co_name}")
            frame = frame.f_back
        stacks.append(own[::-1])
        backward(tensor)

    monkeypatch.setattr(torch.Tensor, "backward", record_stack)
    result = run_training(main, "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert stacks[-1] == [  # not those of the estimate that is printed first
        "pipeline/cli.py:guarded",
        "pipeline/train_phase_a.py:main",
        "stf/training/run.py:train_phase",
        "stf/training/loop.py:fit",
        "stf/training/step.py:train_step",
    ]
    assert len(stacks[-1]) <= MOST_FRAMES


def test_run_and_step_use_about_a_dozen_types() -> None:
    types: set[type] = set()
    for module in (stf.training.run, stf.training.step):
        tree = ast.parse(inspect.getsource(module))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        values = [getattr(module, name, None) for name in names]
        types |= {v for v in values if inspect.isclass(v) and v.__module__.startswith(("stf.", "pipeline."))}
    assert 8 <= len(types) <= MOST_TYPES, sorted(t.__name__ for t in types)
