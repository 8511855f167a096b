"""A command in one process or in several: torchrun starts those, or the command itself where STF_NPROC says so."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from stf.errors import PeerError, UsageError
from stf.io.distributed import World, open_world
from stf.io.values import shown

if TYPE_CHECKING:
    from stf.config import RuntimeParams

NPROC = "STF_NPROC"
MAX_DIGITS = 4


@contextlib.contextmanager
def open_processes() -> Iterator[World]:
    """The processes that run this command, see open_world. With STF_NPROC = N > 1 the command starts anew, N times.

    An environment variable, because `dvc repro` starts commands as dvc.yaml has them, and the number of GPUs is no
    parameter of a result. Raises UsageError when STF_NPROC is no whole number above 0.
    """
    count = os.environ.get(NPROC, "1")
    if not count.isdecimal() or len(count) > MAX_DIGITS or int(count) < 1:
        raise UsageError(
            f"{NPROC} is {shown(count)}; it must be the number of processes (GPUs) on this machine"
        )
    if int(count) > 1 and "WORLD_SIZE" not in os.environ:
        _start_again(int(count))
    with open_world() as world:
        yield world


def _start_again(n: int) -> NoReturn:
    """Is torchrun for `n` processes of this very command, and ends with the exit code of the first that failed.

    torchrun's own words on a failure, a traceback and a table, are left out: rank 0 has said what there is to say.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    command = sys.modules["__main__"].__spec__
    if command is None or not command.name.startswith("pipeline."):
        raise UsageError(f"{NPROC} is {n}, which works for `python -m pipeline.…` alone; use torchrun")
    logging.disable(logging.ERROR)
    try:
        torchrun(["--standalone", f"--nproc-per-node={n}", "-m", command.name, *sys.argv[1:]])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise PeerError(f"process {rank} was ended by signal {-failure.exitcode}") from None
        raise SystemExit(failure.exitcode) from None
    except SignalException as stopped:
        raise SystemExit(128 + stopped.sigval) from None
    raise SystemExit(0)


def set_up_runtime(runtime: RuntimeParams) -> str:
    """Sets torch's threads and deterministic kernels, and returns the device's name, "cuda" or "cpu"."""
    import torch

    if runtime.threads > 0:
        torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    if runtime.device != "auto":
        try:
            torch.zeros(1, device=runtime.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"runtime.device is {runtime.device!r}, which torch cannot use here: {reason}"
            ) from None
        return runtime.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def set_up_process(runtime: RuntimeParams, world: World) -> str:
    """set_up_runtime for one of several processes: "cuda" is then the GPU of this process alone.

    Raises UsageError when there are more processes than GPUs on this machine, or another device elsewhere.
    """
    device = set_up_runtime(runtime)
    if world.size > 1 and device != "cpu":
        import torch

        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise UsageError(f"{here} processes but {gpus} GPUs on this machine; start one process per GPU")
        if device != "cuda":
            raise UsageError(f"runtime.device is {device!r}, one GPU for all {here} processes; say cuda")
    world.require_same("the device", device)
    return device
