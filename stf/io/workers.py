"""One function over many items in several processes, results in the order of the items."""

from __future__ import annotations

import ctypes
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
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 1 << 30


def settle_worker() -> None:
    """Makes this process one worker among several: no OpenCV threads, and memory that was freed is kept for next time.

    Else each clip's arrays are mapped and their pages zeroed anew: 5,000 page faults and 15 ms of a Video-SBI pair.
    """
    cv2.setNumThreads(0)  # OpenCV's own threads do not survive a fork
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc
        return
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(parameter, _KEPT_BYTES)


def _start_worker() -> None:
    settle_worker()
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
