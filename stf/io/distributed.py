"""The processes that torchrun started for one run: who is who, and how they share values and errors.

One process without torchrun is `ALONE`: there is no process group, and the functions below return what they are given.
With several, everything but gradients and weights goes through `World.all_gather`. A process that fails sends its error
instead of a value, so all of them stop with the same error, and rank 0, the only one with a console, prints it. Where
the others cannot receive it, because torch waits for every process (`World.synchronized`), it goes through torch's
store.

Tried with gloo on the CPUs of one machine; nccl, several GPUs and several machines were not available.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

from stf.errors import PeerError, StfError, UsageError

T = TypeVar("T")
_TIMEOUT = timedelta(hours=12)  # rank 0 may fill the face cache first; a process that dies is noticed at once
_POLL_S = 1.0
_GRACE_S = 5.0  # for a process that can stop by itself, with its files closed
_FAILURE = "stf/failure"  # the store's key: [message, exit code]
_PEER_GONE = "another process of this run has ended; its output, or torchrun's report, says why"


@dataclass(eq=False)
class World:
    """The processes of a run: this is number `rank` of `size`, and number `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    messages: Any = None  # torch's process group for all_gather: gloo, also where gradients go through nccl
    store: Any = None  # torch's key-value store
    ended: bool = False  # one process failed and all know it: nothing more is exchanged
    knows_failure: threading.Event = field(
        default_factory=threading.Event
    )  # `_watch` need not end this process

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, tracks the run and has the console."""
        return self.rank == 0

    def all_gather(self, value: T) -> list[T]:
        """Every process's value by rank; all must call it, the same number of times. Values must be picklable.

        Raises the StfError of the first process that failed instead, and PeerError when one failed otherwise or
        has gone.
        """
        if self.size == 1:
            return [value]
        gathered = self._gather((None, value))
        for error, _ in gathered:
            if error is not None:
                self._end()
                raise error
        return [value for _, value in gathered]

    def barrier(self) -> None:
        """Waits for every process; raises as all_gather does."""
        self.all_gather(None)

    def broadcast(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0; the others do not call it."""
        value = self.all_gather(make() if self.is_main else None)[0]
        return cast(T, value)

    def require_same(self, what: str, value: object) -> None:
        """Raises UsageError, naming `what`, when the processes' values differ."""
        values = self.all_gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise UsageError(
                    f"{what} is {other} for process {rank} and {values[0]} for process 0; every machine needs "
                    "the same files"
                )

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`: number rank, rank + size, rank + 2·size, …"""
        return items if self.size == 1 else items[self.rank :: self.size]

    def unshard(self, results: list[T]) -> list[T]:
        """The results for all items, in the items' order, from every process's results for its shard."""
        if self.size == 1:
            return results
        shards = self.all_gather(results)
        return [shards[i % self.size][i // self.size] for i in range(sum(map(len, shards)))]

    @contextlib.contextmanager
    def synchronized(self) -> Iterator[None]:
        """Around code in which torch waits for every process, such as DistributedDataParallel's backward pass.

        The waiting ones cannot receive an error; it is written to the store, where their `_watch` finds it and ends
        them. Raises PeerError when another process has gone.
        """
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            if _is_lost_connection(error):
                self._end()
                raise PeerError(_PEER_GONE) from None
            self.knows_failure.set()
            sent = _as_stf_error(error, self.rank)
            self.store.set(_FAILURE, json.dumps([str(sent), sent.exit_code]))
            raise

    def _gather(self, message: Any) -> list[Any]:
        import torch.distributed as dist  # takes seconds, which a single process need not wait

        gathered: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(gathered, message, group=self.messages)
        except RuntimeError:  # torch's network errors are of this kind
            self._end()
            raise PeerError(_PEER_GONE) from None
        return gathered

    def _end(self) -> None:
        self.ended = True
        self.knows_failure.set()

    def _leave(self, error: BaseException | None) -> None:
        """Sends this process's error to the others, and lets rank 0 print it: the others end by SystemExit."""
        self.knows_failure.set()
        if error is None:
            return
        if self.is_main:  # torchrun sends SIGTERM when another process has ended; this one still has to print
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        interrupted = isinstance(error, KeyboardInterrupt)  # a Ctrl-C reaches every process by itself
        if not self.ended and not interrupted:
            with contextlib.suppress(PeerError):
                self._gather((_as_stf_error(error, self.rank), None))
        self._end()
        if self.is_main:
            return
        if not isinstance(error, StfError | KeyboardInterrupt):
            traceback.print_exception(error)
        if not interrupted:
            with contextlib.suppress(PeerError):  # waits for rank 0's end: torchrun ends all after the first
                self._gather((_as_stf_error(error, self.rank), None))
        raise SystemExit(error.exit_code if isinstance(error, StfError) else 1) from None


ALONE = World()


@contextlib.contextmanager
def open_world() -> Iterator[World]:
    """The processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_*), or ALONE without it.

    A process leaves the block when all have come to its end. Ranks above 0 write nothing to the console, and end by
    SystemExit when the block of any process raises. Where there are GPUs, "cuda" is this process's own from here on.
    Raises PeerError when the processes cannot connect.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    world = _join()
    with contextlib.nullcontext() if world.is_main else _silence():
        try:
            yield world
            world.barrier()
        finally:
            world._leave(sys.exception())


def _join() -> World:
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    local_rank, on_cuda = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    try:
        store, rank, size = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        messages = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:  # ValueError: one of torchrun's variables is missing
        raise PeerError(f"the processes cannot connect to each other: {error}") from None
    # not at the end of the block: rank 0 prints an error after it, and torchrun ends rank 0 when others end first
    atexit.register(dist.destroy_process_group)
    signal.signal(signal.SIGINT, _interrupt_once)
    world = World(rank, size, local_rank, messages, store)
    threading.Thread(target=_watch, args=(world, store.clone()), daemon=True, name="peers").start()
    return world


def _watch(world: World, store: Any) -> None:
    """Ends this process when another one failed while this one waits for it in `World.synchronized`.

    Nothing can interrupt that wait: not a signal, and gloo not even an abort of its group. Rank 0 prints the error.
    `store` is a connection of this thread's own.
    """
    while not world.knows_failure.wait(_POLL_S):
        try:
            failed = store.check([_FAILURE])
        except RuntimeError:  # the store has gone, with the process that holds it
            return
        if failed and not world.knows_failure.wait(_GRACE_S):
            message, exit_code = json.loads(store.get(_FAILURE))
            if world.is_main:
                print(f"error: {message}", file=sys.stderr, flush=True)
            os._exit(exit_code)


def _is_lost_connection(error: Exception) -> bool:
    import torch.distributed as dist

    # gloo raises a plain RuntimeError, with its source file's path
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


def _as_stf_error(error: BaseException, rank: int) -> StfError:
    """The error as the other processes can raise it."""
    if isinstance(error, StfError):
        return error
    return PeerError(f"process {rank} failed: {type(error).__name__}: {error}")


def _interrupt_once(signum: int, frame: FrameType | None) -> NoReturn:
    """A terminal's Ctrl-C comes twice, from it and from torchrun: the second must not break the cleaning up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No output but the tracebacks of programming errors."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with open(os.devnull, "w", encoding="utf-8") as devnull, contextlib.redirect_stdout(devnull):
        yield
