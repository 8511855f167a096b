"""The budget against a simulated clock: what it costs, when it warns, when it stops, what it records."""

from __future__ import annotations

from pathlib import Path

import pytest

from stf.training.budget_tracker import BudgetTracker
from stf.training.ledger import ledger_usd


class Clock:
    """Seconds that pass only in pass_hours."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_hours(self, hours: float) -> None:
        self.now_s += 3600 * hours


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_new_plan_has_spent_nothing(clock: Clock) -> None:
    status = BudgetTracker(1.39, 5.0, clock=clock).check()
    assert status.spent == 0
    assert status.remaining == 5.0
    assert status.safe_hours_left == pytest.approx(4.5 / 1.39)
    assert not status.warn
    assert not status.should_stop


@pytest.mark.parametrize(
    ("usd", "warn", "stop"),
    [(3.99, False, False), (4.01, True, False), (4.49, True, False), (4.51, True, True), (9.0, True, True)],
)
def test_it_warns_at_80_and_stops_at_90_percent(clock: Clock, usd: float, warn: bool, stop: bool) -> None:
    budget = BudgetTracker(1.39, 5.0, 0.10, clock=clock)
    clock.pass_hours(usd / 1.39)
    status = budget.check()
    assert (status.warn, status.should_stop) == (warn, stop)
    assert status.spent == pytest.approx(usd)
    assert status.remaining == pytest.approx(max(5.0 - usd, 0.0))
    assert status.safe_hours_left == pytest.approx(max(4.5 - usd, 0.0) / 1.39)


def test_the_margin_moves_the_stop(clock: Clock) -> None:
    budget = BudgetTracker(1.0, 10.0, 0.5, clock=clock)
    clock.pass_hours(5.01)
    assert budget.check().should_stop
    assert budget.check().warn


def test_epochs_that_fit_are_whole_and_end_before_the_stop(clock: Clock) -> None:
    budget = BudgetTracker(1.39, 5.0, clock=clock)
    assert budget.estimate_remaining_epochs(3600.0) == 3  # 4.5 / 1.39 = 3.24 h
    clock.pass_hours(3.0)
    assert budget.estimate_remaining_epochs(3600.0) == 0
    assert budget.estimate_remaining_epochs(360.0) == 2
    with pytest.raises(ValueError, match="avg_epoch_time"):
        budget.estimate_remaining_epochs(0.0)


def test_the_ledger_counts_every_run_of_the_plan(clock: Clock, tmp_path: Path) -> None:
    ledger = tmp_path / "plan" / "a"
    for _ in range(3):
        budget = BudgetTracker(1.0, 5.0, ledger_path=ledger, clock=clock)
        clock.pass_hours(1.0)
        budget.close()
    assert BudgetTracker(1.0, 5.0, ledger_path=ledger, clock=clock).check().spent == pytest.approx(3.0)
    assert BudgetTracker(1.0, 5.0, ledger_path=tmp_path / "other", clock=clock).check().spent == 0
    assert len(list(ledger.iterdir())) == 4


def test_the_cost_in_another_ledger_counts_and_is_not_written_twice(clock: Clock, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert ledger_usd(first) == 0
    budget = BudgetTracker(1.0, 5.0, ledger_path=first, clock=clock)
    clock.pass_hours(3.0)
    budget.close()
    budget = BudgetTracker(1.0, 5.0, ledger_path=second, other_usd=ledger_usd(first), clock=clock)
    clock.pass_hours(1.6)
    assert budget.check().spent == pytest.approx(4.6)
    assert budget.check().should_stop
    budget.close()
    assert (ledger_usd(first), ledger_usd(second)) == pytest.approx((3.0, 1.6))


def test_time_before_construction_can_be_counted(clock: Clock, tmp_path: Path) -> None:
    budget = BudgetTracker(1.0, 5.0, ledger_path=tmp_path, clock=clock)
    budget.backdate(1800.0)
    assert budget.check().spent == ledger_usd(tmp_path) == pytest.approx(0.5)
    clock.pass_hours(1.0)
    budget.close()
    assert budget.check().spent == ledger_usd(tmp_path) == pytest.approx(1.5)


def test_an_exhausted_plan_stays_exhausted(clock: Clock, tmp_path: Path) -> None:
    ledger = tmp_path / "a"
    first = BudgetTracker(1.0, 5.0, ledger_path=ledger, clock=clock)
    clock.pass_hours(4.6)
    first.close()
    assert BudgetTracker(1.0, 5.0, ledger_path=ledger, clock=clock).check().should_stop
    assert not BudgetTracker(1.0, 6.0, ledger_path=ledger, clock=clock).check().should_stop


def test_without_billing_it_reports_the_cost_and_never_stops(clock: Clock) -> None:
    budget = BudgetTracker(1.39, 5.0, billing=False, clock=clock)
    clock.pass_hours(100)
    status = budget.check()
    assert status.spent == pytest.approx(139.0)
    assert not status.should_stop
    assert not status.warn


@pytest.mark.parametrize("wrong", [(0.0, 5.0, 0.1), (1.39, 0.0, 0.1), (1.39, 5.0, 1.0), (1.39, 5.0, -0.1)])
def test_impossible_figures_are_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        BudgetTracker(*wrong)
