"""What a training run reports while it runs: console, CSV row and MLflow metrics from one record.

Takes any dataclass with the fields of stf.training's records, and returns nothing to training.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import click

from stf.config import Params
from stf.tracking.loggers import ConsoleLogger, CSVLogger
from stf.tracking.names import epoch_metrics, step_metrics
from stf.tracking.run import TrackedRun


class TrainingReport:
    """Steps go to the console, and every `log_every_steps` to MLflow; epochs go to console, CSV and MLflow."""

    def __init__(
        self,
        run: TrackedRun,
        console: ConsoleLogger,
        csv: CSVLogger,
        *,
        log_every_steps: int,
        epochs: int = 0,
        budget: Any = None,
    ) -> None:
        """With `budget` (BudgetTracker) every epoch is followed by a look at whether the `epochs` planned fit in."""
        self._run, self._console, self._csv = run, console, csv
        self._epochs, self._budget = epochs, budget
        self._log_every_steps = max(log_every_steps, 1)
        self._warned: set[str] = set()
        self._failures: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._console.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._console.__exit__(*error)
        if self._failures:
            causes = ", ".join(f"{count} × {cause}" for cause, count in sorted(self._failures.items()))
            click.echo(f"draws repeated or degraded: {causes}")

    def step(self, record: Any) -> None:
        """One optimizer step (StepRecord)."""
        self._console.step(record)
        if record.global_step % self._log_every_steps == 0:
            self._run.log(step_metrics(record), step=record.global_step)

    def epoch(self, record: Any, details: Any) -> None:
        """One epoch (EpochRecord, EpochDetails)."""
        self._csv.log(dataclasses.asdict(record))
        self._console.epoch(record)
        # an epoch that the budget cut short is logged again when a larger budget lets it end
        self._run.log(epoch_metrics(record, details), step=record.epoch, provisional=not details.complete)
        self._failures.update(details.failures)
        if self._budget is not None:
            fitting = self._budget.estimate_remaining_epochs(record.epoch_time)
            self.budget(self._budget.check(), fitting, self._epochs - record.epoch)

    def budget(self, status: Any, epochs_that_fit: int, epochs_left: int) -> None:
        """Warns, once each, that the money runs out and that the rest of the plan does not fit in (BudgetStatus)."""
        figures = f"${status.spent:.2f} of ${status.spent + status.remaining:.2f} spent"
        if status.warn:
            self._once("warn", f"budget: {figures}")
        if epochs_that_fit < epochs_left:
            self._once(
                "short", f"budget: {figures}; {epochs_that_fit} of the {epochs_left} epochs left fit in"
            )

    def _once(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            click.secho(text, fg="yellow")


def open_report(
    run: TrackedRun,
    log_csv: Path,
    params: Params,
    plan: Any,
    steps_per_epoch: int,
    history: Sequence[Any],
    budget: Any,
) -> TrainingReport:
    """A report on a training of `plan` (Plan), inside `budget` (BudgetTracker).

    Its CSV log begins with the epochs of `history` (EpochRecords), which earlier runs finished. A context manager: the
    progress bar is taken down at its end.
    """
    csv = CSVLogger(log_csv)
    for record in history:
        csv.log(dataclasses.asdict(record))
    console = ConsoleLogger(
        plan.phase,
        plan.epochs,
        steps_per_epoch,
        cost_per_hour=params.budget.cost_per_hour,
        first_epoch=len(history) + 1,
    )
    return TrainingReport(
        run,
        console,
        csv,
        log_every_steps=params.runtime.log_every_steps,
        epochs=plan.epochs,
        budget=budget if params.runtime.billing else None,
    )
