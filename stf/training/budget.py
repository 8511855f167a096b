"""The budget of a plan: its ledgers, and whether enough is left to start.

A plan is one phase A and the runs of phase B that start from it. Phase A's cost counts for each of them. Each
configuration of phase B has its own ledger, so that ablations can be trained, also at the same time. For phase A the
most expensive of them counts.
"""

from __future__ import annotations

from pathlib import Path

from stf.config import Params, PhaseName
from stf.console.training import no_budget_left
from stf.errors import TrainingError
from stf.io.paths import repository_root
from stf.training.budget_tracker import BudgetStatus, BudgetTracker
from stf.training.identity import config_hash
from stf.training.ledger import ledger_usd, process_age_s
from stf.training.progress import Progress


def open_budget(params: Params, phase: PhaseName, plan_id: str, *, dry_run: bool) -> BudgetTracker:
    """The budget of the plan `plan_id` (phase A's config_hash), counted from this process's start."""
    ledger, other_usd = None, 0.0
    if params.runtime.billing and not dry_run:
        ledger, other_usd = _ledgers(params, phase, plan_id)
    money = params.budget
    budget = BudgetTracker(
        money.cost_per_hour,
        money.max_budget,
        money.safety_margin,
        billing=params.runtime.billing,
        ledger_path=ledger,
        other_usd=other_usd,
    )
    budget.backdate(process_age_s())
    return budget


def ends_without_money(
    params: Params, plan_id: str, progress: Progress, planned_epochs: int, spent: BudgetStatus
) -> bool:
    """Whether the budget ends the run where it starts, because it already has a best epoch.

    A finished run needs no budget. A run without a validated epoch takes one more step, and its validation, from the
    safety margin. Raises TrainingError when there is no validated epoch and the margin is used up, or nothing was
    trained.
    """
    if not spent.should_stop or progress.epoch >= planned_epochs:
        return False
    if progress.best is None and (progress.global_step == 0 or spent.remaining == 0):
        raise TrainingError(no_budget_left(spent.spent, params.budget, _ledger_folder(plan_id)))
    return progress.best is not None


def spent_and_left(params: Params, phase: PhaseName, plan_id: str) -> tuple[float, float] | None:
    """(dollars that the plan has spent, dollars left before training stops); None without billing."""
    if not params.runtime.billing:
        return None
    own, other_usd = _ledgers(params, phase, plan_id)
    money, spent = params.budget, other_usd + ledger_usd(own)
    return spent, max(money.max_budget * (1 - money.safety_margin) - spent, 0.0)


def _ledger_folder(plan_id: str) -> Path:
    return repository_root() / "checkpoints" / plan_id / "ledger"


def _ledgers(params: Params, phase: PhaseName, plan_id: str) -> tuple[Path, float]:
    """(ledger of this phase, what the plan's other phase has cost); see stf.training.ledger."""
    folder = _ledger_folder(plan_id)
    if phase == "a":
        return folder / "a", max(map(ledger_usd, folder.glob("b_*")), default=0.0)
    return folder / f"b_{config_hash(params, 'b')}", ledger_usd(folder / "a")
