"""A fingerprint of a folder: names and sizes with modification times (no file is opened), or with every byte."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Kind = Literal["mtimes", "contents"]


def _entries(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(relative name, entry) of every file below `folder`, in an order that depends on names alone."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _entries(entry.path, f"{name}/")
        else:
            yield name, entry


def fingerprint_of_folder(folder: str | Path, kind: Kind) -> str:
    """SHA-256 (hex) over the sorted relative names, sizes in bytes, and mtimes in ns or contents.

    A broken link counts as a missing file would and raises FileNotFoundError with its name.
    """
    digest = hashlib.sha256()
    for name, entry in _entries(os.fspath(folder), ""):
        stat = entry.stat()
        mtime = f"|{stat.st_mtime_ns}" if kind == "mtimes" else ""
        digest.update(f"{name}|{stat.st_size}{mtime}\n".encode(errors="surrogateescape"))
        if kind == "contents":
            with open(entry.path, "rb", buffering=0) as stream:
                digest.update(stream.read())
    return digest.hexdigest()
