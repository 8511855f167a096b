"""The CSV file and the console."""

from __future__ import annotations

import csv
import io
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from stf.errors import TrackingError
from stf.tracking.loggers import CSV_COLUMNS, ConsoleLogger, CSVLogger

EXPECTED_COLUMNS = (
    "epoch, phase, train_loss, train_acc, val_loss, val_acc, val_auc, val_f1, lr, epoch_time, gpu_mem_gb, best_auc, "
    "cost_usd, ce_loss, hll_loss, timestamp"
)
ROW = dict.fromkeys(CSV_COLUMNS, 1.5)


@dataclass(frozen=True)
class Step:
    epoch: int
    step: int
    loss: float = 0.5
    clips: int = 8


@dataclass(frozen=True)
class Epoch:
    epoch: int
    train_loss: float = 0.7
    val_loss: float = 0.6
    val_auc: float = 0.8125
    best_auc: float = 0.875
    lr: float = 1.0e-3
    epoch_time: float = 36.0
    cost_usd: float = 0.01


def _console(is_terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=is_terminal, width=200), text


def test_the_log_has_the_expected_columns() -> None:
    assert ", ".join(CSV_COLUMNS) == EXPECTED_COLUMNS


def test_every_row_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "log.csv"
    logger = CSVLogger(path)
    for epoch in (1, 2):
        logger.log(ROW | {"epoch": epoch})
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == [str(n) for n in range(1, epoch + 1)]


def test_a_new_run_starts_a_new_file_and_a_resumed_one_appends(tmp_path: Path) -> None:
    for append, lines in ((False, 2), (True, 3), (False, 2)):
        CSVLogger(tmp_path / "log.csv", append=append).log(ROW)
        assert len((tmp_path / "log.csv").read_text().splitlines()) == lines


def test_foreign_file_and_foreign_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TrackingError, match=r"other\.csv has other columns"):
        CSVLogger(tmp_path / "other.csv", append=True)
    logger = CSVLogger(tmp_path / "log.csv")
    with pytest.raises(ValueError, match="val_acuracy"):
        logger.log(ROW | {"val_acuracy": 1})
    with pytest.raises(ValueError, match="val_auc"):
        logger.log({key: value for key, value in ROW.items() if key != "val_auc"})


def test_a_failed_write_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        TrackingError, match=r"/dev/full cannot be written: No space left on device; free some space"
    ):
        CSVLogger("/dev/full")
    (tmp_path / "metrics").write_text("a file where the folder should be")
    with pytest.raises(TrackingError, match=r"metrics/log\.csv cannot be written: "):
        CSVLogger(tmp_path / "metrics" / "log.csv")
    logger = CSVLogger(tmp_path / "log.csv")
    (tmp_path / "log.csv").unlink()
    (tmp_path / "log.csv").symlink_to("/dev/full")
    with pytest.raises(TrackingError, match=r"log\.csv cannot be written: No space left"):
        logger.log(ROW)


def test_off_a_terminal_there_is_one_line_per_epoch() -> None:
    console, text = _console(is_terminal=False)
    with ConsoleLogger("a", epochs=2, steps_per_epoch=100, cost_per_hour=1.39, console=console) as logger:
        for epoch in (1, 2):
            for step in range(1, 101):
                logger.step(Step(epoch, step))
            logger.epoch(Epoch(epoch))
    heading, *lines = text.getvalue().splitlines()
    assert "\x1b" not in text.getvalue()
    assert heading.split()[-4:] == ["$", "projected", "$", "ETA"]
    assert [line.split()[0] for line in lines] == ["1/2", "2/2"]
    assert {len(line) for line in (heading, *lines)} == {96}


def test_eta_of_a_run_resumed_within_an_epoch_uses_its_own_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    console, text = _console(is_terminal=True)
    with ConsoleLogger("a", epochs=1, steps_per_epoch=100, cost_per_hour=2.0, console=console) as logger:
        now_s[0] = 30.0
        logger.step(Step(1, 75))
    assert "ETA 12m 30s" in text.getvalue()  # 25 steps of 30 s


def test_epoch_line_shows_cost_so_far_projected_cost_and_eta() -> None:
    console, text = _console(is_terminal=False)
    with ConsoleLogger("a", epochs=101, steps_per_epoch=1, cost_per_hour=2.0, console=console) as logger:
        logger.epoch(Epoch(1))
    cells = text.getvalue().splitlines()[-1].split()
    # 100 epochs of 36 s are left: one hour, two dollars, on top of one cent.
    assert cells == [
        "1/101",
        "0.7000",
        "0.6000",
        "0.8125",
        "0.8750",
        "1.00e-03",
        "36.0s",
        "0.0100",
        "2.0100",
        "1h",
        "00m",
    ]


def test_eta_of_a_resumed_run_counts_the_remaining_epochs() -> None:
    console, text = _console(is_terminal=False)
    with ConsoleLogger(
        "b", epochs=50, steps_per_epoch=1, cost_per_hour=1.0, first_epoch=50, console=console
    ) as logger:
        logger.epoch(Epoch(50))
    assert text.getvalue().split()[-1] == "0.0s"


def test_speed_counts_from_the_start_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("stf.tracking.loggers.time.monotonic", lambda: now_s)
    for epochs in (1, 2):
        console, text = _console(is_terminal=True)
        with ConsoleLogger("a", epochs=2, steps_per_epoch=1, cost_per_hour=1.39, console=console) as logger:
            for epoch in range(1, epochs + 1):
                now_s += 4.0
                logger.step(Step(epoch, 1, clips=8))
                if epoch < epochs:
                    logger.epoch(Epoch(epoch))
        assert re.findall(r"\S+ clips/s  \S+ pairs/s", text.getvalue())[-1] == "2.0 clips/s  1.0 pairs/s"


def test_on_a_terminal_a_progress_bar_moves_and_is_removed() -> None:
    console, text = _console(is_terminal=True)
    with ConsoleLogger("a", epochs=1, steps_per_epoch=4, cost_per_hour=1.39, console=console) as logger:
        for step in range(1, 5):
            logger.step(Step(1, step))
        logger.epoch(Epoch(1))
    assert "phase a  epoch 1/1" in text.getvalue()
    assert "clips/s" in text.getvalue()
