"""Which raw files become which videos of the tree.

FF++'s own download is mapped by its folders, {group}/{quality}/videos/{id}.mp4; any other video by its file name, or
by a table (CSV) of file, id, method, quality and split. Names are checked: none can leave its folder.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from stf.config import METHODS, QUALITIES, Method
from stf.data.ffpp import SPLITS, split_fake_id
from stf.data.splits import ID_PATTERN
from stf.errors import DataError, UsageError
from stf.io.files import read_bounded
from stf.preprocess.store import Job

SUFFIXES = (
    ".mp4",
    ".mov",
    ".m4v",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".flv",
    ".3gp",
    ".wmv",
    ".ogv",
)
_TREES = ("original_sequences", "manipulated_sequences")
_COLUMNS = {"file", "id", "method", "quality", "split"}
_MAX_TABLE_BYTES = 10_000_000


@dataclass(frozen=True)
class Defaults:
    """For what neither a folder nor a table tells. `quality` and `method` also narrow FF++'s own download."""

    quality: str | None
    method: str | None


@dataclass
class Found:
    """What there is to be done, what cannot be (a line each), and the splits that a table names."""

    jobs: list[Job] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)  # id: split

    def add(self, job: Job) -> None:
        """Enters a job, unless its id cannot stand in the tree or another file has its place."""
        problem = _name_problem(job)
        taken = next((other for other in self.jobs if other.name == job.name), None)
        if taken and taken.source.resolve() == job.source.resolve():
            return  # named twice
        if not problem and taken:
            problem = f"{taken.source} comes to the same place, {job.name}"
        if problem:
            self.refused.append(f"{job.source}: {problem}")
        else:
            self.jobs.append(job)


def _name_problem(job: Job) -> str:
    if job.method is not None and split_fake_id(job.video_id) is None:
        return f"{job.video_id[:60]!r} is no id of a fake; name the file TARGET_SOURCE, as 000_003.mp4, or use --table"
    if job.method is None and not ID_PATTERN.fullmatch(job.video_id):
        hint = "letters, digits and '-', at most 64; rename the file, or use --table"
        return f"{job.video_id[:60]!r} is no id of a video: {hint}"
    return ""


def find_jobs(inputs: Sequence[Path], table: Path | None, defaults: Defaults) -> Found:
    """All videos of the files, folders and table; raises UsageError for an input that is not there."""
    found = Found()
    for path in inputs:
        if not path.exists():
            raise UsageError(f"{path} does not exist; give video files or folders")
        for file in [path] if not path.is_dir() else _videos_below(path):
            _add(found, file, defaults)
    if table is not None:
        _add_table(found, table, defaults)
    return found


def _videos_below(folder: Path) -> Iterator[Path]:
    """Every file with a video's suffix, by name; hidden folders and links to folders are not entered."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(here) / name


def _add(found: Found, file: Path, defaults: Defaults) -> None:
    place = _official_place(file)
    if place is None:
        found.add(Job(file, file.stem, defaults.method, defaults.quality or "raw"))
        return
    group, quality = place
    method = None if group == "youtube" else group
    if quality not in QUALITIES or (method is not None and method not in METHODS):
        return  # actors, DeepFakeDetection, FaceShifter: no part of the four methods
    if defaults.quality in (None, quality) and defaults.method in (None, method):
        found.add(Job(file, file.stem, method, quality))


def _official_place(file: Path) -> tuple[str, str] | None:
    """(group, quality) of …/{original,manipulated}_sequences/{group}/{quality}/videos/{file}; else None."""
    parts = file.absolute().parts[-5:]
    official = len(parts) == 5 and parts[0] in _TREES and parts[3] == "videos"
    return (parts[1], parts[2]) if official else None


def _add_table(found: Found, table: Path, defaults: Defaults) -> None:
    for number, row in enumerate(_read_table(table), start=2):
        where = f"{table}, line {number}"
        method, quality = (
            row.get("method") or defaults.method,
            row.get("quality") or defaults.quality or "raw",
        )
        split, file = row.get("split") or "", Path(row["file"] or "")
        if method is not None and method not in get_args(Method):
            raise UsageError(
                f"{where}: method {method[:60]!r} is none of {', '.join(METHODS)}; leave it empty for real"
            )
        if quality not in QUALITIES:
            raise UsageError(f"{where}: quality {quality[:60]!r} is none of {', '.join(QUALITIES)}")
        if split not in ("", *SPLITS):
            raise UsageError(f"{where}: split {split[:60]!r} is none of {', '.join(SPLITS)}")
        job = Job(table.parent / file, row.get("id") or file.stem, method, quality)
        found.add(job)
        if split:
            _note_split(found, job.video_id.split("_")[0], split, where)


def _note_split(found: Found, identity: str, split: str, where: str) -> None:
    before = found.splits.setdefault(identity, split)
    if before != split:
        raise UsageError(
            f"{where}: {identity} is put into {split}, but into {before} above; no one may be in two"
        )


def _read_table(table: Path) -> list[dict[str, str | None]]:
    try:
        text = read_bounded(table, _MAX_TABLE_BYTES).decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines(), strict=True, restkey="too many"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a CSV table: {error}") from None
    unknown = {str(name) for row in rows for name in row} - _COLUMNS
    if not rows or unknown or "file" not in rows[0]:
        has = f"unknown: {', '.join(sorted(unknown))}" if unknown else "'file' is missing"
        raise DataError(
            f"{table} needs a first line with columns out of file, id, method, quality, split; {has}"
        )
    return rows
