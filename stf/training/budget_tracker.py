"""What a plan has cost so far, and whether its training may continue. Money is US dollars."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stf.training.ledger import BEAT_S, FSYNC_S, Heartbeat, Record, ledger_usd

WARN_SHARE = 0.8  # of max_budget


@dataclass(frozen=True)
class BudgetStatus:
    """`remaining` counts to max_budget; `safe_hours_left` only to the point where training stops."""

    spent: float
    remaining: float
    safe_hours_left: float
    should_stop: bool
    warn: bool


class BudgetTracker:
    """Wall time × price, added up over every run of one plan.

    The clock starts at construction, or before it by `backdate`. With the folder `ledger_path` the plan's earlier runs
    count too, and this run is recorded: at once, by every `check` half a second or more after the last record, by
    `close`, and in a `with` block every half second whatever training does. `other_usd` is the plan's cost according to
    another ledger. Training should stop at (1 − safety_margin) of `max_budget`; `warn` is set at 80 %. With
    billing=False the cost is reported, but `warn` and `should_stop` stay False.
    """

    def __init__(
        self,
        cost_per_hour: float,
        max_budget: float,
        safety_margin: float = 0.10,
        *,
        billing: bool = True,
        ledger_path: str | Path | None = None,
        other_usd: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError for figures out of range, TrainingError for a ledger that cannot be read or written."""
        if cost_per_hour <= 0 or max_budget <= 0 or not 0 <= safety_margin < 1:
            raise ValueError("cost_per_hour and max_budget must be above 0, safety_margin in [0, 1)")
        self.cost_per_hour, self.max_budget = cost_per_hour, max_budget
        self._stop_usd, self._billing = max_budget * (1 - safety_margin), billing
        self._clock, self._began_s = clock, clock()  # monotonic: no NTP, no daylight saving
        self._earlier_usd = other_usd
        self._record: Record | None = None
        self._heartbeat: Heartbeat | None = None
        if ledger_path is not None:
            self._earlier_usd += ledger_usd(ledger_path)
            self._record = Record(Path(ledger_path), cost_per_hour)
        self._written_s = self._synced_s = self._began_s

    def backdate(self, seconds: float) -> None:
        """Counts `seconds` before construction too, such as the time that this process had already run."""
        self._began_s -= seconds
        self._write(self._clock())

    def __enter__(self) -> Self:
        if self._record is not None:
            self._heartbeat = Heartbeat(lambda: self._write(self._clock()), BEAT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> BudgetStatus:
        """The plan's cost at this moment. Raises TrainingError when it cannot be recorded."""
        now_s = self._clock()
        if now_s - self._written_s >= BEAT_S:
            self._write(now_s)
        spent = self._earlier_usd + (now_s - self._began_s) / 3600 * self.cost_per_hour
        return BudgetStatus(
            spent=spent,
            remaining=max(self.max_budget - spent, 0.0),
            safe_hours_left=max(self._stop_usd - spent, 0.0) / self.cost_per_hour,
            should_stop=self._billing and spent >= self._stop_usd,
            warn=self._billing and spent >= min(WARN_SHARE * self.max_budget, self._stop_usd),
        )

    def estimate_remaining_epochs(self, avg_epoch_time: float) -> int:
        """Whole epochs of `avg_epoch_time` seconds that fit in before the stop; raises ValueError at ≤ 0."""
        if avg_epoch_time <= 0:
            raise ValueError(f"avg_epoch_time is {avg_epoch_time} s; it must be above 0")
        return int(self.check().safe_hours_left * 3600 // avg_epoch_time)

    def close(self) -> None:
        """Writes this run's final record; a `check` after it still reports, and writes nothing."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
        record, self._record, self._heartbeat = self._record, None, None
        if record is not None:
            record.write(self._clock() - self._began_s, sync=True)
            record.close()

    def _write(self, now_s: float) -> None:
        if self._record is None:
            return
        sync = now_s - self._synced_s >= FSYNC_S
        self._record.write(now_s - self._began_s, sync=sync)
        self._written_s, self._synced_s = now_s, now_s if sync else self._synced_s
