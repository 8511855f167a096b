"""A chain: one training that is started, killed, started again, and in the end left to finish."""

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

from tests.drill.scratch import Outcome, Place, set_seed
from tests.drill.ways import EXPERIMENTS, Way, bring_in, kill, mend, processes, start, succeeded, trainers

GONE_S = 45.0  # a trainer that is asked to leave may take 30
LONGEST_S = 300.0
_STEP = re.compile(r"epoch (\d+)/\d+ +step (\d+)/\d+")


@dataclass(frozen=True)
class Moment:
    """When to kill: at 'any' time, `delay_s` after the start; then when a file is 'written'; `delay_s` after the 'end'
    of the last epoch."""

    kind: str
    delay_s: float


@dataclass
class Kill:
    """One kill and what came of it: `lost_steps` were trained again, `leave_s` until the trainer was gone."""

    moment: Moment
    at_s: float
    state_kept: bool
    leave_s: float = 0.0
    resumed: bool = False
    mended: bool = False
    lost_steps: int = 0


@dataclass
class Chain:
    """What happened in one chain; `trouble` is empty when all was as it should be."""

    way: Way
    kills: list[Kill] = field(default_factory=list)
    identical: bool = False
    csv_whole: bool = False
    runs: int = 0
    trouble: list[str] = field(default_factory=list)


def draw_moment(rng: np.random.Generator, usual_s: float) -> Moment:
    """Half of them spread over what is usually a run, the rest aimed at the writing of a file and at the end."""
    kind = str(rng.choice(["any", "writing", "end"], p=[0.55, 0.3, 0.15]))
    longest_s = {"any": 0.8 * usual_s, "writing": 0.5 * usual_s, "end": 4.0}[kind]
    return Moment(kind, float(rng.uniform(0.3, longest_s)))


def run_chain(
    place: Place, way: Way, moments: list[Moment], expected: Outcome, told: Callable[[str], None]
) -> Chain:
    """Kills a training at each of `moments`, lets it finish and compares what it leaves with `expected`."""
    drill = _Drill(place, way, len(expected.rows), told)
    try:
        if not any(drill.attempt(moment) for moment in moments):
            drill.attempt(None)
        drill.judge(expected)
    finally:
        for process in processes(place):
            process.kill()
    return drill.chain


class _Drill:
    """One chain while it runs."""

    def __init__(self, place: Place, way: Way, epochs: int, told: Callable[[str], None]) -> None:
        self.chain, self._epochs = Chain(way), epochs
        self._place, self._way, self._told = place, way, told
        self._log = place.path.with_name(place.name + ".log")
        self._read: dict[Path, int] = {}
        self._seen: set[tuple[str, str]] = set()
        self._unanswered: list[Kill] = []
        if way.launcher not in EXPERIMENTS:
            set_seed(place)

    def attempt(self, moment: Moment | None, mended: bool = False) -> bool:
        """Starts the training and kills it at `moment`; True when it came to its end before that."""
        before = list(self._unanswered)
        launched = start(self._place, self._way.launcher, self._log)
        text, killed = self._watch(launched, moment)
        self._take_note(before, text)
        if killed:
            return False
        if succeeded(self._place, self._way.launcher, launched.returncode):
            for answered in self._unanswered:  # DVC had all that it needed
                answered.resumed = True
            return True
        if mended or not self.chain.kills:
            self.chain.trouble.append(f"{self._way.name}: refused: {text.strip()[-600:]}")
            return True
        self.chain.kills[-1].mended = True
        mend(self._place, self._way.launcher)
        return self.attempt(moment, mended=True)

    def _watch(self, launched: subprocess.Popen[bytes], moment: Moment | None) -> tuple[str, bool]:
        """What an attempt prints, and whether it was killed."""
        started_s, scanned_s, text, running = time.monotonic(), -1.0, "", list[psutil.Process]()
        finest = moment is not None and moment.kind == "writing"
        there = self._way.victim != "trainer"  # only a trainer that is there can be killed
        while True:
            now_s = time.monotonic()
            if moment is not None and there and self._due(moment, now_s - started_s):
                text += self._kill(moment, now_s - started_s, running, launched)
                return text, True
            if now_s - scanned_s > 0.5:
                running, scanned_s = processes(self._place), now_s
                there = there or bool(trainers(running))
                text += self._new_text()
                if launched.poll() is not None and not running:
                    return text + self._new_text(), False
                if now_s - started_s > LONGEST_S:
                    self.chain.trouble.append(f"{self._way.name}: not done after {LONGEST_S:.0f} s")
                    return text, False
            time.sleep(0.001 if finest else 0.02)

    def _due(self, moment: Moment, elapsed_s: float) -> bool:
        if moment.kind == "end":
            return len(self._place.rows()) >= self._epochs and self._wait_on(moment.delay_s)
        if elapsed_s < moment.delay_s:
            return False
        return moment.kind == "any" or any(self._place.path.glob("checkpoints/*/.*.part"))

    def _wait_on(self, delay_s: float) -> bool:
        time.sleep(delay_s)
        return True

    def _kill(
        self, moment: Moment, at_s: float, running: list[psutil.Process], launched: subprocess.Popen[bytes]
    ) -> str:
        """Kills and waits as long as a user would; returns what was printed until then."""
        if moment.kind != "writing":  # there looking for new processes would take longer than the writing
            running = processes(self._place)
        kill(self._way.victim, running, launched.pid)
        done = Kill(moment, at_s, state_kept=any(self._place.path.glob("checkpoints/*/last.pt")))
        self.chain.kills.append(done)
        self._unanswered.append(done)
        measuring = threading.Thread(target=self._measure, args=(done, trainers(running)))
        measuring.start()
        if self._way.launcher == "queue" or self._way.victim in ("ctrl-c", "sigterm"):
            measuring.join()
            _, left = psutil.wait_procs(running, timeout=GONE_S)
            for process in left:
                self.chain.trouble.append(f"{self._way.name}: process {process.pid} did not leave")
                process.kill()
        try:
            launched.wait(LONGEST_S)  # the terminal's prompt is back: the same command is typed again
        except subprocess.TimeoutExpired:
            self.chain.trouble.append(f"{self._way.name}: {launched.args} went on for {LONGEST_S:.0f} s")
        self._told(f"{self._way.name:16} {moment.kind:8} at {at_s:5.1f} s")
        return self._new_text()

    def _measure(self, done: Kill, leaving: list[psutil.Process]) -> None:
        since_s = time.monotonic()
        _, left = psutil.wait_procs(leaving, timeout=GONE_S)
        done.leave_s = time.monotonic() - since_s
        if left:
            self.chain.trouble.append(f"{self._way.name}: the trainer did not leave in {GONE_S:.0f} s")

    def _new_text(self) -> str:
        """What the terminal and DVC's workers have printed since the last call."""
        new = ""
        for file in (self._log, *self._place.path.glob(".dvc/tmp/exps/run/**/*.out")):
            with contextlib.suppress(FileNotFoundError):
                text = file.read_text(errors="replace")
                new += text[self._read.get(file, 0) :]
                self._read[file] = len(text)
        return new

    def _take_note(self, before: list[Kill], text: str) -> None:
        """Whether an attempt went on where the kills `before` it had come, and what it trained again."""
        steps = set(_STEP.findall(text))
        went_on = "going on from" in text or "this training had finished" in text
        if went_on or "starting at epoch 1" in text:
            for done in before:
                done.resumed = went_on or not done.state_kept
                self._unanswered.remove(done)
            if before:
                before[-1].lost_steps = len(steps & self._seen)
        self._seen |= steps

    def judge(self, expected: Outcome) -> None:
        """Compares what the chain left with `expected`."""
        chain, place = self.chain, self._place
        chain.csv_whole = place.rows() == expected.rows
        chain.runs, doubled = place.tracked()
        if doubled:
            chain.trouble.append(f"{self._way.name}: {doubled} metric points were recorded twice")
        try:
            bring_in(place, self._way.launcher)
            found = place.outcome()
            chain.identical = (found.weights, found.summary) == (expected.weights, expected.summary)
        except (OSError, subprocess.CalledProcessError) as error:
            chain.trouble.append(f"{self._way.name}: {error} {getattr(error, 'stdout', '')}")
