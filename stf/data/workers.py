"""One function over many items in several processes, results in the order of the items."""

from __future__ import annotations

import functools
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import cv2

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def _start_worker() -> None:
    cv2.setNumThreads(0)  # each process is one worker; OpenCV's own threads do not survive a fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer


def parallel_map(
    function: Callable[..., ResultT], items: Sequence[ItemT], n_workers: int, *fixed: Any, chunksize: int = 0
) -> Iterator[ResultT]:
    """Yields function(*fixed, item) for each item, computed by `n_workers` processes (0 or 1: by this one).

    A process takes `chunksize` items at a time, 0 for up to 8; an interrupted call ends when those at work are done.
    An exception of the function is raised here. `function` must be importable by name, as pickling wants it.
    """
    call = functools.partial(function, *fixed) if fixed else function
    if n_workers <= 1 or len(items) < 2:
        yield from map(call, items)
        return
    # fork shares what is already imported; elsewhere than on Linux it is unsafe or does not exist
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    n_workers = min(n_workers, len(items))
    with ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            yield from pool.map(
                call, items, chunksize=chunksize or max(1, min(8, len(items) // (4 * n_workers)))
            )
        finally:
            pool.shutdown(cancel_futures=True)
