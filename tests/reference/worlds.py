"""Several processes played by threads: everything of stf.io.distributed but torch's own transport.

Only one plays at a time, till it waits for the others: code that processes share nothing of need not be thread-safe.
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
class _Table:
    """Where the players lay down what they exchange."""

    size: int
    messages: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.laid, self.taken = threading.Barrier(self.size), threading.Barrier(self.size)
        self.turn = threading.Lock()


class PlayedWorld(World):
    """One player."""

    table: _Table

    def _gather(self, message: Any) -> list[Any]:
        self.table.messages[self.rank] = message
        self.table.turn.release()
        try:
            self.table.laid.wait(timeout=60)
            gathered = [self.table.messages[rank] for rank in range(self.size)]
            self.table.taken.wait(timeout=60)
        finally:
            self.table.turn.acquire()
        return gathered


def play(size: int, part: Callable[[World], T]) -> list[T]:
    """part(world) for each rank; results by rank. An exception of rank 0 comes before the others'."""
    table, worlds = _Table(size), [PlayedWorld(rank, size, rank) for rank in range(size)]

    def played(world: PlayedWorld) -> T:
        world.table = table
        with table.turn:
            return part(world)

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(played, world) for world in worlds]]
