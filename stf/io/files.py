"""Untrusted files: only regular files of a bounded size are read, and JSON without duplicate keys.

What cannot be read is an OSError, as it is for any other file, so that every reader words its own message. Links are
followed: data sets are often put together of them. A pipe or a device in a file's place is refused unopened, because
reading it would wait for ever.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

MAX_JSON_BYTES = 50_000_000  # an evaluation's document of all of FF++ has 1 MB


def open_regular(path: str | Path, buffering: int = -1) -> IO[bytes]:
    """The file, open for reading in binary; raises OSError, also for what is no regular file."""
    if "\0" in os.fsdecode(path):  # Python's own error for it is no OSError
        raise OSError(errno.EINVAL, "a NUL in its name", os.fspath(path))
    stream = open(path, "rb", buffering, opener=_open_at_once)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", os.fspath(path))
    return stream


def _open_at_once(path: str, flags: int) -> int:
    """Not waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_bounded(path: str | Path, max_bytes: int) -> bytes:
    """The file's bytes; raises OSError when there are more than `max_bytes`, before they are read."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > max_bytes:
            raise OSError(
                errno.EFBIG, f"it has {size} bytes, more than {max_bytes} are not read", os.fspath(path)
            )
        return stream.read(max_bytes)


def read_json(path: str | Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file, UTF-8 with or without a byte order mark.

    Raises OSError when the file cannot be read, ValueError when it is no JSON, names a key twice or nests too deep.
    """
    text = read_bounded(path, max_bytes).decode("utf-8-sig")
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A duplicate key is an error: json would silently take the last value."""
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {key[:60]!r} stands twice in one place")
        unique[key] = value
    return unique
