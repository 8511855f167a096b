"""Checks of plain values that come from a file: anything may stand there."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_MAX_INT = 2**62
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can hold it, no file and no database


def require(holds: object, what: str) -> None:
    """Raises ValueError unless `holds`."""
    if not holds:
        raise ValueError(f"{what} not as this version writes it")


def is_text(value: object) -> bool:
    """Text that every file and database can hold."""
    return isinstance(value, str) and _HALF_CHARACTER.search(value) is None


def is_int(value: object) -> bool:
    """An integer that fits into 64 bits; True and False are none."""
    return type(value) is int and abs(value) < _MAX_INT


def is_texts(value: object) -> bool:
    """A mapping of texts to texts."""
    return isinstance(value, dict) and all(is_text(key) and is_text(text) for key, text in value.items())


def is_hex(value: object, digits: int) -> bool:
    """That many hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value) is not None


def is_inner_path(value: object) -> bool:
    """A path that leads nowhere but inside the folder it is relative to; "" is that folder."""
    if not isinstance(value, str) or not is_text(value) or "\\" in value or "\0" in value:
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts
