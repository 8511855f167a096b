"""A cheap fingerprint of a folder: names and sizes, optionally modification times; no file is opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def _entries(folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """(relative name, stat) of every file below `folder`, in an order that depends on names alone."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _entries(entry.path, f"{name}/")
        else:
            yield name, entry.stat()


def fingerprint_of_folder(folder: str | Path, with_mtimes: bool) -> str:
    """SHA-256 (hex) over the sorted relative names and sizes in bytes, and mtimes in ns when asked.

    A broken link counts as a missing file would and raises FileNotFoundError with its name.
    """
    digest = hashlib.sha256()
    for name, stat in _entries(os.fspath(folder), ""):
        mtime = f"|{stat.st_mtime_ns}" if with_mtimes else ""
        digest.update(f"{name}|{stat.st_size}{mtime}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
