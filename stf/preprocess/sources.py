"""Maps raw files to videos of the tree.

FF++'s own download is mapped by its folders, {group}/{quality}/videos/{id}.mp4; any other video by its file name, or
by a table (CSV) with file, id, method, quality and split. Names are checked, so that none can leave its folder.
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
    """Quality and method of files without folders or a table; for FF++'s own download they act as filters."""

    quality: str | None
    method: str | None


@dataclass
class Sources:
    """The videos to preprocess, the refused files (one line each), and the splits given in a table."""

    jobs: list[Job] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)  # id: split

    def add(self, job: Job) -> None:
        """Adds a job; refuses it when its id is invalid or another file has the same name in the tree."""
        problem = _name_problem(job)
        same_name = next((other for other in self.jobs if other.name == job.name), None)
        if same_name and same_name.source.resolve() == job.source.resolve():
            return  # the same file given twice
        if not problem and same_name:
            problem = f"{same_name.source} maps to the same video, {job.name}; rename one of them"
        if problem:
            self.refused.append(f"{job.source}: {problem}")
        else:
            self.jobs.append(job)


def _name_problem(job: Job) -> str:
    if job.method is not None and split_fake_id(job.video_id) is None:
        return f"{job.video_id[:60]!r} is not a fake's id; name the file TARGET_SOURCE, as 000_003.mp4, or use --table"
    if job.method is None and not ID_PATTERN.fullmatch(job.video_id):
        hint = "use at most 64 letters, digits and '-'; rename the file, or use --table"
        return f"{job.video_id[:60]!r} is not a video id; {hint}"
    return ""


def find_jobs(inputs: Sequence[Path], table: Path | None, defaults: Defaults) -> Sources:
    """Collects the videos of the files, folders and table; raises UsageError for a missing input or a bad table."""
    sources = Sources()
    for path in inputs:
        if not path.exists():
            raise UsageError(f"{path} does not exist; give video files or folders")
        for file in [path] if not path.is_dir() else _videos_below(path):
            _add_file(sources, file, defaults)
    if table is not None:
        _add_table(sources, table, defaults)
    return sources


def _videos_below(folder: Path) -> Iterator[Path]:
    """Yields every file with a video's suffix, by name; skips hidden files and folders, and links to folders."""
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(current) / name


def _add_file(sources: Sources, file: Path, defaults: Defaults) -> None:
    official = _official_group(file)
    if official is None:
        sources.add(Job(file, file.stem, defaults.method, defaults.quality or "raw"))
        return
    group, quality = official
    method = None if group == "youtube" else group
    if quality not in QUALITIES or (method is not None and method not in METHODS):
        return  # actors, DeepFakeDetection, FaceShifter: not among the four methods
    if defaults.quality in (None, quality) and defaults.method in (None, method):
        sources.add(Job(file, file.stem, method, quality))


def _official_group(file: Path) -> tuple[str, str] | None:
    """Returns (group, quality) of …/{original,manipulated}_sequences/{group}/{quality}/videos/{file}; else None."""
    parts = file.absolute().parts[-5:]
    official = len(parts) == 5 and parts[0] in _TREES and parts[3] == "videos"
    return (parts[1], parts[2]) if official else None


def _add_table(sources: Sources, table: Path, defaults: Defaults) -> None:
    for number, row in enumerate(_read_table(table), start=2):
        where = f"{table}, line {number}"
        method, quality = (
            row.get("method") or defaults.method,
            row.get("quality") or defaults.quality or "raw",
        )
        split, file = row.get("split") or "", Path(row["file"] or "")
        if method is not None and method not in get_args(Method):
            raise UsageError(
                f"{where}: unknown method {method[:60]!r}; use one of {', '.join(METHODS)}, or leave it empty for real"
            )
        if quality not in QUALITIES:
            raise UsageError(f"{where}: unknown quality {quality[:60]!r}; use one of {', '.join(QUALITIES)}")
        if split not in ("", *SPLITS):
            raise UsageError(f"{where}: unknown split {split[:60]!r}; use one of {', '.join(SPLITS)}")
        job = Job(table.parent / file, row.get("id") or file.stem, method, quality)
        sources.add(job)
        if split:
            _set_split(sources, job.video_id.split("_")[0], split, where)


def _set_split(sources: Sources, identity: str, split: str, where: str) -> None:
    earlier = sources.splits.setdefault(identity, split)
    if earlier != split:
        raise UsageError(
            f"{where}: {identity} is in split {split}, but in {earlier} above; put each identity into one split"
        )


def _read_table(table: Path) -> list[dict[str, str | None]]:
    try:
        text = read_bounded(table, _MAX_TABLE_BYTES).decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines(), strict=True, restkey="too many"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a CSV table: {error}") from None
    unknown = {str(name) for row in rows for name in row} - _COLUMNS
    if not rows or unknown or "file" not in rows[0]:
        problem = f"unknown: {', '.join(sorted(unknown))}" if unknown else "'file' is missing"
        raise DataError(
            f"{table} has wrong columns ({problem}); start it with file and any of id, method, quality, split"
        )
    return rows
