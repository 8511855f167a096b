"""What a training says to whoever is at the keyboard, and the texts of its errors.

Printed or raised, never part of a result: so an edit of a text here retrains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import click

from stf.config import BudgetParams, STFV8Config


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


def print_network(config: STFV8Config, backend: str, why_not_mamba_ssm: str) -> None:
    """The network's description, and which scan backend runs and why."""
    click.echo(config.describe())
    why = ""
    if config.ssm_backend == "auto":
        why = " (auto)" if backend == "mamba_ssm" else f" (auto: not mamba_ssm, {why_not_mamba_ssm})"
    click.echo(f"scan backend: {backend}{why}")


def print_best(epoch: int, val_auc: float, weights: Path, summary: Path) -> None:
    """The kept epoch and the files that hold it."""
    click.echo(
        f"best epoch {epoch}: AUC {val_auc:.4f} on self-blended validation clips (not on deepfakes); "
        f"wrote {weights} and {summary}"
    )


def print_resumed(path: str | Path, place: str, *, finished: bool, note: str) -> None:
    """'going on from checkpoints/…/last.pt after epoch 3', or that there is nothing left to train."""
    if finished:
        text = f"this training had finished; its outputs are written from {path} (--fresh would train anew)"
    else:
        text = f"going on from {path} {place}"
    click.echo(text + note)


def stopped_by(request: str, unwanted_option: str) -> str:
    """What is said to whoever stops a run: by what, and how it is resumed.

    `unwanted_option` is to be left out of the same command then: --fresh would begin anew, --resume STATE start there.
    """
    without = f" without {unwanted_option}" if unwanted_option else ""
    return f"stopped by {request}; the same command{without} goes on from the last state in checkpoints/"


def no_budget_left(spent_usd: float, budget: BudgetParams, ledger: Path) -> str:
    """The text of a refusal."""
    return (
        f"no budget is left: earlier runs of this plan spent ${spent_usd:.2f} of ${budget.max_budget:.2f}, and "
        f"training stops at {1 - budget.safety_margin:.0%}; raise budget.max_budget, or delete {ledger} to "
        "forget what they spent"
    )


def closed_gate(
    auc: float | None,
    threshold: float,
    gate_path: str | Path,
    spent_and_left: tuple[float, float] | None,
    max_budget: float,
) -> str:
    """The text of the error that keeps phase B from starting: the figures, the plan's money, what to do."""
    figure = "" if auc is None else f", {auc:.4f},"
    if spent_and_left is None:
        money = "Billing is off, so no money is counted."
    else:
        spent, left = spent_and_left
        money = f"The plan has spent ${spent:.2f} of ${max_budget:.2f}, with ${left:.2f} left before training stops."
    return (
        f"phase B does not start: phase A's overall AUC on real deepfakes{figure} is not above "
        f"phase_b.min_phase_a_auc = {threshold:g} ({gate_path}). {money} Train phase A longer (phase_a.epochs) or "
        "otherwise, or lower phase_b.min_phase_a_auc and write down why"
    )


def non_finite(what: str, value: float, where: str, clips: Iterable[Clip]) -> str:
    """The text of the error that names the clips behind a NaN or infinite number, with their seeds."""
    listed = "; ".join(f"{clip.video_id} from frame {clip.start_frame}, seed {clip.seed}" for clip in clips)
    return (
        f"{what} became {value} at {where}; nothing was overwritten. The clips: {listed}. VideoSBIDataset.pair "
        "makes one again from its seed's epoch and pair (2nd and 3rd number); are they sound, lower lr or max_grad_norm"
    )


def too_many_failures(
    failed: int, pairs: float, max_share: float, failures: Mapping[str, int], where: str
) -> str:
    """The text of the error that ends a training whose draws fail too often; `failures`: cause → draws."""
    counts = ", ".join(f"{n} × {cause}" for cause, n in sorted(failures.items(), key=lambda item: -item[1]))
    return (
        f"{failed} of the {pairs:.0f} pairs of {where} had draws that failed ({counts}), more than "
        f"data.max_failure_share, {max_share}; nothing was overwritten. `dvc repro -f verify_data` names the broken "
        "files: mend them, take their videos out of the split, or raise data.max_failure_share"
    )
