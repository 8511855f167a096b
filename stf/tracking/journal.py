"""What a run has yet to tell the store, on disk: mlruns/unsent/<token>/ holds

journal.jsonl  an operation per line, in order (stf/tracking/operations.py); the first is the start of the run
files/         copies of the files that it names
store          the address of the store that is to be told, without a password
lock           held by the run, or by the command that sends the journal

A process that is killed while it writes leaves half a line at the end, which is dropped. Everything else that is not as
this version writes it makes the journal a damaged one: it may come from anywhere, and nothing of it is used.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from stf.errors import TrackingError
from stf.io.atomic import atomic_file
from stf.io.files import read_bounded
from stf.io.paths import repository_root
from stf.tracking.disk import refusals_told
from stf.tracking.operations import Keep, Operation, Points, Register, Start, operation
from stf.tracking.plain import is_inner_path

_NAME, _FILES, _STORE = "journal.jsonl", "files", "store"
_MAX_ADDRESS = 2000  # bytes
_MAX_LINE = 16 << 20
_LOCK_WAIT_S = 30.0


def homes() -> list[Path]:
    """Where journals lie: beside the store, or beside the checkpoints when that is read-only."""
    return [repository_root().resolve() / place / "unsent" for place in ("mlruns", "checkpoints")]


class Journal:
    """The journal in `folder`, which this process alone uses until `close`."""

    def __init__(self, folder: Path, wait_s: float = _LOCK_WAIT_S) -> None:
        """Raises OSError where nothing can be written, its TimeoutError when another process keeps the journal."""
        self.folder = folder
        links = [
            path
            for path in (folder, *(folder / name for name in (_NAME, _FILES, _STORE, "lock")))
            if path.is_symlink()
        ]
        if links:  # what is written would land elsewhere
            raise TrackingError(f"{links[0]} is a link, which no run makes; remove it")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock")
        self._lock.acquire(timeout=wait_s)
        self._file = (folder / _NAME).open("ab", buffering=0)
        self._drop_half_a_line()

    def name_store(self, address: str) -> None:
        """Writes down whose journal it is, unless that is known; raises OSError."""
        if not (self.folder / _STORE).exists():
            with atomic_file(self.folder / _STORE) as file:
                file.write(address.encode())

    def require_store(self, address: str) -> None:
        """Raises TrackingError when the journal is for another store than that at `address`."""
        try:
            named = read_bounded(self.folder / _STORE, _MAX_ADDRESS).decode()
        except FileNotFoundError:
            return  # of an earlier version
        except (OSError, UnicodeDecodeError) as error:
            raise TrackingError(
                f"{self.folder / _STORE} cannot be read ({error}); move the folder away"
            ) from None
        if named != address:
            local = "unset it" if named == "sqlite:///mlruns/mlflow.db" else f"set it to {named}"
            raise TrackingError(
                f"{self.folder} is for the store at {named}, not for {address}; MLFLOW_TRACKING_URI names the store: "
                f"{local}, or send it --here"
            )

    def append(self, op: Operation) -> None:
        """Writes an operation down, with a copy of the file it names; raises TrackingError when the disk refuses."""
        with refusals_told(self.folder):
            if isinstance(op, Keep | Register):
                op = dataclasses.replace(op, path=self._copy(Path(op.path)))
            self._write(_line(op))

    def sync(self) -> None:
        """Makes what was written last through a power failure; raises TrackingError when the disk refuses."""
        with refusals_told(self.folder):
            os.fsync(self._file.fileno())

    def read(self) -> list[Operation]:
        """All operations, points of metrics that follow each other as one; files are named by their full path.

        Raises TrackingError for a damaged journal.
        """
        found: list[Operation] = []
        with (self.folder / _NAME).open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
                try:
                    found.append(self._inside(operation(json.loads(line))))
                except (ValueError, RecursionError) as error:
                    raise TrackingError(
                        f"{self.folder / _NAME} is damaged in line {number} ({error}); nothing of it was used. "
                        "Mend the line, or move the folder away"
                    ) from None
        if found and not isinstance(found[0], Start):
            raise TrackingError(f"{self.folder / _NAME} does not begin with the start of a run; move it away")
        return _merged(found)

    def replace(self, ops: Sequence[Operation]) -> None:
        """Leaves only these operations, whole or not at all; raises TrackingError when the disk refuses."""
        part = self.folder / f"{_NAME}.part"
        with refusals_told(self.folder):
            part.write_bytes(b"".join(_line(self._relative(op)) for op in ops))
            part.replace(self.folder / _NAME)
            self._file.close()
            self._file = (self.folder / _NAME).open("ab", buffering=0)
            if not any(isinstance(op, Keep | Register) for op in ops):
                shutil.rmtree(self.folder / _FILES, ignore_errors=True)

    def written_ms(self) -> int:
        """When the last operation was written, in ms since 1970."""
        return int((self.folder / _NAME).stat().st_mtime * 1000)

    def close(self) -> None:
        """Lets go of the journal."""
        self._file.close()
        self._lock.release()

    def remove(self) -> None:
        """Lets go of it and deletes it: all was sent."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _copy(self, path: Path) -> str:
        """Copies a file or folder into the journal; returns its path there, relative to the journal."""
        files = self.folder / _FILES
        files.mkdir(exist_ok=True)
        number = max((int(entry.name) for entry in files.iterdir() if entry.name.isdecimal()), default=0) + 1
        place = files / str(number) / path.name
        place.parent.mkdir()
        if path.is_dir():
            shutil.copytree(path, place)
        else:
            shutil.copyfile(path, place)
        return place.relative_to(self.folder).as_posix()

    def _inside(self, op: Operation) -> Operation:
        """With the full path of its file; raises ValueError unless that lies in the journal and is there."""
        if not isinstance(op, Keep | Register):
            return op
        path = self.folder / op.path
        if not (is_inner_path(op.path) and op.path.startswith(f"{_FILES}/") and path.exists()):
            raise ValueError("a file that is not in the journal")
        inside = [path, *path.parents[: len(Path(op.path).parts) - 1], *path.rglob("*")]
        if any(entry.is_symlink() or not (entry.is_file() or entry.is_dir()) for entry in inside):
            raise ValueError("a file that is a link or a device")
        return dataclasses.replace(op, path=str(path))

    def _relative(self, op: Operation) -> Operation:
        if isinstance(op, Keep | Register):
            return dataclasses.replace(op, path=Path(op.path).relative_to(self.folder).as_posix())
        return op

    def _write(self, line: bytes) -> None:
        """A disk that gets full takes half a line, and more may follow when there is room again: it is taken back."""
        size = os.fstat(self._file.fileno()).st_size
        written = self._file.write(line)
        if written != len(line):
            self._file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _drop_half_a_line(self) -> None:
        content = (self.folder / _NAME).read_bytes()
        self._file.truncate(content.rfind(b"\n") + 1)


def open_journal(token: str, store: str) -> Journal:
    """The journal of a run in the store at this address: the old one, or one in the first place that can be written."""
    reasons = []
    for home in sorted(homes(), key=lambda home: not (home / token).exists()):
        try:
            journal = Journal(home / token)
            journal.name_store(store)
            return journal
        except TimeoutError:
            raise TrackingError(
                f"{home / token} is in use by another process; wait for it or end it"
            ) from None
        except OSError as error:
            reasons.append(str(error))
    raise TrackingError(
        f"what a run tells MLflow is written down first, and there is no place for it: {'; '.join(reasons)}. Make room "
        "or give the right to write"
    )


def _line(op: Operation) -> bytes:
    return json.dumps({"kind": op.KIND, **vars(op)}).encode() + b"\n"


def _merged(ops: Sequence[Operation]) -> list[Operation]:
    merged: list[Operation] = []
    for together, group in itertools.groupby(ops, lambda op: isinstance(op, Points)):
        if together:
            merged.append(Points([point for op in group if isinstance(op, Points) for point in op.points]))
        else:
            merged += group
    return merged
