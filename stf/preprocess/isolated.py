"""Runs each item in its own process: a crash, a lack of memory or an endless loop fails only that item."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from stf.errors import StfError
from stf.io.workers import settle_worker

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_POLL_S = 0.2  # interval of checks for time limits and interrupts


@dataclass(frozen=True)
class Died(Generic[ItemT]):
    """An item whose process ended without a result."""

    item: ItemT
    reason: str


@dataclass(frozen=True)
class _Running(Generic[ItemT]):
    item: ItemT
    process: BaseProcess
    receiver: Any  # the reading end of a pipe; its type depends on the platform
    deadline_s: float


def orphaned(parent: int) -> bool:
    """Tells whether the process that started this one is gone, so that nobody would receive the result."""
    return os.getppid() != parent


def run_isolated(
    function: Callable[[ItemT], ResultT],
    items: Sequence[ItemT],
    n_workers: int,
    limit_s: float,
    check_interrupt: Callable[[], None] = lambda: None,
) -> Generator[ResultT | Died[ItemT]]:
    """Yields function(item), or Died, in order of completion; at most `n_workers` processes at a time.

    A process that takes longer than `limit_s` is killed. An StfError of the function is raised here. Running processes
    are then ended, as they are when the caller closes the generator. `check_interrupt` is called several times a second
    and may raise; an error raised by a signal handler itself would be lost inside a fork.
    """
    # fork shares what is already loaded; on other systems than Linux it is unsafe or missing
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting, running = list(reversed(items)), []
    try:
        while waiting or running:
            check_interrupt()
            while waiting and len(running) < max(1, n_workers):
                running.append(_start(context, function, waiting.pop(), limit_s))
            multiprocessing.connection.wait([running_item.receiver for running_item in running], _POLL_S)
            for running_item in list(running):
                if running_item.receiver.poll() or time.monotonic() > running_item.deadline_s:
                    running.remove(running_item)
                    yield _collect(running_item, limit_s)
    finally:
        for running_item in running:
            _stop(running_item)


def _start(
    context: BaseContext, function: Callable[[ItemT], ResultT], item: ItemT, limit_s: float
) -> _Running[ItemT]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, item))  # pyright: ignore[reportAttributeAccessIssue]
    process.start()
    sender.close()  # only the child holds the sending end now, so its death closes the pipe
    return _Running(item, process, receiver, time.monotonic() + limit_s)


def _work(sender: Any, function: Callable[[ItemT], ResultT], item: ItemT) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    settle_worker()
    try:
        result: ResultT | StfError = function(item)
    except StfError as error:
        result = error
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        sender.send(result)


def _collect(running_item: _Running[ItemT], limit_s: float) -> Any:
    if not running_item.receiver.poll():
        _stop(running_item)
        return Died(running_item.item, f"took longer than {limit_s:.0f} s and was stopped")
    try:
        result = running_item.receiver.recv()
    except EOFError:
        running_item.process.join()
        return Died(running_item.item, f"the process died ({_exit_reason(running_item.process.exitcode)})")
    finally:
        _stop(running_item)
    if isinstance(result, StfError):
        raise result
    return result


def _stop(running_item: _Running[ItemT]) -> None:
    running_item.receiver.close()
    running_item.process.join(0.2)
    if running_item.process.is_alive():
        running_item.process.kill()
    running_item.process.join()


def _exit_reason(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"
