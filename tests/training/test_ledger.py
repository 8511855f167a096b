"""The ledger: a kill at any moment loses no cost; a damaged record is reported."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stf.errors import TrainingError
from stf.training.budget_tracker import BudgetTracker
from stf.training.ledger import BEAT_S, ledger_usd, process_age_s

PRICE = 1.39
CENT = 0.01
FILLED = '{"seconds": 7200.0, "usd_per_hour": 1.5}'


class Machine:
    """A rented machine's time, and the processes that die on it."""

    def __init__(self, seed: int) -> None:
        self.rng, self.now_s = np.random.default_rng(seed), 0.0

    def clock(self) -> float:
        return self.now_s

    def train(self, folder: Path, other_usd: float) -> tuple[float, float]:
        """One process, up to its kill or its end: (true seconds, the cost that its last `check` reported)."""
        began_s = self.now_s
        self.now_s += self.rng.uniform(0, 30)  # imports
        budget = BudgetTracker(PRICE, 1e6, ledger_path=folder, other_usd=other_usd, clock=self.clock)
        budget.backdate(self.now_s - began_s)
        reported_usd = budget.check().spent
        for _ in range(int(self.rng.integers(0, 600))):
            self.now_s += self.rng.uniform(0, BEAT_S)  # then a beat, or a step: both write alike
            reported_usd = budget.check().spent
        self.now_s += self.rng.uniform(0, BEAT_S)
        if self.rng.random() < 0.1:
            budget.close()
            reported_usd = budget.check().spent
        return self.now_s - began_s, reported_usd


@pytest.mark.parametrize("seed", range(3))
def test_fifty_kills_neither_lose_nor_double_any_cost(tmp_path: Path, seed: int) -> None:
    """Runs of phase A and of two configurations of phase B, in any order, as restarts and ablations give."""
    machine, folders = Machine(seed), {name: tmp_path / "plan" / name for name in ("a", "b_1", "b_2")}
    true_s = dict.fromkeys(folders, 0.0)
    for _ in range(50):
        name = str(machine.rng.choice(list(folders)))
        other = {"a": max(true_s["b_1"], true_s["b_2"])}.get(name, true_s["a"]) / 3600 * PRICE
        ran_s, reported_usd = machine.train(folders[name], other)
        true_s[name] += ran_s
        assert reported_usd == pytest.approx(other + true_s[name] / 3600 * PRICE, abs=CENT)
    for name, folder in folders.items():
        lost = true_s[name] / 3600 * PRICE - ledger_usd(folder)
        assert -1e-6 < lost < CENT, name
    runs = sum(len(list(folder.iterdir())) for folder in folders.values())
    assert runs == 50


_BEATING = """
import sys, time
from stf.training.budget_tracker import BudgetTracker
from stf.training.ledger import process_age_s

with BudgetTracker(3600.0, 1e6, ledger_path=sys.argv[1]) as budget:
    budget.backdate(process_age_s())
    print("ready", flush=True)
    sum(iter(lambda: 1, 0))  # busy, and never a check()
"""


@pytest.mark.slow
def test_a_process_killed_while_busy_elsewhere_is_counted_to_the_second(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for run in range(5):
        ledger = tmp_path / str(run)
        began_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", _BEATING, str(ledger)], stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        true_s = time.monotonic() - began_s
        process.stdout.close()
        assert ledger_usd(ledger) == pytest.approx(true_s, abs=1.0)  # a dollar a second


def test_a_loader_worker_forked_between_beats_never_waits(tmp_path: Path) -> None:
    with BudgetTracker(PRICE, 5.0, ledger_path=tmp_path) as budget:
        until_s = time.monotonic() + 1.2
        while time.monotonic() < until_s:
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        assert budget.check().spent > 0
    [record] = tmp_path.iterdir()
    assert json.loads(record.read_text())["seconds"] >= 1.2


def test_two_processes_at_a_time_write_their_own_records(tmp_path: Path) -> None:
    now_s = [0.0]
    both = [BudgetTracker(PRICE, 5.0, ledger_path=tmp_path, clock=lambda: now_s[0]) for _ in range(2)]
    for _ in range(10):
        now_s[0] += 360.0
        for budget in both:
            budget.check()
    for budget in both:
        budget.close()
    assert ledger_usd(tmp_path) == pytest.approx(2 * PRICE)


def test_a_moved_folder_keeps_its_records(tmp_path: Path) -> None:
    now_s = [0.0]
    budget = BudgetTracker(PRICE, 5.0, ledger_path=tmp_path / "here", clock=lambda: now_s[0])
    (tmp_path / "here").rename(tmp_path / "there")
    now_s[0] = 3600.0
    budget.close()
    assert ledger_usd(tmp_path / "there") == pytest.approx(PRICE)
    assert BudgetTracker(PRICE, 5.0, ledger_path=tmp_path / "there").check().spent == pytest.approx(
        PRICE, abs=CENT
    )


def test_a_record_has_a_fixed_size(tmp_path: Path) -> None:
    now_s = [0.0]
    budget = BudgetTracker(PRICE, 5.0, ledger_path=tmp_path, clock=lambda: now_s[0])
    [record] = tmp_path.iterdir()
    sizes = {record.stat().st_size}
    now_s[0] = 123456.789
    budget.check()
    sizes.add(record.stat().st_size)
    assert sizes == {512}
    assert json.loads(record.read_text())["seconds"] == 123456.789


@pytest.mark.parametrize("content", [b"", b"\0" * 512])
def test_an_empty_record_costs_nothing_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "one.json").write_text(FILLED)
    (tmp_path / "two.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert ledger_usd(tmp_path) == pytest.approx(3.0)
    assert "two.json" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"seconds": 1.0}',
        FILLED[:-1],
        FILLED.replace("7200.0", "NaN"),
        FILLED.replace("7200.0", "-4"),
        FILLED.replace("7200.0", "1e999"),
        FILLED.replace("7200.0", "true"),
        FILLED.replace("7200.0", '"7200"'),
        FILLED + " " * 5000,
    ],
)
def test_a_damaged_record_is_an_error_with_its_path_and_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "one.json").write_text(FILLED)
    (tmp_path / "two.json").write_text(content)
    with pytest.raises(
        TrainingError, match=r'two\.json cannot .* \{"seconds": S, "usd_per_hour": P\} .* delete it'
    ):
        BudgetTracker(PRICE, 5.0, ledger_path=tmp_path)
    assert (tmp_path / "two.json").read_text() == content
    (tmp_path / "two.json").write_text('{"seconds": 3600, "usd_per_hour": 1}')  # as the message says
    assert ledger_usd(tmp_path) == pytest.approx(4.0)


def test_a_ledger_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        BudgetTracker(PRICE, 5.0, ledger_path=tmp_path / "file")


def test_a_full_disk_is_raised_by_check_and_not_by_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    began_s = time.monotonic()
    with BudgetTracker(PRICE, 5.0, ledger_path=tmp_path) as budget:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            time.sleep(3 * BEAT_S)
            with pytest.raises(TrainingError, match="No space left"):
                budget.check()
        time.sleep(3 * BEAT_S)
    assert 3 * BEAT_S < ledger_usd(tmp_path) / PRICE * 3600 <= time.monotonic() - began_s


def test_the_age_of_a_process_is_that_of_its_first_moment() -> None:
    script = (
        "import time; time.sleep(1); from stf.training.ledger import process_age_s; print(process_age_s())"
    )
    began_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert (
        1.0 <= float(done.stdout) < time.monotonic() - began_s + 1.0
    )  # the machine's start is known to a second


def test_an_age_above_any_import_time_counts_as_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.Process.create_time", lambda _: time.time() - 86400)
    assert process_age_s() == 0.0
