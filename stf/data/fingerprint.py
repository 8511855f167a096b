"""The fingerprint of a folder: names and sizes, with modification times (no file is opened) or with all contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from stf.errors import DataError
from stf.io.files import open_regular

BLOCK_BYTES = 1 << 22
Kind = Literal["mtimes", "contents"]


def _entries(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields (relative name, entry) of every file below `folder`, in an order that depends on names alone.

    `above` identifies the parent folders: a link to one of them would be an endless loop.
    """
    stat = os.stat(folder)
    above = (*above, (stat.st_dev, stat.st_ino))
    if above[-1] in above[:-1]:
        raise DataError(f"{folder} is a link to one of its parent folders; delete the link")
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _entries(entry.path, f"{name}/", above)
        else:
            yield name, entry


def fingerprint_of_folder(folder: str | Path, kind: Kind) -> str:
    """Computes the SHA-256 (hex) over the sorted relative names, sizes in bytes, and mtimes in ns or contents.

    Raises DataError with the path that cannot be read: a broken link, a folder without permission.
    """
    try:
        return _fingerprint(os.fspath(folder), kind)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}; fix or delete it") from None


def _fingerprint(folder: str, kind: Kind) -> str:
    digest = hashlib.sha256()
    for name, entry in _entries(folder, ""):
        stat = entry.stat()
        mtime = f"|{stat.st_mtime_ns}" if kind == "mtimes" else ""
        digest.update(f"{name}|{stat.st_size}{mtime}\n".encode(errors="surrogateescape"))
        if kind == "contents":
            with open_regular(entry.path, buffering=0) as stream:
                while block := stream.read(BLOCK_BYTES):
                    digest.update(block)
    return digest.hexdigest()
