"""What keeps a checkpoint of a stranger's from taking more memory than its file has bytes.

torch.load(weights_only=True) runs no code, but it inflates compressed records, calls bytearray(n) for any n, and takes
a view of one number for a billion of them.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stf.errors import CheckpointError
from stf.io.files import open_regular

MAX_PICKLE_BYTES = 100_000_000  # of names and plain values; ours have 0.3 MB
_NEEDLESS = ("bytearray",)  # torch reads it, no checkpoint of weights holds one


def require_harmless(path: str | Path) -> None:
    """Raises CheckpointError when reading the file would take far more memory than it has bytes.

    OSError, zipfile.BadZipFile and ValueError are those of a file that cannot be read at all.
    """
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            return  # torch's old format has no compression, and allocates only what it declares
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            for record in records:
                if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
                    raise _hostile(
                        path, f"its record {record.filename[:60]!r} is compressed, as torch never does"
                    )
            for record in records:
                if record.filename.endswith(".pkl"):
                    _check_pickle(
                        path, archive.read(record) if record.file_size <= MAX_PICKLE_BYTES else None
                    )


def _check_pickle(path: str | Path, content: bytes | None) -> None:
    if content is None:
        raise _hostile(path, f"its names and plain values have more than {MAX_PICKLE_BYTES} bytes")
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("BYTEARRAY8", "NEXT_BUFFER") or (
            isinstance(argument, str) and argument.endswith(_NEEDLESS)
        ):
            raise _hostile(path, "it builds a byte array, which no checkpoint of weights holds")


def require_held(path: str | Path, payload: Any) -> None:
    """Raises CheckpointError when the tensors say they hold more numbers than the file has bytes for.

    A value that stands in several places is counted once; shared and broadcast tensors are views of one storage.
    """
    room = Path(path).stat().st_size
    left, seen = [payload], set[int]()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            _require_plain(path, value, room)
        elif isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value


def _require_plain(path: str | Path, tensor: Tensor, room: int) -> None:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.device.type != "cpu" or tensor.is_quantized:
        raise _hostile(path, f"it holds a {tensor.layout} tensor on {tensor.device}, not plain numbers")
    if tensor.numel() * tensor.element_size() > room:
        shape = tuple(tensor.shape)[:8]
        raise _hostile(path, f"a tensor says it has the shape {shape}, more than the file has bytes for")


def _hostile(path: str | Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is refused: {why}; take a checkpoint from a source you trust")
