"""One trainer at a time in a folder of checkpoints, and who that is."""

from __future__ import annotations

import json
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
from stf.models.checkpoint_file import write_atomically

LOCK_WAIT_S = 30.0  # as long as a trainer that was told to leave may take


@contextmanager
def locked(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Holds the folder. Waits LOCK_WAIT_S for another process to leave, then raises TrainingError naming it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            tell(
                f"waiting up to {LOCK_WAIT_S:.0f} s for {_trainer(folder)}, which trains this very configuration"
            )
            lock.acquire(timeout=LOCK_WAIT_S)
    except Timeout:
        raise TrainingError(
            f"another process is training this configuration: {_trainer(folder)} holds {folder}. Wait for it, or "
            "end it (kill PID: it keeps its state first), and run this again"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written: {error.strerror or error}; checkpoints are kept there"
        ) from None
    try:
        sweep(folder)
        _sign(folder)
        yield
    finally:
        lock.release()


def _sign(folder: Path) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": platform.node(), "started": now}
    write_atomically(folder / "trainer.json", json.dumps(holder).encode())


def _trainer(folder: Path) -> str:
    try:
        holder = read_json(folder / "trainer.json")
        if holder["host"] == platform.node() and not psutil.pid_exists(holder["pid"]):
            return "another process"  # the holder has not signed yet
        return f"process {holder['pid']} on {holder['host']} (since {holder['started']})"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"
