"""Shows values and names from untrusted files in one short line of printable characters."""

from __future__ import annotations

import difflib
import re
import reprlib
from typing import Any

LONGEST_TEXT, LONGEST_NAME = 1000, 100  # characters
# control characters, lone surrogates, and marks that change the writing direction
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_shortened = reprlib.Repr()
_shortened.maxlevel = 2
_shortened.maxstring = _shortened.maxother = 60


def nearest_name(name: str, known: list[str]) -> str:
    """' (did you mean "x"?)' for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name[:LONGEST_NAME], known, n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""


def is_plain_text(text: str) -> bool:
    """Whether `text` has at most LONGEST_TEXT characters and none that does not print."""
    return len(text) <= LONGEST_TEXT and not _CONTROL.search(text)


def printable(text: str) -> str:
    """`text` with control characters, which a file's name may hold, as escapes: one line."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def shown(value: Any) -> str:
    """`value` in at most some 300 characters, whatever a file holds."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"  # Python does not convert very long ones to text
    return _shortened.repr(value)
