"""Brings what a run says to the store, in order; while the store does not take it, it is kept in a journal on disk.

A run must not fail, nor wait for minutes, because of its MLflow store. Metrics are always written down first and sent
in batches, so a process that is killed loses none. Everything else is sent at once; should that fail, it is written
down as well, and from then on the store is tried again now and then, and at the end.
"""

from __future__ import annotations

import time

import click

from stf.errors import TrackingError
from stf.tracking.journal import Journal
from stf.tracking.memory import RunMemory
from stf.tracking.operations import End, Operation, Points, Start, Target
from stf.tracking.store import ANSWER_WAIT_S, failure, named_failures, open_store

FLUSH_EVERY_S = 5.0
RETRY_EVERY_S = 60.0
SEND_COMMAND = "python -m pipeline.send_runs"
_FLUSH_EVERY_POINTS = 400  # one batch of 400 costs the SQLite store as much as a dozen single calls
_RETRY_WAIT_S = 2.0  # for the store's answer: a training step waits for it
_RETRY_SHARE = (
    0.05  # of the run's time: a server that takes a request and never answers it costs 40 s each time
)


class Delivery:
    """The way of one run's operations to the store. All that it knows of the run it keeps in `memory`."""

    def __init__(self, journal: Journal, memory: RunMemory) -> None:
        self._journal, self._memory = journal, memory
        self._start: Start | None = None  # the last that the store took: the journal must begin with one
        self._target: Target | None = None  # None while the store does not answer
        self._waiting: list[tuple[str, float, int, int]] = []  # points in the journal that were not sent yet
        self._flushed_at_s = self._next_try_s = time.monotonic()
        self._is_told = False

    def begin(self, start: Start) -> None:
        """Starts the run or goes on with it, after what an earlier part of it left in the journal."""
        for op in self._journal.read():
            self._note(op)
        self._memory.save()  # first: a journal that nobody remembers would be another run
        self._journal.append(start)
        self._try_again(ANSWER_WAIT_S)

    def add(self, points: Points) -> None:
        """Takes points of metrics; they are sent in batches."""
        self._journal.append(points)
        if self._target is not None:
            self._waiting += points.points
        if time.monotonic() - self._flushed_at_s > FLUSH_EVERY_S or len(self._waiting) >= _FLUSH_EVERY_POINTS:
            self.flush()

    def do(self, op: Operation) -> None:
        """Sends an operation, after all points before it, or writes it down."""
        self.flush()
        if self._target is None or not self._sent(self._target, op):
            self._journal.append(op)

    def flush(self) -> None:
        """Sends the points that wait, or tries the store again when it is time to."""
        self._flushed_at_s = time.monotonic()
        self._memory.save()
        if self._target is None:
            self._journal.sync()
            if time.monotonic() >= self._next_try_s:
                self._try_again(_RETRY_WAIT_S)
        elif self._waiting and self._sent(self._target, Points(self._waiting)):
            self._waiting = []
            self._leave([])

    def end(self, end: End) -> None:
        """Ends the run and closes the journal; says what is left there and how to send it."""
        self.do(end)
        if self._target is None:
            self._try_again(_RETRY_WAIT_S)
        self._memory.save()
        if self._target is not None:
            self._journal.remove()
            return
        self._journal.sync()
        self._journal.close()
        click.secho(
            f"{self._journal.folder} holds what the MLflow store at {self._memory.store} has yet to be told: "
            f"{SEND_COMMAND}",
            fg="yellow",
        )

    def send_all(self, wait_s: float = ANSWER_WAIT_S) -> None:
        """Sends the whole journal; raises TrackingError, and leaves there what was not sent, when the store fails."""
        ops, done = self._journal.read(), 0
        target = Target(open_store(wait_s), self._memory.run_id)
        try:
            for op in ops:
                self._apply(op, target)
                self._note(op)
                done += 1
        finally:
            self._leave(ops[done:])
        self._target, self._waiting = target, []

    def _try_again(self, wait_s: float) -> None:
        began_s = time.monotonic()
        try:
            self.send_all(wait_s)
        except TrackingError as error:
            self._lost(error, time.monotonic() - began_s)
        else:
            if self._is_told:
                click.echo("the MLflow store answers again; what was kept for it is sent")
            self._is_told = False

    def _sent(self, target: Target, op: Operation) -> bool:
        began_s = time.monotonic()
        try:
            self._apply(op, target)
        except TrackingError as error:
            self._lost(error, time.monotonic() - began_s)
            return False
        return True

    def _apply(self, op: Operation, target: Target) -> None:
        """Does it; raises TrackingError when the store fails."""
        try:
            with named_failures(target.store.uri):
                op.apply(target)
        except OSError as error:  # of the folder of the artifacts, or of the connection to it
            raise failure(target.store.uri, error) from error
        if isinstance(op, Start):
            self._start = op
            if target.run_id != self._memory.run_id:
                self._memory.steps.clear()  # of a run that was deleted
                self._memory.run_id = target.run_id
                self._memory.save()

    def _note(self, op: Operation) -> None:
        for key, _, _, step in op.points if isinstance(op, Points) else ():
            self._memory.is_new(key, step)

    def _leave(self, ops: list[Operation]) -> None:
        """What the journal still has to hold, after the start that was sent last."""
        starts = [self._start] if self._start is not None and not (ops and isinstance(ops[0], Start)) else []
        self._journal.replace([*starts, *ops])

    def _lost(self, error: TrackingError, after_s: float) -> None:
        self._target, self._waiting = None, []
        self._next_try_s = time.monotonic() + max(RETRY_EVERY_S, after_s / _RETRY_SHARE)
        if not self._is_told:
            self._is_told = True
            click.secho(
                f"{error}. The run goes on; what MLflow is to be told is kept in {self._journal.folder}",
                fg="yellow",
            )
