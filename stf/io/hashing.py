"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from io import FileIO
from pathlib import Path
from typing import cast

from stf.errors import DataError
from stf.io.files import open_regular


def sha256_of(path: str | Path) -> str:
    """64 hex digits over the file's bytes; raises DataError when it cannot be read or is no regular file."""
    try:
        with open_regular(path, buffering=0) as stream:
            return hashlib.file_digest(cast(FileIO, stream), "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
