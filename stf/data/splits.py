"""Split files of FaceForensics++: JSON lists of identity pairs, read as untrusted input."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path

from stf.errors import DataError
from stf.io.files import read_json

MAX_SPLIT_BYTES = 10_000_000
ID_PATTERN = re.compile(r"[A-Za-z0-9-]{1,64}")  # no separator, no dot: an id can never leave its folder


def read_split(path: Path) -> list[tuple[str, str]]:
    """Reads the identity pairs of one split file; raises DataError for anything but a list of pairs of ids."""
    try:
        values = read_json(path, MAX_SPLIT_BYTES)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist; set data.root to the folder that contains FaceForensics++/"
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; restore it from the FF++ release"
        ) from None
    except ValueError as error:
        raise DataError(
            f"{path} is not valid JSON ({str(error)[:120]}); restore it from the FF++ release"
        ) from None
    if not isinstance(values, list) or not values:
        raise DataError(f'{path} must contain a non-empty list of id pairs such as [["000", "003"]]')
    return [_checked_pair(path, i, pair) for i, pair in enumerate(values)]


def _checked_pair(path: Path, index: int, pair: object) -> tuple[str, str]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise DataError(f"{path}, entry {index}: {reprlib.repr(pair)} is not a pair of ids")
    for value in pair:
        if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
            hint = "an id consists of at most 64 letters, digits and '-'"
            raise DataError(f"{path}, entry {index}: {reprlib.repr(value)} is not a video id; {hint}")
    return pair[0], pair[1]
