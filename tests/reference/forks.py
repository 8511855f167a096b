"""A second process without the seconds that a new Python takes for its imports."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


def forked(work: Callable[[], Any]) -> tuple[int, Any]:
    """Does `work` in a copy of this process: (exit code, or minus the signal that ended it; what it returned)."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: theirs.send(work()))
    process.start()
    theirs.close()
    try:
        returned = ours.recv()
    except EOFError:  # it ended before that
        returned = None
    process.join()
    assert process.exitcode is not None
    return process.exitcode, returned
