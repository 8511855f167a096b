"""One trainer at a time in a checkpoint folder, and which process that is."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from stf.errors import CheckpointError, TrainingError
from stf.io.atomic import sweep
from stf.io.files import read_json
from stf.io.outputs import write_json

LOCK_WAIT_S = 30.0  # as long as a trainer that was asked to stop may take


@contextmanager
def locked(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Holds the folder. Waits LOCK_WAIT_S for another process to release it, then raises TrainingError naming it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            report(
                f"waiting up to {LOCK_WAIT_S:.0f} s for {_holder_of(folder)}, which trains this configuration"
            )
            lock.acquire(timeout=LOCK_WAIT_S)
    except Timeout:
        raise TrainingError(
            f"another process is training this configuration: {_holder_of(folder)} holds {folder}. Wait for it, or "
            "stop it (kill PID: it saves its state first), and run this again"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written: {error.strerror or error}; checkpoints are kept there, so change its "
            "permissions or free some space"
        ) from None
    try:
        sweep(folder)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": platform.node(), "started": started}
        write_json(folder / "trainer.json", holder)
        yield
    finally:
        lock.release()


def _holder_of(folder: Path) -> str:
    try:
        holder = read_json(folder / "trainer.json")
        if holder["host"] == platform.node() and not psutil.pid_exists(holder["pid"]):
            return "another process"  # the holder has not written its name yet
        return f"process {holder['pid']} on {holder['host']} (since {holder['started']})"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"
