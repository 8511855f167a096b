"""A chain: one training that is started, killed, started again, and finally allowed to finish."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from tests.drill.scenarios import (
    EXPERIMENTS,
    Scenario,
    check_out_results,
    kill,
    processes,
    return_to_branch,
    start,
    succeeded,
    trainers,
)
from tests.drill.scratch import STEPS_PER_EPOCH, Clone, Outcome, set_seed

EXIT_S = 45.0  # a trainer that was signalled may take 30
LONGEST_S = 300.0
_RESUMED = re.compile(r"resuming from|already finished")
_PLACE = re.compile(r"resuming from \S+ (?:after epoch (\d+)|in epoch (\d+), after step (\d+) of (\d+))")
_STARTED = "starting at epoch 1"


@dataclass(frozen=True)
class Moment:
    """When to kill, by `kind`.

    'any': `delay_s` after the start. 'writing': the next time a file is being written after that. 'end': `delay_s`
    after the last epoch.
    """

    kind: str
    delay_s: float


@dataclass
class Kill:
    """One kill and its consequences."""

    moment: Moment
    at_s: float  # after the start
    had_state: bool  # whether a checkpoint existed
    trained_steps: int = 0  # until then
    exit_s: float = 0.0  # until the trainer was gone
    resumed: bool = False
    needed_git: bool = False  # the same command was refused until git was back on its branch
    repeated_steps: int = 0


@dataclass
class Chain:
    """What happened in one chain. `problems` is empty if all went well."""

    scenario: Scenario
    kills: list[Kill] = field(default_factory=list)
    identical: bool = False
    csv_complete: bool = False
    runs: int = 0
    problems: list[str] = field(default_factory=list)


def draw_moment(rng: np.random.Generator, usual_s: float) -> Moment:
    """Half of them anywhere in the usual duration of a run, the others while a file is written or at the end."""
    kind = str(rng.choice(["any", "writing", "end"], p=[0.55, 0.3, 0.15]))
    longest_s = {"any": 0.8 * usual_s, "writing": 0.5 * usual_s, "end": 4.0}[kind]
    return Moment(kind, float(rng.uniform(0.3, longest_s)))


def run_chain(
    clone: Clone, scenario: Scenario, moments: list[Moment], expected: Outcome, report: Callable[[str], None]
) -> Chain:
    """Kills a training at each of `moments`, lets it finish and compares its outcome with `expected`."""
    drill = _Drill(clone, scenario, len(expected.rows), report)
    try:
        if not any(drill.attempt(moment) for moment in moments):
            drill.attempt(None)
        drill.compare(expected)
    finally:
        for process in processes(clone):
            process.kill()
    return drill.chain


class _Drill:
    """One chain while it runs."""

    def __init__(self, clone: Clone, scenario: Scenario, epochs: int, report: Callable[[str], None]) -> None:
        self.chain, self._epochs = Chain(scenario), epochs
        self._clone, self._scenario, self._report = clone, scenario, report
        self._log = clone.path.with_name(clone.name + ".log")
        self._read: dict[Path, int] = {}
        self._open_kills: list[Kill] = []  # not known yet whether training resumed after them
        if scenario.launcher not in EXPERIMENTS:
            set_seed(clone)

    def attempt(self, moment: Moment | None, after_git: bool = False) -> bool:
        """Starts the training and kills it at `moment`; True if it ended before that."""
        earlier = list(self._open_kills)
        launched = start(self._clone, self._scenario.launcher, self._log)
        text, killed = self._watch(launched, moment)
        self._note_resumption(earlier, text)
        if killed:
            return False
        if succeeded(self._clone, self._scenario.launcher, launched.returncode):
            for answered in self._open_kills:  # DVC had everything already
                answered.resumed = True
            return True
        if after_git or not self.chain.kills:
            self._problem(f"refused: {text.strip()[-600:]}")
            return True
        self.chain.kills[-1].needed_git = True
        return_to_branch(self._clone, self._scenario.launcher)
        return self.attempt(moment, after_git=True)

    def _problem(self, text: str) -> None:
        self.chain.problems.append(f"{self._scenario.name}: {text}")

    def _watch(self, launched: subprocess.Popen[bytes], moment: Moment | None) -> tuple[str, bool]:
        """(output of an attempt, whether it was killed)."""
        started_s, scanned_s, text, running = time.monotonic(), -1.0, "", list[psutil.Process]()
        poll_s = 0.001 if moment is not None and moment.kind == "writing" else 0.02
        has_victim = self._scenario.victim != "trainer"  # a trainer takes a while to appear
        while True:
            now_s = time.monotonic()
            if moment is not None and has_victim and self._is_due(moment, now_s - started_s):
                text += self._kill(moment, now_s - started_s, running, launched)
                return text, True
            if now_s - scanned_s > 0.5:
                running, scanned_s = processes(self._clone), now_s
                has_victim = has_victim or bool(trainers(running))
                text += self._new_text()
                if launched.poll() is not None and not running:
                    return text + self._new_text(), False
                if now_s - started_s > LONGEST_S:
                    self._problem(f"not done after {LONGEST_S:.0f} s")
                    return text, False
            time.sleep(poll_s)

    def _is_due(self, moment: Moment, elapsed_s: float) -> bool:
        if moment.kind == "end":
            if len(self._clone.rows()) < self._epochs:
                return False
            time.sleep(moment.delay_s)
            return True
        if elapsed_s < moment.delay_s:
            return False
        return moment.kind == "any" or any(self._clone.path.glob("checkpoints/*/.*.part"))

    def _kill(
        self, moment: Moment, at_s: float, running: list[psutil.Process], launched: subprocess.Popen[bytes]
    ) -> str:
        """Kills, waits as long as a user would, and returns the output until then."""
        if moment.kind != "writing":  # scanning for processes takes longer than writing a file
            running = processes(self._clone)
        kill(self._scenario.victim, running, launched.pid)
        done = Kill(moment, at_s, had_state=any(self._clone.path.glob("checkpoints/*/last.pt")))
        self.chain.kills.append(done)
        self._open_kills.append(done)
        timer = threading.Thread(target=self._time_exit, args=(done, trainers(running)))
        timer.start()
        if self._scenario.launcher == "queue" or self._scenario.victim in ("ctrl-c", "sigterm"):
            timer.join()
            _, alive = psutil.wait_procs(running, timeout=EXIT_S)
            for process in alive:
                self._problem(f"process {process.pid} did not exit")
                process.kill()
        try:
            launched.wait(
                LONGEST_S
            )  # then the terminal's prompt is back, and the same command is typed again
        except subprocess.TimeoutExpired:
            self._problem(f"{launched.args} still ran after {LONGEST_S:.0f} s")
        done.trained_steps = self._clone.trained_steps()
        self._report(f"{self._scenario.name:16} {moment.kind:8} at {at_s:5.1f} s")
        return self._new_text()

    def _time_exit(self, done: Kill, exiting: list[psutil.Process]) -> None:
        since_s = time.monotonic()
        _, alive = psutil.wait_procs(exiting, timeout=EXIT_S)
        done.exit_s = time.monotonic() - since_s
        if alive:
            self._problem(f"the trainer did not exit in {EXIT_S:.0f} s")

    def _new_text(self) -> str:
        """The terminal's output and that of DVC's workers since the last call."""
        new = ""
        for file in (self._log, *self._clone.path.glob(".dvc/tmp/exps/run/**/*.out")):
            with contextlib.suppress(FileNotFoundError):
                text = file.read_text(errors="replace")
                new += text[self._read.get(file, 0) :]
                self._read[file] = len(text)
        return new

    def _note_resumption(self, earlier: list[Kill], text: str) -> None:
        """Notes whether an attempt resumed after the `earlier` kills, and how many steps it repeated."""
        resumed = _RESUMED.search(text) is not None
        if resumed or _STARTED in text:
            for done in earlier:
                done.resumed = resumed or not done.had_state
                self._open_kills.remove(done)
            if earlier and "already finished" not in text:
                earlier[-1].repeated_steps = earlier[-1].trained_steps - _first_step(text)

    def compare(self, expected: Outcome) -> None:
        """Compares the chain's outcome with `expected`."""
        chain, clone = self.chain, self._clone
        chain.csv_complete = clone.rows() == expected.rows
        chain.runs, doubled = clone.tracked()
        if doubled:
            self._problem(f"{doubled} metric points were recorded twice")
        try:
            check_out_results(clone, self._scenario.launcher)
            outcome = clone.outcome()
            chain.identical = (outcome.weights, outcome.summary) == (expected.weights, expected.summary)
        except (OSError, subprocess.CalledProcessError) as error:
            self._problem(f"{error} {getattr(error, 'stdout', '')}")


def _first_step(text: str) -> int:
    """The optimizer steps before the one that a run resumed at, from its output; 0 if it started at epoch 1."""
    place = _PLACE.search(" ".join(text.split()))
    if place is None:
        return 0
    epochs, epoch, step, steps = (int(number or 0) for number in place.groups())
    return epochs * STEPS_PER_EPOCH if epoch == 0 else (epoch - 1) * steps + step
