"""One process per item: what kills a process (a decoder's crash, a lack of memory, an endless loop) costs its item."""

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
_LOOK_S = 0.2  # how late a passed time limit, or a wish to leave, may be seen


@dataclass(frozen=True)
class Died(Generic[ItemT]):
    """An item whose process ended without a result."""

    item: ItemT
    how: str


@dataclass(frozen=True)
class _Running(Generic[ItemT]):
    item: ItemT
    process: BaseProcess
    answer: Any  # the reading end of a pipe, whose type differs between platforms
    deadline_s: float


def orphaned(parent: int) -> bool:
    """Whether the process that started this one is gone: nobody would hear of the result."""
    return os.getppid() != parent


def run_isolated(
    function: Callable[[ItemT], ResultT],
    items: Sequence[ItemT],
    n_workers: int,
    limit_s: float,
    leave_if_asked: Callable[[], None] = lambda: None,
) -> Generator[ResultT | Died[ItemT]]:
    """Yields function(item), or how its process died, as they end; at most `n_workers` processes at a time.

    A process that takes longer than `limit_s` is killed. An StfError of the function is raised here, and those at work
    are ended, as they are when the caller stops asking. `leave_if_asked` is called several times a second and may
    raise: an error that a signal's handler raises by itself would be lost inside a fork.
    """
    # fork shares what is already loaded; elsewhere than on Linux it is unsafe or does not exist
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting, running = list(reversed(items)), []
    try:
        while waiting or running:
            leave_if_asked()
            while waiting and len(running) < max(1, n_workers):
                running.append(_start(context, function, waiting.pop(), limit_s))
            multiprocessing.connection.wait([at_work.answer for at_work in running], _LOOK_S)
            for at_work in list(running):
                if at_work.answer.poll() or time.monotonic() > at_work.deadline_s:
                    running.remove(at_work)
                    yield _ended(at_work, limit_s)
    finally:
        for at_work in running:
            _end(at_work)


def _start(
    context: BaseContext, function: Callable[[ItemT], ResultT], item: ItemT, limit_s: float
) -> _Running[ItemT]:
    here, there = multiprocessing.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, function, item))  # pyright: ignore[reportAttributeAccessIssue]
    process.start()
    there.close()  # the child's end is the only one left, so its death is heard
    return _Running(item, process, here, time.monotonic() + limit_s)


def _work(answer: Any, function: Callable[[ItemT], ResultT], item: ItemT) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    settle_worker()
    try:
        result: ResultT | StfError = function(item)
    except StfError as error:
        result = error
    with contextlib.suppress(BrokenPipeError):  # nobody is left to hear it
        answer.send(result)


def _ended(at_work: _Running[ItemT], limit_s: float) -> Any:
    if not at_work.answer.poll():
        _end(at_work)
        return Died(at_work.item, f"took longer than {limit_s:.0f} s and was stopped")
    try:
        result = at_work.answer.recv()
    except EOFError:
        at_work.process.join()
        return Died(at_work.item, f"the process died ({_how(at_work.process.exitcode)})")
    finally:
        _end(at_work)
    if isinstance(result, StfError):
        raise result
    return result


def _end(at_work: _Running[ItemT]) -> None:
    at_work.answer.close()
    at_work.process.join(0.2)
    if at_work.process.is_alive():
        at_work.process.kill()
    at_work.process.join()


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"
