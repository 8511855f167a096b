"""Distributes inputs to worker processes, kills those that hang, and counts the outcomes."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tests.fuzz.kinds import SLOW

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0  # a worker imports torch, MLflow and the rest
COLUMNS = ("inputs", "refused", "accepted", "tracebacks", "hangs", "outside writes", "code run")


@dataclass
class Tally:
    """The counts of one kind, and its failures: ("KIND:SEED", column, detail)."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLUMNS, 0))
    failures: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, name: str, answer: dict[str, Any]) -> None:
        """Counts one answer of a worker."""
        self.counts["inputs"] += 1
        outcome = answer["outcome"]
        if outcome in ("refused", "accepted"):
            self.counts[outcome] += 1
        else:
            self._fail(name, f"{outcome}s", answer["detail"])
        if answer["writes"]:
            self._fail(name, "outside writes", "; ".join(answer["writes"][:5]))
        if answer["runs"]:
            self._fail(name, "code run", "; ".join(answer["runs"][:5]))

    def _fail(self, name: str, column: str, detail: str) -> None:
        self.counts[column] += 1
        self.failures.append((name, column, detail))


class _Worker:
    """One process, restarted after it was killed or died."""

    def __init__(self, scratch: Path, kinds: Sequence[str], limit_s: float) -> None:
        self._scratch, self._kinds, self._limit_s, self._started = scratch, kinds, limit_s, 0
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, name: str) -> dict[str, Any]:
        """Runs one input and returns its outcome."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(f"{name}\n".encode())
        process.stdin.flush()
        limit_s = self._limit_s * SLOW.get(name.rpartition(":")[0], 1.0)
        line = self._line(process, limit_s)
        if line is None:
            self.end()
            return _failure("hang", f"no answer within {limit_s:g} s")
        if not line:
            code = process.wait()
            self.end()
            return _failure("traceback", f"the process died (exit code {code})")
        return json.loads(line)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._started += 1
            folder = self._scratch / f"{threading.get_ident()}-{self._started}"
            folder.mkdir(parents=True)
            environment = os.environ | {
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
            }
            self._process = subprocess.Popen(
                (sys.executable, "-m", "tests.fuzz.worker", str(folder), *self._kinds),
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            if self._line(self._process, START_S) != b"ready\n":
                raise RuntimeError(
                    "a worker did not start; run `python -m tests.fuzz.worker FOLDER` to see why"
                )
        return self._process

    @staticmethod
    def _line(process: subprocess.Popen[bytes], limit_s: float) -> bytes | None:
        """Reads one line of the process's answers; None after the limit, b"" when the process is gone."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(limit_s):
                return None
        return process.stdout.readline()

    def end(self) -> None:
        """Kills the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _failure(outcome: str, detail: str) -> dict[str, Any]:
    return {"outcome": outcome, "detail": detail, "writes": [], "runs": []}


def run_inputs(
    names: Sequence[str],
    scratch: Path,
    *,
    workers: int,
    limit_s: float,
    progress: Callable[[int], Any] = lambda done: None,
) -> dict[str, Tally]:
    """Runs the inputs "KIND:SEED" in `workers` processes below `scratch`, which contains good/; {kind: its tally}."""
    queue: SimpleQueue[str] = SimpleQueue()
    for name in names:
        queue.put(name)
    tallies: dict[str, Tally] = {}
    kinds, lock = sorted({name.rpartition(":")[0] for name in names}), threading.Lock()

    def work() -> None:
        worker = _Worker(scratch, kinds, limit_s)
        try:
            while True:
                name = queue.get_nowait()
                answer = worker.ask(name)
                with lock:
                    tallies.setdefault(name.rpartition(":")[0], Tally()).add(name, answer)
                    progress(sum(tally.counts["inputs"] for tally in tallies.values()))
        except Empty:
            return
        finally:
            worker.end()

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work) for _ in range(workers)]:
            future.result()
    return tallies
