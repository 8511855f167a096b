"""What tracking does when a disk refuses to be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stf.errors import TrackingError


@contextmanager
def refusals_told(path: Path) -> Iterator[None]:
    """Turns what the disk refuses inside the block (full, read-only) into a TrackingError that says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise TrackingError(
            f"{path} cannot be written: {reason}; make room or give the right to write, and run the same command again"
        ) from None
