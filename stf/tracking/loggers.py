"""What a training run writes for people: a CSV row per epoch, and the console's bars, cost and ETA."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stf.errors import TrackingError
from stf.tracking.disk_errors import disk_errors

CSV_COLUMNS: tuple[str, ...] = (
    "epoch",
    "phase",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "val_auc",
    "val_f1",
    "lr",
    "epoch_time",
    "gpu_mem_gb",
    "best_auc",
    "cost_usd",
    "ce_loss",
    "hll_loss",
    "timestamp",
)
# heading → width; together 96 columns
_EPOCH_COLUMNS = {
    "epoch": 7,
    "train loss": 11,
    "val loss": 10,
    "val AUC": 9,
    "best AUC": 10,
    "lr": 10,
    "time": 9,
    "spent $": 9,
    "projected $": 13,
    "ETA": 8,
}


class StepLike(Protocol):
    """One optimizer step (stf.training's StepRecord fits): step counts from 1 within the epoch."""

    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def clips(self) -> int: ...


class EpochLike(Protocol):
    """One finished epoch; the figures that the console shows."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def val_loss(self) -> float: ...
    @property
    def val_auc(self) -> float: ...
    @property
    def best_auc(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def epoch_time(self) -> float: ...
    @property
    def cost_usd(self) -> float: ...


class CSVLogger:
    """Appends a row per epoch and flushes it, so that a killed run leaves every finished epoch on disk."""

    def __init__(self, path: str | Path, append: bool = False) -> None:
        """Starts a new file, or continues an existing one.

        Raises TrackingError when that has other columns, or when the disk is full or read-only.
        """
        self._path = Path(path)
        header = ",".join(CSV_COLUMNS)
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not (append and self._path.exists()):
                self._path.write_text(header + "\n", encoding="utf-8")
            elif (
                self._path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip() != header
            ):
                raise TrackingError(f"{path} has other columns than this version writes; move it away")

    def log(self, row: Mapping[str, object]) -> None:
        """Writes one row; raises ValueError when a column is missing or unknown, TrackingError for a full disk."""
        if set(row) != set(CSV_COLUMNS):
            raise ValueError(f"columns differ by {sorted(set(row) ^ set(CSV_COLUMNS))}")
        with disk_errors(self._path), self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n").writerow(row)


class ConsoleLogger:
    """Progress of a phase: a line per epoch, and a live bar within it where the output is a terminal.

    Epochs count from 1. Use it as a context manager, so that the bar is taken down when training stops.
    """

    def __init__(
        self,
        phase: str,
        epochs: int,
        steps_per_epoch: int,
        *,
        cost_per_hour: float,
        first_epoch: int = 1,
        console: Console | None = None,
    ) -> None:
        self._phase, self._epochs, self._steps = phase, epochs, steps_per_epoch
        self._cost_per_hour, self._epochs_left = cost_per_hour, epochs - first_epoch + 1
        self._console = console or Console()
        self._epoch_times_s: list[float] = []
        self._start_epoch()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bar = self._progress.add_task(f"phase {phase}", total=steps_per_epoch, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, record: StepLike) -> None:
        """Moves the bar."""
        self._epoch_clips += record.clips
        self._epoch_steps += 1  # not record.step: a run may resume in the middle of an epoch
        elapsed_s = max(time.monotonic() - self._epoch_started_s, 1e-6)
        remaining_s = self._remaining_s(elapsed_s / self._epoch_steps, record.step)
        figures = (
            f"loss {record.loss:.4f}  {self._epoch_clips / elapsed_s:.1f} clips/s  "
            f"{self._epoch_clips / 2 / elapsed_s:.1f} pairs/s  ETA {_duration(remaining_s)}"
        )
        epoch = f"phase {self._phase}  epoch {record.epoch}/{self._epochs}"
        self._progress.update(self._bar, completed=record.step, description=epoch, figures=figures)

    def epoch(self, record: EpochLike) -> None:
        """Prints the epoch's line of the table, after the heading when it is the first."""
        self._start_epoch()
        if not self._epoch_times_s:
            heading = "".join(f"{name:>{width}}" for name, width in _EPOCH_COLUMNS.items())
            self._console.print(heading, style="bold", soft_wrap=True)
        self._epoch_times_s.append(record.epoch_time)
        self._epochs_left -= 1
        eta_s = self._epochs_left * sum(self._epoch_times_s) / len(self._epoch_times_s)
        cells = (
            f"{record.epoch}/{self._epochs}",
            f"{record.train_loss:.4f}",
            f"{record.val_loss:.4f}",
            f"{record.val_auc:.4f}",
            f"{record.best_auc:.4f}",
            f"{record.lr:.2e}",
            _duration(record.epoch_time),
            f"{record.cost_usd:.4f}",
            f"{record.cost_usd + eta_s / 3600 * self._cost_per_hour:.4f}",
            _duration(eta_s),
        )
        line = "".join(f"{cell:>{width}}" for cell, width in zip(cells, _EPOCH_COLUMNS.values(), strict=True))
        self._console.print(line, soft_wrap=True, highlight=False)

    def _start_epoch(self) -> None:
        self._epoch_started_s, self._epoch_clips, self._epoch_steps = time.monotonic(), 0, 0

    def _remaining_s(self, step_s: float, step: int) -> float:
        """From whole epochs when one is done (they include validation), before that from the steps alone."""
        if not self._epoch_times_s:
            return step_s * (self._epochs_left * self._steps - step)
        epoch_s = sum(self._epoch_times_s) / len(self._epoch_times_s)
        return max(self._epochs_left * epoch_s - step_s * step, 0.0)


def _duration(seconds: float) -> str:
    minutes, whole_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {whole_s:02d}s" if minutes else f"{seconds:.1f}s"
