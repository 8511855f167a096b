"""What a plan has cost so far, and whether it may go on (SPEC section 7). Money is US dollars."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stf.errors import TrainingError

WARN_SHARE = 0.8  # of max_budget
_LEDGER_PERIOD_S = 10.0  # a killed run forgets at most this much; at $1.39/h that is $0.004


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

    The clock starts at construction. With `ledger_path` the plan's earlier runs are counted in and this one
    is written down, at most every ten seconds and by `close()`: the ledger survives kills and restarts.
    `other_usd` is what else the plan has cost, as another ledger tells it.
    Training should stop at (1 − safety_margin) of `max_budget`, and is warned at 80 %. With billing=False the
    cost is told, but `warn` and `should_stop` stay False.
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
        """Raises ValueError for figures out of range, TrainingError for a ledger that cannot be read."""
        if cost_per_hour <= 0 or max_budget <= 0 or not 0 <= safety_margin < 1:
            raise ValueError("cost_per_hour and max_budget must be above 0, safety_margin in [0, 1)")
        self.cost_per_hour, self.max_budget = cost_per_hour, max_budget
        self._stop_usd, self._billing = max_budget * (1 - safety_margin), billing
        self._clock, self._started_s = clock, clock()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._ledger_path = Path(ledger_path) if ledger_path is not None else None
        self._earlier = _read_ledger(self._ledger_path) if self._ledger_path else []
        self._earlier_usd = other_usd + sum(run["usd"] for run in self._earlier)
        self._written_s = -math.inf

    def check(self) -> BudgetStatus:
        """The plan's cost at this moment; keeps the ledger up to date."""
        now_s = self._clock()
        if now_s - self._written_s >= _LEDGER_PERIOD_S:
            self._write_ledger(now_s)
        spent = self._earlier_usd + self._run_usd(now_s)
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
        """Writes the ledger's last word on this run."""
        self._write_ledger(self._clock())

    def _run_usd(self, now_s: float) -> float:
        return (now_s - self._started_s) / 3600 * self.cost_per_hour

    def _write_ledger(self, now_s: float) -> None:
        self._written_s = now_s
        if self._ledger_path is None:
            return
        this_run = {
            "started": self._started_at,
            "seconds": now_s - self._started_s,
            "usd": self._run_usd(now_s),
        }
        self._ledger_path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._ledger_path.with_name(self._ledger_path.name + ".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump({"runs": [*self._earlier, this_run]}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._ledger_path)


def ledger_usd(path: str | Path) -> float:
    """What the runs in a ledger have cost; 0 when there is none. Raises TrainingError when it cannot be read."""
    return sum(run["usd"] for run in _read_ledger(Path(path)))


def _read_ledger(path: Path) -> list[dict[str, Any]]:
    """The runs of earlier processes. A damaged ledger is an error: forgotten money is spent twice."""
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        costs = [float(run["usd"]) for run in runs]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"the budget's ledger {path} cannot be read ({error}); mend it, or delete it for a new budget"
        ) from None
    if not all(math.isfinite(cost) and cost >= 0 for cost in costs):
        raise TrainingError(
            f"the budget's ledger {path} holds a cost that is no amount of money; mend or delete it"
        )
    return runs
