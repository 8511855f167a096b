"""A checkpoint as a file: written whole or not at all, and with a checksum that tells damage.

The file is torch's zip archive whose comment (the last bytes) is "sha256:" and the digest of all bytes before it.
torch.load reads such a file as any other; by itself it would take flipped bits for weights.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from pathlib import Path

from stf.errors import CheckpointError

_SEAL = b"sha256:"
_SEAL_BYTES = len(_SEAL) + 64
_END_RECORD, _END_RECORD_BYTES = (
    b"PK\x05\x06",
    22,
)  # zip's last record; its last two bytes: the comment's length
_PART = ".part"


def sealed(archive: bytes) -> bytes:
    """A zip archive without a comment → the same with its checksum as the comment."""
    body = archive[:-2] + struct.pack("<H", _SEAL_BYTES)
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode()


def require_whole(path: str | Path) -> None:
    """Raises CheckpointError when the file's checksum does not hold; a file that never had one passes.

    A file that cannot be opened raises OSError.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(
            max(size - _END_RECORD_BYTES - 2 * _SEAL_BYTES, 0)
        )  # more than enough, should the end be cut off
        tail = file.read()
        end = tail.rfind(_END_RECORD)
        if end < 0 or tail[end + 20 : end + 22] == b"\0\0":
            return
        file.seek(0)
        digest, left = hashlib.sha256(), size - _SEAL_BYTES
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    if tail[-_SEAL_BYTES:] != _SEAL + digest.hexdigest().encode():
        raise CheckpointError(f"{path} is damaged: its checksum does not hold; take another copy")


def write_atomically(path: Path, content: bytes, previous: Path | None = None) -> None:
    """`content` under `path`, or nothing: a reader never sees half a file. What was there moves to `previous`.

    Raises CheckpointError, and leaves what was there, when the disk is full or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(_PART, f".{path.name}.", path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide it from a server's other users
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be written: {error.strerror or error}; what was there before is untouched. Make room or "
        "give the right to write, and run the same command again"
    )


def sync_folder(folder: Path) -> None:
    """Makes a renaming last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes what processes that were killed while writing into `folder` left there; nobody may be writing now."""
    for left_over in folder.glob(f".*{_PART}"):
        left_over.unlink(missing_ok=True)
