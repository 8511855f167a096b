"""All that one run has reported, in a folder that outlives the process and any outage of the store:

run.jsonl  an entry per line, written before anything is sent
files/     artifacts that the store has not received, each at its artifact path
unsent     an empty file, there until the store has received everything
lock       held by the run, or by a later command that sends the record

A training's folder is part of its checkpoint folder and is kept: the run that resumes it adds to it. Any other run's is
in checkpoints/unsent/ until the store has received everything.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import click
from filelock import FileLock
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stf.errors import TrackingError
from stf.io.files import read_bounded
from stf.io.paths import repository_root
from stf.tracking.disk_errors import disk_errors

_MAX_BYTES = 1 << 29
_STRICT = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")
_Integer = Annotated[int, Field(ge=-(2**62), le=2**62)]
_Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


@dataclass(frozen=True, config=_STRICT)
class Start:
    """A run starts or is resumed. `token` identifies it in the store (a tag), `identity` its training."""

    token: Annotated[str, Field(pattern=r"\A[0-9a-f]{32}\z")]
    identity: str
    store: str  # its address, without credentials
    name: str


@dataclass(frozen=True, config=_STRICT)
class Entry:
    """One report, made `ms` after 1970; its metrics are of one step."""

    ms: _Integer
    step: _Integer = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    provisional: bool = False  # a later value of the same step replaces these metrics
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    links: tuple[str, ...] = ()  # tags that get the id of the training run that made the weights …
    linked_weights: _Sha256 | None = None  # … with this hash; metrics beside them are logged there too
    start: Start | None = None
    model: Mapping[str, str] | None = None  # tags of a model version, whose files are artifacts
    status: Literal["FINISHED", "FAILED", "KILLED"] | None = None  # ends the run: its last entry


_ENTRY = TypeAdapter(Entry)


class Record:
    """The record in `folder`, which this process alone uses until `close`."""

    def __init__(self, folder: Path, wait_s: float = 30.0) -> None:
        """Opens or creates it; raises OSError, its TimeoutError when another process uses it, and TrackingError."""
        self.folder, self.files, self._log = folder, folder / "files", folder / "run.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder, *folder.rglob("*")):  # a link would be read or written elsewhere
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise TrackingError(f"{path} is a link or a device, which no run creates; remove it")
        self._lock = FileLock(folder / "lock")
        self._lock.acquire(timeout=wait_s)
        self._file, self.entries = self._log.open("ab", buffering=0), list[Entry]()

    def load(self) -> None:
        """Reads all `entries`, the first with a start; raises TrackingError for a damaged record."""
        try:
            content = read_bounded(self._log, _MAX_BYTES)
            whole = content[: content.rfind(b"\n") + 1]  # without the line that a kill cut off
            self._file.truncate(len(whole))
            self.entries = [_ENTRY.validate_json(line) for line in whole.splitlines()]
            if self.entries and self.entries[0].start is None:
                raise ValueError("it does not begin with the start of a run")
        except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise TrackingError(f"{self._log} is damaged ({reason}); move it away") from None

    def append(self, entry: Entry) -> None:
        """Writes one entry; raises TrackingError when the disk is full or read-only."""
        line = _ENTRY.dump_json(entry, exclude_defaults=True) + b"\n"
        with disk_errors(self.folder):
            if entry.start is not None:
                (self.folder / "unsent").touch()
            written = self._file.write(line)
            if written != len(line):  # a full disk takes half a line
                self._file.truncate(self._file.tell() - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if entry.status is not None:
                os.fsync(self._file.fileno())
        self.entries.append(entry)

    def keep(self, path: Path, artifact_folder: str) -> None:
        """Copies a file, or what is in a folder, to where it belongs among the artifacts ("" is the top)."""
        with disk_errors(self.folder):
            target = self.files / artifact_folder
            target.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, target / path.name)

    def close(self, *, all_sent: bool = False) -> None:
        """Lets others use it; when the store has everything, a training's is kept and any other is deleted."""
        with disk_errors(self.folder):
            if all_sent:
                (self.folder / "unsent").unlink(missing_ok=True)
            self._file.close()
            self._lock.release()
            if all_sent and self.folder.name != "mlflow":
                shutil.rmtree(self.folder)


def open_record(folder: Path | None, identity: str, *, resume: bool = True) -> Record:
    """The record of the training `identity` in `folder`; without a folder a new one.

    What `folder` holds of another training, or damaged, is moved aside. Raises TrackingError when nothing can be
    written, or another process uses the record.
    """
    place = folder or repository_root().resolve() / "checkpoints" / "unsent" / f"mlflow-{uuid.uuid4().hex}"
    with disk_errors(place):
        try:
            record = Record(place)
        except TimeoutError:
            raise TrackingError(f"{place} is in use by another process; wait for it or end it") from None
        try:
            record.load()
            starts = [entry.start for entry in record.entries[:1] if entry.start]
            if not starts or (resume and starts[0].identity == identity):
                return record
            reason = "code or data changed" if resume else "it is started again"
        except TrackingError as error:
            reason = str(error)
        click.echo(f"this training is a new MLflow run: {reason}")
        record.close()
        if (place / "unsent").exists():  # a later command sends it
            place.rename(place.with_name(f"mlflow-{uuid.uuid4().hex}"))
        else:
            shutil.rmtree(place)
    return open_record(folder, identity)
