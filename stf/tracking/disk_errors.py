"""What tracking does when a disk cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stf.errors import TrackingError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block (disk full, read-only) into a TrackingError that says what to do."""
    try:
        yield
    except OSError as error:
        raise TrackingError(
            f"{path} cannot be written: {error.strerror or error}; free some space or give write permission, and run "
            "the same command again"
        ) from None
