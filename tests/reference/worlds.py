"""Several processes as threads: everything of stf.io.distributed but torch's own transport.

Only one runs at a time, until it waits for the others, so the code under test need not be thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stf.io.distributed import World

T = TypeVar("T")


@dataclass
class _Exchange:
    """Where the threads leave their messages for each other."""

    size: int
    messages: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.written, self.read = threading.Barrier(self.size), threading.Barrier(self.size)
        self.turn = threading.Lock()


class ThreadWorld(World):
    """One thread, as a process."""

    exchange: _Exchange

    def _gather(self, message: Any) -> list[Any]:
        self.exchange.messages[self.rank] = message
        self.exchange.turn.release()
        try:
            self.exchange.written.wait(timeout=60)
            gathered = [self.exchange.messages[rank] for rank in range(self.size)]
            self.exchange.read.wait(timeout=60)
        finally:
            self.exchange.turn.acquire()
        return gathered


def play(size: int, part: Callable[[World], T]) -> list[T]:
    """part(world) for each rank; results by rank. Raises the exception of the lowest rank that failed."""
    exchange, worlds = _Exchange(size), [ThreadWorld(rank, size, rank) for rank in range(size)]

    def played(world: ThreadWorld) -> T:
        world.exchange = exchange
        with exchange.turn:
            return part(world)

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(played, world) for world in worlds]]
