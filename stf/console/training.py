"""What a training prints, and the texts of its errors.

Printed or raised, never part of a result: so an edit of a text here retrains nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import click

from stf.config import BudgetParams, STFV8Config
from stf.console.tables import WIDTH


class Clip(Protocol):
    """Where a clip comes from (stf.data's Provenance)."""

    @property
    def video_id(self) -> str: ...
    @property
    def start_frame(self) -> int: ...
    @property
    def seed(self) -> object: ...


def warn(text: str) -> None:
    """`text` in yellow."""
    click.secho(text, fg="yellow")


def print_wrapped(text: str) -> None:
    """`text` in lines of at most WIDTH columns; a path is not torn."""
    click.echo(
        textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    )


def print_network(config: STFV8Config, backend: str, why_not_mamba_ssm: str) -> None:
    """Variant, flags, clip and size of the network, and which scan backend runs and why."""
    from stf.models.size import (
        multiply_adds,
        parameters,
    )  # seconds of imports, which --help need not wait for

    flags = ", ".join(flag.removeprefix("use_") for flag in config.active_flags())
    print_wrapped(f"STF-Mamba {config.variant()}: {flags or 'no flag on'}")
    n_parameters, work = sum(parameters(config).values()), sum(multiply_adds(config).values())
    print_wrapped(
        f"clips of {config.num_frames} frames of {config.img_size}×{config.img_size} px, {config.batch_size} a batch; "
        f"{n_parameters:,} parameters, {work / 1e9:.3g} G multiply-adds a clip"
    )
    why = ""
    if config.ssm_backend == "auto":
        why = " (auto)" if backend == "mamba_ssm" else f" (auto: not mamba_ssm, {why_not_mamba_ssm})"
    print_wrapped(f"scan backend: {backend}{why}")


def print_transfer(weights: str | Path, epoch: int | None, counts: Mapping[str, int]) -> None:
    """How much of another network's weights was loaded; `counts` are LoadReport's."""
    kinds = ("loaded", "new", "reshaped", "dropped")
    tensors = ", ".join(f"{counts[f'{kind}_tensors']} {kind}" for kind in kinds)
    print_wrapped(
        f"starting from {weights}, epoch {epoch}: {tensors} tensors (transfer/table.txt of the MLflow run lists them)"
    )


def print_best(epoch: int, val_auc: float, weights: Path, metrics: Path) -> None:
    """The best epoch and the files that hold it."""
    click.echo(f"best epoch {epoch}: validation AUC {val_auc:.4f} (self-blended clips, not deepfakes)")
    click.echo(f"written: {weights}, {metrics}")


def print_resumed(path: str | Path, place: str, *, finished: bool, note: str) -> None:
    """'resuming from checkpoints/…/last.pt after epoch 3', or that there is nothing left to train."""
    if finished:
        text = (
            f"this training has already finished; its outputs are written from {path} (--fresh trains again)"
        )
    else:
        text = f"resuming from {path} {place}"
    click.echo(text + note)


def stopped_by(request: str, unwanted_option: str) -> str:
    """The message to whoever stops a run: by what it was stopped, and how to resume it.

    `unwanted_option` must be left out of the same command then: --fresh would start again, --resume STATE start there.
    """
    without = f" without {unwanted_option}" if unwanted_option else ""
    return f"stopped by {request}; the same command{without} resumes from the last state in checkpoints/"


def no_budget_left(spent_usd: float, budget: BudgetParams, ledger: Path) -> str:
    """The message that training does not start: the budget is spent."""
    return (
        f"no budget is left: earlier runs of this plan spent ${spent_usd:.2f} of ${budget.max_budget:.2f}, and "
        f"training stops at {1 - budget.safety_margin:.0%}; raise budget.max_budget, or delete {ledger} to "
        "forget that spending"
    )


def closed_gate(
    auc: float | None,
    threshold: float,
    gate_path: str | Path,
    spent_and_left: tuple[float, float] | None,
    max_budget: float,
) -> str:
    """The message that phase B does not start: the figures, the plan's money, what to do."""
    figure = "" if auc is None else f", {auc:.4f},"
    if spent_and_left is None:
        money = "Billing is off, so no money is counted."
    else:
        spent, left = spent_and_left
        money = f"The plan has spent ${spent:.2f} of ${max_budget:.2f}, with ${left:.2f} left before training stops."
    return (
        f"phase B does not start: phase A's overall AUC on real deepfakes{figure} is not above "
        f"phase_b.min_phase_a_auc = {threshold:g} ({gate_path}). {money} Train phase A longer (phase_a.epochs) or "
        "differently, or lower phase_b.min_phase_a_auc and write down why"
    )


def non_finite(what: str, value: float, where: str, clips: Iterable[Clip]) -> str:
    """The message on a NaN or infinite number: the clips that led to it, with their seeds."""
    listed = "; ".join(f"{clip.video_id} from frame {clip.start_frame}, seed {clip.seed}" for clip in clips)
    return (
        f"{what} became {value} at {where}; nothing was overwritten. The clips: {listed}. VideoSBIDataset.pair "
        "makes one again from its seed's epoch and pair (2nd and 3rd number). If they look right, lower lr or "
        "max_grad_norm"
    )


def too_many_failures(
    failed: int, pairs: float, max_share: float, failures: Mapping[str, int], where: str
) -> str:
    """The message when too many draws of training clips fail; `failures`: cause → draws."""
    counts = ", ".join(f"{n} × {cause}" for cause, n in sorted(failures.items(), key=lambda item: -item[1]))
    return (
        f"{failed} of the {pairs:.0f} pairs of {where} had draws that failed ({counts}), more than "
        f"data.max_failure_share, {max_share}; nothing was overwritten. `dvc repro -f verify_data` lists the broken "
        "files: fix them, take their videos out of the split, or raise data.max_failure_share"
    )
