"""Mutations of a file's bytes, its text, or the values of a JSON or YAML document."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np

Rng = np.random.Generator
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
)
# Values that untrusted files may contain in place of a number, a text or a section
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**40, 10**400, 0.0, -0.0, 0.5, 1.5,
    1e-300, 1e300, float("nan"), float("inf"), -float("inf"), "", " ", "1e-4", "nan", "auto", "gpu", "cuda:99",
    "../../x", "/etc/passwd", "C:\\data\\ff", "a\0b", "\x1b[31m", "\ud800", "\u0661\u0662", "é" * 300, "x" * 5000,
    "!!python/object", "*a", "&a", [], {}, [[]], [1, 2], [0.5, 5.0], ["a", "a"], ["000", "000"], {"a": 1}, {"": {}},
    [None], "Deepfakes",
    ["Deepfakes", "Deepfakes"], "hf-hub:x/y", "timm:hf-hub:x/y", "timm:resnet18", "mamba_ssm", "conv1d", "dcconv",
)  # fmt: skip


def pick(rng: Rng, choices: Any) -> Any:
    """Picks one of the choices at random."""
    return choices[int(rng.integers(len(choices)))]


def spoil_bytes(rng: Rng, data: bytes, other: bytes = b"") -> bytes:
    """Applies one to four mutations: flipped bits, cuts, repetitions, a piece of `other`, runs of zeros."""
    for _ in range(int(rng.integers(1, 5))):
        data = _MUTATIONS[int(rng.integers(len(_MUTATIONS)))](rng, data, other)
    return data


def _span(rng: Rng, data: bytes) -> tuple[int, int]:
    start = int(rng.integers(len(data) + 1))
    length = int(rng.choice([1, 2, 4, 8, 64, 1000, len(data)]))
    return start, min(len(data), start + int(rng.integers(1, length + 2)))


def _flip(rng: Rng, data: bytes, _: bytes) -> bytes:
    if not data:
        return b"\0"
    changed = bytearray(data)
    for _n in range(int(rng.integers(1, 9))):
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite(rng: Rng, data: bytes, _: bytes) -> bytes:
    start, _end = _span(rng, data)
    new = pick(rng, _INTERESTING)
    return data[:start] + new + data[start + len(new) :]


def _insert(rng: Rng, data: bytes, _: bytes) -> bytes:
    start, _end = _span(rng, data)
    return data[:start] + pick(rng, _INTERESTING) + data[start:]


def _remove(rng: Rng, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: Rng, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:]


def _truncate(rng: Rng, data: bytes, _: bytes) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _zero(rng: Rng, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def _splice(rng: Rng, data: bytes, other: bytes) -> bytes:
    start, end = _span(rng, data)
    from_, to = _span(rng, other)
    return data[:start] + other[from_:to] + data[end:]


_MUTATIONS = (_flip, _flip, _overwrite, _insert, _remove, _repeat, _truncate, _zero, _splice)


def spoil_value(rng: Rng, document: Any) -> Any:
    """Returns a copy of a JSON-like document with one to three values replaced."""
    document = copy.deepcopy(document)
    for _ in range(int(rng.integers(1, 4))):
        document = _spoil_somewhere(rng, document)
    return document


def _spoil_somewhere(rng: Rng, value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    if not len(keys) or rng.random() < 0.15:
        return odd_value(rng, value)
    key = pick(rng, keys)
    action = rng.random()
    if action < 0.7:
        value[key] = _spoil_somewhere(rng, value[key])
    elif action < 0.8:
        del value[key]
    elif isinstance(value, dict):
        value[pick(rng, ("sed", "roott", "", "a" * 200, f"{key}x", 1))] = value[key]
    else:
        value.insert(int(rng.integers(len(value) + 1)), copy.deepcopy(value[key]))
    return value


def odd_value(rng: Rng, value: Any) -> Any:
    """Returns a replacement for `value`: close to it, or anything else."""
    action = rng.random()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) < 1e15 and action < 0.5:  # false for NaN
        near = (-value, value * 2, value + 1, value * 1e6, str(value), value / 3, int(value) * 10**9)
        return pick(rng, near)
    return [value] if action > 0.9 else copy.deepcopy(pick(rng, VALUES))


def spoiled_json(rng: Rng, document: Any, other: bytes = b"") -> bytes:
    """Returns a damaged JSON text: changed values, a duplicate key, deep nesting, other encoding, changed bytes."""
    text = json.dumps(spoil_value(rng, document), default=str)
    action = rng.random()
    if action < 0.5:
        return text.encode("utf-8", "surrogatepass")
    if action < 0.6:
        return text.replace("{", '{"a": 1, "a": 2, ', 1).encode("utf-8", "surrogatepass")
    if action < 0.65:
        depth = int(rng.choice([20, 1000, 100_000]))
        return b"[" * depth + text.encode("utf-8", "surrogatepass") + b"]" * depth
    if action < 0.75:
        return text.encode(pick(rng, ("utf-8-sig", "utf-16", "latin-1")), "replace")
    if action < 0.8:
        return text.replace(",", ",\r\n").encode("utf-8", "surrogatepass")
    return spoil_bytes(rng, text.encode("utf-8", "surrogatepass"), other)
