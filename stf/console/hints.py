"""Error hints: what the machine refused, in one line, with the parameters to change."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from stf.config import Params
from stf.errors import StfError, TrainingError


@dataclass(frozen=True)
class _Refusal:
    """What an error's text looks like, what it means, and which of `_remedies` help."""

    pattern: str
    what: str
    remedies: tuple[str, ...]


# The first that matches: torch raises all of them as RuntimeError, in its own words or in C++'s.
_REFUSALS = (
    _Refusal(
        r"killed by signal: Bus error|/dev/shm|shared memory|torch_shm_manager|</?torch_\d+",
        "a loader worker ran out of shared memory (/dev/shm)",
        ("shm", "workers", "batch"),
    ),
    _Refusal(
        r"Too many open files|ancdata",
        "too many files are open at once",
        ("files", "workers"),
    ),
    _Refusal(
        r"killed by signal: Killed",
        "a loader worker was killed, as happens when a machine or container runs out of memory",
        ("workers", "batch"),
    ),
    _Refusal(
        r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        "the GPU's memory is full",
        ("checkpointing", "batch"),
    ),
    _Refusal(
        r"DefaultCPUAllocator|not enough memory|bad_alloc|[Ii]nsufficient memory|Cannot allocate memory"
        r"|Unable to allocate|MemoryError|can't start new thread",
        "this machine's memory is full",
        ("workers", "checkpointing", "batch"),
    ),
    _Refusal(
        r"DataLoader worker .*killed",
        "a loader worker ended unexpectedly",
        ("workers",),
    ),
    _Refusal(  # reaped by whoever waited for its batch, before torch's handler saw what killed it
        r"DataLoader worker .*exited",
        "a loader worker ended, perhaps killed because the machine or container ran out of memory",
        ("workers", "batch"),
    ),
)
_BEHIND_DATA_ERROR = re.compile(r"Too many open files|Cannot allocate memory")
_FROM_WORKER = re.compile(r"^Caught \w+ in DataLoader worker process \d+\.\n")


@contextlib.contextmanager
def explained(params: Params, folder: Path, place: Callable[[], str]) -> Iterator[None]:
    """Around `fit`: what the machine refused becomes a TrainingError of one line, with the parameters to lower.

    `place` returns how far training has come ('in epoch 2, after step 3 of 10'), `folder` holds its state. A loader
    worker's error loses the traceback that torch puts into its message. Any other error goes through.
    """
    try:
        with _raised_once():
            yield
    except (StfError, RuntimeError, MemoryError, OSError, EOFError, cv2.error) as error:
        refusal = _refusal_of(error, params.runtime.num_workers)
        if refusal is None and isinstance(error, StfError) and _FROM_WORKER.match(str(error)):
            raise type(error)(_last_line(error)) from error
        if refusal is None:
            raise
        suggestions = [remedy for name in refusal.remedies for remedy in _remedies(params)[name]]
        raise TrainingError(
            f"{refusal.what}, {place()} ({_last_line(error)}). What helps: {'; or '.join(suggestions)}. "
            f"{_left_in(folder)}"
        ) from error


@contextlib.contextmanager
def _raised_once() -> Iterator[None]:
    """torch raises a worker's death in whatever runs at that moment, and again with the next batch.

    Where Python has to ignore an exception, as in a callback of fork's, it prints a traceback: not of this one.
    """
    print_unraisable = sys.unraisablehook

    def print_others(unraisable: sys.UnraisableHookArgs) -> None:
        if not re.match(r"DataLoader worker \(pid", str(unraisable.exc_value)):
            print_unraisable(unraisable)

    sys.unraisablehook = print_others
    try:
        yield
    finally:
        sys.unraisablehook = print_unraisable


def _refusal_of(error: Exception, num_workers: int) -> _Refusal | None:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, StfError) and not _BEHIND_DATA_ERROR.search(text):
        return None
    if isinstance(error, OSError) and error.filename is not None and error.errno != errno.EMFILE:
        return None  # one of our files, which the error names
    if isinstance(error, ConnectionError | EOFError) and num_workers:  # it was about to deliver a batch
        return _REFUSALS[-1]
    return next((each for each in _REFUSALS if re.search(each.pattern, text)), None)


def _remedies(params: Params) -> dict[str, list[str]]:
    """What to change, with the values of now; nothing where a value is as low as it can be."""
    training, runtime = params.training, params.runtime
    batch, accum, workers = training.batch_size, training.grad_accum, runtime.num_workers
    smaller = batch // 4 * 2
    lower = f"lower training.batch_size (now {batch}) to {smaller} with training.grad_accum {2 * accum} (now {accum})"
    return {
        "workers": [f"lower runtime.num_workers (now {workers})"] * (workers > 0),
        "checkpointing": ["set runtime.activation_checkpointing: true"]
        * (not runtime.activation_checkpointing),
        "batch": [f"{lower}, which starts again at epoch 1"] * (smaller > 0),
        "shm": ["give the container more of it (docker run --shm-size=8g)"],
        "files": ["raise the limit (ulimit -n)"],
    }


def _left_in(folder: Path) -> str:
    last = folder / "last.pt"
    if not last.exists():
        return "No state was saved yet: the same command starts at epoch 1"
    return f"{last} is untouched: the same command resumes from it"


def _last_line(error: BaseException) -> str:
    """An error's own words: of a worker's, which brings a traceback, without it and without the type's name."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if not _FROM_WORKER.match(str(error)):
        return lines[0][:200]
    return re.sub(r"^[\w.]+: ", "", lines[-1])
