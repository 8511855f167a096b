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
_LOCK_WAIT_S = 30.0
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
    params: Mapping[str, str]


@dataclass(frozen=True, config=_STRICT)
class Entry:
    """One report, made `ms` after 1970; its metrics are of one step."""

    ms: _Integer
    step: _Integer = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    provisional: bool = False  # a later value of the same step replaces these metrics
    tags: Mapping[str, str] = field(default_factory=dict)
    links: tuple[str, ...] = ()  # tags that get the id of the training run that made the weights …
    linked_weights: _Sha256 | None = None  # … with this hash; metrics beside them are logged there too
    start: Start | None = None
    model: Mapping[str, str] | None = None  # tags of a model version, whose files are artifacts
    status: Literal["FINISHED", "FAILED", "KILLED"] | None = None  # the run is over


_ENTRY = TypeAdapter(Entry)


class Record:
    """The record in `folder`, which this process alone uses until `close`."""

    def __init__(self, folder: Path, wait_s: float) -> None:
        """Opens or creates it; raises OSError, its TimeoutError when another process uses it, and TrackingError."""
        self.folder, self.files, self._log = folder, folder / "files", folder / "run.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder, *folder.glob("*"), *folder.glob("files/**/*")):
            is_plain = path.is_file() or path.is_dir()
            if path.is_symlink() or not is_plain:  # it would be read or written elsewhere
                raise TrackingError(f"{path} is a link or a device, which no run creates; remove it")
        self._lock = FileLock(folder / "lock")
        self._lock.acquire(timeout=wait_s)
        self._file = self._log.open("ab", buffering=0)
        if (
            self._file.tell() <= _MAX_BYTES
        ):  # without the line that a kill cut off; `read` refuses a larger one
            self._file.truncate(self._log.read_bytes().rfind(b"\n") + 1)

    def read(self) -> list[Entry]:
        """All entries, the first with a start; raises TrackingError for a damaged record."""
        try:
            entries = [
                _ENTRY.validate_json(line) for line in read_bounded(self._log, _MAX_BYTES).splitlines()
            ]
        except (OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise TrackingError(
                f"{self._log} is damaged ({reason}), so nothing of it is used; move it away"
            ) from None
        if entries and entries[0].start is None:
            raise TrackingError(f"{self._log} does not begin with the start of a run; move it away")
        return entries

    def append(self, entry: Entry) -> None:
        """Writes one entry; raises TrackingError when the disk is full or read-only."""
        line = _ENTRY.dump_json(entry, exclude_defaults=True) + b"\n"
        with disk_errors(self.folder):
            if entry.start is not None:
                (self.folder / "unsent").touch()
            size = os.fstat(self._file.fileno()).st_size
            if self._file.write(line) != len(line):  # a full disk takes half a line
                self._file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Makes what was written survive a power failure; raises TrackingError when the disk fails."""
        with disk_errors(self.folder):
            os.fsync(self._file.fileno())

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
        if all_sent and self.folder.name == "mlflow":
            with disk_errors(self.folder):
                (self.folder / "unsent").unlink(missing_ok=True)
        elif all_sent:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._file.close()
        self._lock.release()


def open_record(folder: Path | None, identity: str, *, resume: bool = True) -> Record:
    """The record of the training `identity` in `folder`; without a folder a new one.

    What `folder` holds of another training, or damaged, is moved aside. Raises TrackingError when nothing can be
    written, or another process uses the record.
    """
    place = folder or repository_root().resolve() / "checkpoints" / "unsent" / f"mlflow-{uuid.uuid4().hex}"
    try:
        record = Record(place, _LOCK_WAIT_S)
        try:
            start = next((entry.start for entry in record.read()), None)
            reason = "it is started again" if start is not None and not resume else ""
            if start is not None and start.identity != identity:
                reason = "code or data changed"
        except TrackingError as error:
            reason = str(error)
        if reason:
            click.echo(f"this training is a new MLflow run: {reason}")
            record.close()
            if (place / "unsent").exists():  # a later command sends it
                place.rename(place.with_name(f"mlflow-{uuid.uuid4().hex}"))
            else:
                shutil.rmtree(place)
            record = Record(place, _LOCK_WAIT_S)
    except TimeoutError:
        raise TrackingError(f"{place} is in use by another process; wait for it or end it") from None
    except OSError as error:
        reason = error.strerror or error
        raise TrackingError(
            f"{place} cannot be written ({reason}); free some space or give write permission"
        ) from None
    return record
