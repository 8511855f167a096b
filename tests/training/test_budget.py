"""A plan's budget when training starts: earlier runs count, and so does the most expensive phase B."""

from __future__ import annotations

from pathlib import Path

import pytest

from stf.config import BudgetParams, Params
from stf.training.budget import open_budget
from stf.training.budget_tracker import BudgetTracker
from stf.training.ledger import ledger_usd


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def test_the_time_before_the_budget_was_opened_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour of imports at $3 an hour, in the status and in the ledger that the next run reads."""
    monkeypatch.setattr("stf.training.budget.process_age_s", lambda: 1800.0)
    params = Params(budget=BudgetParams(cost_per_hour=3.0, max_budget=100.0))
    with open_budget(params, "a", "plan", dry_run=False) as budget:
        assert budget.check().spent == pytest.approx(1.5, abs=0.05)
    assert ledger_usd(root / "checkpoints/plan/ledger/a") == pytest.approx(1.5, abs=0.05)


def test_for_phase_a_the_most_expensive_phase_b_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stf.training.budget.process_age_s", lambda: 0.0)
    for name, hours in (("b_1", 0.25), ("b_2", 1.0), ("b_3", 0.5)):
        with BudgetTracker(1.0, 5.0, ledger_path=root / "checkpoints/plan/ledger" / name) as ablation:
            ablation.backdate(3600 * hours)
    with open_budget(Params(), "a", "plan", dry_run=False) as budget:
        assert budget.check().spent == pytest.approx(1.0, abs=0.05)


def test_a_dry_run_costs_nothing_and_writes_no_ledger(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stf.training.budget.process_age_s", lambda: 1800.0)
    with open_budget(Params(), "a", "plan", dry_run=True):
        pass
    assert not (root / "checkpoints").exists()
