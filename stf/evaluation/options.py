"""The options that both evaluation commands have, without importing anything heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from stf.config import PhaseName


def weights_of(phase: PhaseName) -> str:
    """The checkpoint that DVC keeps of a phase."""
    return f"weights/phase_{phase}.safetensors"


def evaluation_options(phase: PhaseName) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --checkpoint, --methods, --output, --sbi-test and --verbose."""
    options = (
        click.option(
            "--checkpoint",
            default=weights_of(phase),
            show_default=True,
            type=click.Path(dir_okay=False),
            help="The weights to score; network, clip length and size come from the file itself.",
        ),
        click.option(
            "--methods",
            multiple=True,
            metavar="NAME[,NAME…]",
            help="Score only these manipulation methods. [default: evaluation.methods]",
        ),
        click.option(
            "--output",
            type=click.Path(dir_okay=False),
            help="The JSON file of the figures; details, scores and plots go beside it. "
            f"[default: metrics/eval_{phase}.json, or tmp/eval_{phase}/eval_{phase}.json when another option differs "
            "from its default]",
        ),
        click.option(
            "--sbi-test",
            is_flag=True,
            help="Also score two fixed self-blended sets, V7.3's recipe and V8.0's, made from the test split's reals.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            help="Also print precision, recall, F1, EER and AP, the other qualities and the trivial baselines.",
        ),
    )

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add
