"""A second process without the seconds that a new Python process takes for its imports."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


def forked(work: Callable[[], Any]) -> tuple[int, Any]:
    """Runs `work` in a fork of this process; returns its exit code (minus the signal that ended it) and its result."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(work()))
    process.start()
    sender.close()
    try:
        returned = receiver.recv()
    except EOFError:  # the process ended without a result
        returned = None
    process.join()
    assert process.exitcode is not None
    return process.exitcode, returned
