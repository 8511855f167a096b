"""A value as some file has it, taken as the type that a parameter wants, or refused in one short line."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from typing import Any, Literal, get_args, get_origin

from stf.errors import ConfigError
from stf.io.limits import LONGEST_INTEGER

LONGEST_TEXT, LONGEST_NAME = 1000, 100  # characters
# control characters, halves of characters, and what turns the direction of writing
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def nearest_name(name: str, known: list[str]) -> str:
    """' (did you mean "x"?)' for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name[:LONGEST_NAME], known, n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""


_shortened = reprlib.Repr()
_shortened.maxlevel = 2
_shortened.maxstring = _shortened.maxother = 60


def printable(text: str) -> str:
    """`text` with control characters, which a file's name may hold, as escapes: one line."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def shown(value: Any) -> str:
    """`value` in at most some 300 characters, whatever a file holds."""
    if isinstance(value, int) and abs(value) > LONGEST_INTEGER:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write out the longest ones
    return _shortened.repr(value)


def coerce(where: str, value: Any, wanted: Any) -> Any:
    """`value` as the annotated type; raises ConfigError naming `where` when it is not one."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        if value not in arguments:
            hint = nearest_name(value, list(arguments)) if isinstance(value, str) else ""
            known = ", ".join(map(str, arguments))
            raise ConfigError(f"{where} is {shown(value)}; it must be one of {known}{hint}")
        return value
    if origin is tuple:
        return _coerce_list(where, value, arguments)
    if isinstance(value, int) and abs(value) > LONGEST_INTEGER:
        raise ConfigError(f"{where} is {shown(value)}; it is out of range")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is float and isinstance(value, str):
        hint = (
            f" (YAML reads {value[:30]} as text: write it with a dot, as in 1.0e-4)"
            if _is_number(value)
            else ""
        )
        raise ConfigError(f"{where} is the text {shown(value)}; it must be a number{hint}")
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ConfigError(f"{where} is {shown(value)}; it must be of type {wanted.__name__}")
    if wanted is float and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}; it must be a finite number")
    if isinstance(value, str) and (_CONTROL.search(value) or len(value) > LONGEST_TEXT):
        raise ConfigError(f"{where} is {shown(value)}; control characters and long texts are not taken")
    return value


def _coerce_list(where: str, value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {shown(value)}; it must be a list")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise ConfigError(f"{where} has {len(value)} entries; it must have {len(kinds)}")
    return tuple(coerce(f"{where}[{i}]", v, k) for i, (v, k) in enumerate(zip(value, kinds, strict=True)))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
