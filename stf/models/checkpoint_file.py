"""A checkpoint as a file: written whole or not at all, and with a checksum that tells damage.

The file is torch's zip archive whose comment (the last bytes) is "sha256:" and the digest of the archive without it.
torch.load reads such a file as any other; by itself it would take flipped bits for weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from stf.errors import CheckpointError
from stf.io import atomic

if TYPE_CHECKING:
    from typing_extensions import Buffer

_SEAL = b"sha256:"
_SEAL_BYTES = len(_SEAL) + 64
_END_RECORD, _END_RECORD_BYTES = b"PK\x05\x06", 22  # zip's last; its last two bytes are the comment's length


class _Hashing(io.BufferedIOBase):
    """Writes on into a file and computes the digest of what went by."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()
        self.refused: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:  # torch makes a RuntimeError of it, which says nothing of the disk
            self.refused = error
            raise


@contextlib.contextmanager
def sealed(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Something to write a zip archive into; after the block the archive in `file` has its checksum as its comment."""
    sealing = _Hashing(file)
    try:
        yield cast(IO[bytes], sealing)
    except RuntimeError:
        if sealing.refused is None:
            raise
        raise sealing.refused from None
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", _SEAL_BYTES) + _SEAL + sealing.digest.hexdigest().encode())


def require_whole(path: str | Path) -> None:
    """Raises CheckpointError when the file's checksum does not hold; a file that never had one passes.

    A file that cannot be opened raises OSError.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        # twice what is needed, should the end be cut off
        file.seek(max(size - _END_RECORD_BYTES - 2 * _SEAL_BYTES, 0))
        tail = file.read()
        end = tail.rfind(_END_RECORD)
        if end < 0 or tail[end + 20 : end + 22] == b"\0\0":
            return
        file.seek(0)
        digest, left = hashlib.sha256(), size - _SEAL_BYTES - 2
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        digest.update(b"\0\0")  # the length of the comment when there was none
    if tail[-_SEAL_BYTES:] != _SEAL + digest.hexdigest().encode():
        raise CheckpointError(f"{path} is damaged: its checksum does not hold; take another copy")


def write_atomically(path: Path, content: bytes) -> None:
    """`content` under `path`, or nothing; raises CheckpointError as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path, previous: Path | None = None) -> Iterator[IO[bytes]]:
    """stf.io.atomic's, with CheckpointError for what the disk refuses."""
    try:
        with atomic.atomic_file(path, previous) as file:
            yield file
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be written: {error.strerror or error}; what was there before is untouched. Make room or "
        "give the right to write, and run the same command again"
    )
