"""Several processes that work on one thing, started by torchrun: who is who, and how they tell each other.

One process (no torchrun) is `ALONE`: no process group exists, and every function below hands back what it was given.
With more, what a process has to say goes through one kind of message, `World.exchange`: every process gives a value and
gets everybody's. A process that fails gives its error instead, wherever the others wait, so all of them stop with the
same error, and rank 0, which alone talks to the user, prints it. Gradients aside, nothing else is sent.

Tried with gloo on the CPUs of one machine. nccl, several GPUs and several machines could not be tried where this was
written: what they need is torch's own (init_process_group, all_gather_object, all_reduce).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

from stf.errors import PeerError, StfError, UsageError

T = TypeVar("T")
_PATIENCE = timedelta(
    hours=12
)  # rank 0 may fill the face cache first; a process that dies is noticed at once


@dataclass(eq=False)
class World:
    """The processes of a run: this is number `rank` of `size`, and number `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    messages: Any = None  # torch's process group for `exchange`
    ended: bool = False  # somebody failed, and all know it: nothing more is exchanged

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, tracks the run and talks to the user."""
        return self.rank == 0

    def exchange(self, value: T) -> list[T]:
        """Every process's value by rank; all must call it, the same number of times. Values must be picklable.

        Raises the StfError of the first process that failed instead, and PeerError when one failed otherwise or
        has gone.
        """
        if self.size == 1:
            return [value]
        told = self._gather((None, value))
        for error, _ in told:
            if error is not None:
                self.ended = True
                raise error
        return [value for _, value in told]

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0; the others do not call it."""
        value = self.exchange(make() if self.is_main else None)[0]
        return cast(T, value)

    def require_same(self, what: str, value: object) -> None:
        """Raises UsageError, naming `what`, when the processes do not all give the same value."""
        values = self.exchange(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise UsageError(
                    f"{what} is {other} for process {rank} and {values[0]} for process 0; every machine needs "
                    "the same files"
                )

    def share(self, n: int) -> slice:
        """This process's part of `n` things in a row; the first ranks take one more where it does not come out."""
        whole, rest = divmod(n, self.size)
        start = self.rank * whole + min(self.rank, rest)
        return slice(start, start + whole + (self.rank < rest))

    def dealt(self, things: Sequence[T]) -> Sequence[T]:
        """Every size-th of `things`, one after the other like cards; `in_order` puts the results together."""
        return things if self.size == 1 else things[self.rank :: self.size]

    def in_order(self, results: list[T]) -> list[T]:
        """The results for all `things`, in their order, where each process gives those of the ones it was dealt."""
        if self.size == 1:
            return results
        hands = self.exchange(results)
        return [hands[i % self.size][i // self.size] for i in range(sum(map(len, hands)))]

    def _gather(self, message: Any) -> list[Any]:
        import torch.distributed as dist  # seconds, which one process alone need not wait

        gathered: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(gathered, message, group=self.messages)
        except RuntimeError:  # torch's network errors are of this kind
            self.ended = True
            raise PeerError("another process of this run has gone; its own output says why") from None
        return gathered

    def _leave(self, error: BaseException | None) -> None:
        """The last word of a process: tells the others of its error, and lets rank 0 be the one that prints it."""
        if error is None:
            return
        interrupted = isinstance(error, KeyboardInterrupt)  # a Ctrl-C reaches every process by itself
        if not self.ended and not interrupted:
            with contextlib.suppress(PeerError):
                self._gather((_tellable(error, self.rank), None))
        self.ended = True
        if self.is_main:
            return
        if not isinstance(error, StfError | KeyboardInterrupt):
            traceback.print_exception(error)
        if not interrupted:
            with contextlib.suppress(
                PeerError
            ):  # returns when rank 0 has gone: torchrun ends all with the first
                self._gather((None, None))
        raise SystemExit(error.exit_code if isinstance(error, StfError) else 1) from None


ALONE = World()


@contextlib.contextmanager
def open_world() -> Iterator[World]:
    """The processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_*), or ALONE without it.

    Nobody leaves the block before all are through it. Ranks above 0 write nothing to the console, and end by
    SystemExit when anybody's block raises. Where there are GPUs, "cuda" means this process's own one from here on.
    Raises PeerError when the processes do not find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    world = _join()
    with contextlib.nullcontext() if world.is_main else _silence():
        try:
            yield world
            world.exchange("done")
        finally:
            world._leave(sys.exception())


def _join() -> World:
    import torch
    import torch.distributed as dist

    rank, size, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
        messages = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:  # ValueError: one of torchrun's variables is missing
        raise PeerError(f"the processes did not find each other: {error}") from None
    # not at the end of the block: rank 0 prints an error after it, and is ended by torchrun when others go first
    atexit.register(dist.destroy_process_group)
    signal.signal(signal.SIGINT, _interrupt_once)
    return World(rank, size, local_rank, messages)


def _interrupt_once(signum: int, frame: FrameType | None) -> NoReturn:
    """A terminal's Ctrl-C comes twice, from it and from torchrun: the second must not break the cleaning up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No output but the tracebacks of programming errors."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _tellable(error: BaseException, rank: int) -> StfError:
    if isinstance(error, StfError):
        return error
    return PeerError(f"process {rank} failed: {type(error).__name__}: {error}")
