"""The options of both training commands, without a slow import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

import stf.training.preemption  # noqa: F401  # early: it looks up the parent of this process
from stf.errors import UsageError


@dataclass(frozen=True)
class TrainingOptions:
    """The values of `training_options`. Raises UsageError when two of them contradict each other."""

    resume_path: str | None = None
    fresh: bool = False
    epochs: int | None = None
    batch_size: int | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.resume_path is not None and self.fresh:
            raise UsageError("--resume continues from a file and --fresh starts at epoch 1; give one of them")


def training_options(section: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --resume, --fresh, --epochs, --batch-size, --dry-run; `section` is the phase's in params.yaml."""
    options = (
        click.option(
            "--resume",
            "resume_path",
            type=click.Path(exists=True, dir_okay=False),
            help="Resume this last.pt of the same configuration and data, or start from the weights of any "
            "checkpoint. Without it a stopped run resumes by itself.",
        ),
        click.option("--fresh", is_flag=True, help="Start at epoch 1, whatever is in checkpoints/."),
        click.option("--epochs", type=click.IntRange(min=1), help=f"Instead of {section}.epochs."),
        click.option(
            "--batch-size", type=click.IntRange(min=2), help="Clips, instead of training.batch_size."
        ),
        click.option("--dry-run", is_flag=True, help="2 epochs on a few pairs, into a temporary folder."),
    )

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add
