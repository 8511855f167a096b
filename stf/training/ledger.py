"""The ledger: what was spent, on disk, as a folder with one small record per process that trained.

A record is rewritten in place, 512 bytes at once, which disks and file systems write completely or not at all. Only its
own process writes it, so two that train at the same time cannot overwrite each other's cost, and the sum of a folder's
records was spent, however the processes ended. An fsync every FSYNC_S guards against a power failure; against kill -9
the write is enough, because the kernel then has the data.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from stf.errors import TrainingError
from stf.io.atomic import sync_folder
from stf.io.files import read_bounded, read_json

BEAT_S = 0.5
FSYNC_S = 30.0
_RECORD_BYTES = 512
_MAX_BYTES = 4096
_MAX_AGE_S = 600.0
_log = logging.getLogger(__name__)


def process_age_s() -> float:
    """Seconds since this process began: its imports ran on a rented machine too.

    Some sandboxes' kernels report the machine's start time as the process's: an age above any import time counts as 0.
    """
    age_s = time.time() - psutil.Process().create_time()
    return age_s if 0 <= age_s <= _MAX_AGE_S else 0.0


class Record:
    """This process's record in the ledger `folder`, on disk once constructed. Raises TrainingError."""

    def __init__(self, folder: Path, cost_per_hour: float) -> None:
        now = datetime.now(UTC)
        self.path = folder / f"{now:%Y%m%dT%H%M%SZ}_{secrets.token_hex(4)}.json"
        self._values = {
            "started": now.isoformat(timespec="seconds"),
            "host": platform.node()[:64],
            "pid": os.getpid(),
            "usd_per_hour": cost_per_hour,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            raise self._unwritable(error) from None
        self.write(0.0, sync=True)
        sync_folder(folder)

    def write(self, seconds: float, *, sync: bool) -> None:
        """Replaces the record's content; with `sync` it is on disk when this returns. Raises TrainingError."""
        content = json.dumps(self._values | {"seconds": round(seconds, 3)}).encode()
        try:
            os.pwrite(self._descriptor, content.ljust(_RECORD_BYTES - 1) + b"\n", 0)
            if sync:
                os.fsync(self._descriptor)
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def _unwritable(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"the budget's ledger {self.path} cannot be written ({error.strerror or error}); free some space or fix "
            "its permissions, and run this again: without the ledger the same money would be spent twice"
        )


class Heartbeat:
    """Calls `beat` every `period_s` seconds in a thread, until `stop`: while training is busy elsewhere too.

    The thread holds no lock that a loader worker forked at that moment would wait for. A beat that fails with
    TrainingError is skipped: the next one writes the same total, and training meets the error in its own `check`.
    """

    def __init__(self, beat: Callable[[], None], period_s: float) -> None:
        self._beat, self._period_s, self._over = beat, period_s, Event()
        self._thread = Thread(target=self._run, daemon=True, name="ledger")
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._period_s):
            try:
                self._beat()
            except TrainingError as error:
                _log.debug("%s", error)

    def stop(self) -> None:
        """Returns when the last beat has ended."""
        self._over.set()
        self._thread.join()


def ledger_usd(folder: str | Path) -> float:
    """What the processes recorded in `folder` have cost; 0 when there is none.

    An empty record, of a process that died while creating it, is logged as a warning and costs nothing. Raises
    TrainingError, naming the file, when one is damaged: what is forgotten would be spent twice.
    """
    return math.fsum(map(_usd, sorted(Path(folder).glob("*.json"))))


def _usd(path: Path) -> float:
    try:
        if not read_bounded(path, _MAX_BYTES).strip(b"\0"):  # NULs: after a power failure
            _log.warning("%s is empty: its run ended while creating it, and counts as $0", path)
            return 0.0
        record = read_json(path, _MAX_BYTES)
        seconds, usd_per_hour = _figure(record, "seconds"), _figure(record, "usd_per_hour")
    except FileNotFoundError:  # deleted just now
        return 0.0
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"the budget's ledger {path} cannot be read ({error}); write "
            '{"seconds": S, "usd_per_hour": P} into it, as on your bill, or delete it to forget that run'
        ) from None
    return seconds / 3600 * usd_per_hour


def _figure(record: Any, name: str) -> float:
    value = record.get(name) if isinstance(record, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is not a number")
    if not 0 <= value < 1e9:
        raise ValueError(f"{name} is {value}")
    return float(value)
