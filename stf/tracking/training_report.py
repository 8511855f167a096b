"""What a training run tells while it runs: console, CSV row and MLflow metrics from one record.

Takes any dataclass with the fields of stf.training's records, and returns nothing to training.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import click

from stf.tracking.loggers import ConsoleLogger, CSVLogger
from stf.tracking.run import TrackedRun

_PLACE = ("epoch", "step", "global_step")


class TrainingReport:
    """Steps go to the console, and every `log_every_steps` to MLflow; epochs go to console, CSV and MLflow."""

    def __init__(
        self, run: TrackedRun, console: ConsoleLogger, csv: CSVLogger, *, log_every_steps: int
    ) -> None:
        self._run, self._console, self._csv = run, console, csv
        self._log_every_steps = max(log_every_steps, 1)
        self._told: set[str] = set()

    def step(self, record: Any) -> None:
        """One optimizer step (StepRecord)."""
        self._console.step(record)
        if record.global_step % self._log_every_steps == 0:
            figures = _numbers(record).items()
            shown = {f"step/{name}": value for name, value in figures if name not in _PLACE}
            self._run.log(shown, step=record.global_step)

    def epoch(self, record: Any, details: Any) -> None:
        """One epoch (EpochRecord, EpochDetails)."""
        self._csv.log(dataclasses.asdict(record))
        self._console.epoch(record)
        failures = {f"failures/{cause}": float(count) for cause, count in details.failures.items()}
        numbers = {name: value for name, value in _numbers(record).items() if name not in _PLACE}
        # an epoch that the budget cut is told again when a larger budget lets it end
        self._run.log(
            numbers | _numbers(details) | failures, step=record.epoch, provisional=not details.complete
        )
        if details.failures:
            causes = ", ".join(f"{count} × {cause}" for cause, count in sorted(details.failures.items()))
            click.echo(f"  draws repeated or degraded: {causes}")

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
        if key not in self._told:
            self._told.add(key)
            click.secho(text, fg="yellow")


def _numbers(record: Any) -> dict[str, float]:
    """The numeric fields that have a value; a loss without a margin reports NaN for it."""
    values = dataclasses.asdict(record)
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if not math.isnan(value)}
