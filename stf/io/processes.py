"""A command in one process or in several, which torchrun starts, or the command itself when STF_NPROC is set."""

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
    """The processes that run this command, see open_world. With STF_NPROC = N > 1 it runs itself under torchrun.

    An environment variable, because `dvc repro` runs the commands of dvc.yaml unchanged, and the number of GPUs is not
    a parameter of a result. Raises UsageError when STF_NPROC is not a whole number above 0.
    """
    count = os.environ.get(NPROC, "1")
    if not count.isdecimal() or len(count) > MAX_DIGITS or int(count) < 1:
        raise UsageError(
            f"{NPROC} is {shown(count)}; set it to the number of processes (GPUs) on this machine, 1 or more"
        )
    if int(count) > 1 and "WORLD_SIZE" not in os.environ:
        _run_under_torchrun(int(count))
    with open_world() as world:
        yield world


def _run_under_torchrun(n: int) -> NoReturn:
    """Runs this command in `n` processes, and exits with the exit code of the first that failed.

    torchrun's own report of a failure, a traceback and a table, is left out: rank 0 has printed the error.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    command = sys.modules["__main__"].__spec__
    if command is None or not command.name.startswith("pipeline."):
        raise UsageError(f"{NPROC} is {n}, but only `python -m pipeline.…` can use it; run torchrun instead")
    logging.disable(logging.ERROR)
    try:
        torchrun(["--standalone", f"--nproc-per-node={n}", "-m", command.name, *sys.argv[1:]])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise PeerError(f"process {rank} was killed by signal {-failure.exitcode}") from None
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
                f"runtime.device is {runtime.device!r}, which torch cannot use on this machine: {reason}"
            ) from None
        return runtime.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def set_up_process(runtime: RuntimeParams, world: World) -> str:
    """set_up_runtime for one of several processes: "cuda" is then this process's own GPU.

    Raises UsageError when this machine has more processes than GPUs, or the processes use different devices.
    """
    device = set_up_runtime(runtime)
    if world.size > 1 and device != "cpu":
        import torch

        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise UsageError(f"{here} processes but {gpus} GPUs on this machine; start one process per GPU")
        if device != "cuda":
            raise UsageError(
                f"runtime.device is {device!r}, one GPU for all {here} processes; set runtime.device to cuda"
            )
    world.require_same("the device", device)
    return device
