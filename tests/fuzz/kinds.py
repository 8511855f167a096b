"""The kinds of fuzzed inputs: each writes a damaged input and passes it to the project's readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Rng = np.random.Generator
# Each kind's share of all inputs: larger for fast readers and for inputs that an attacker can control.
SHARES = {
    "png": 28.0, "npy": 16.0, "params.yaml": 18.0, "split JSON": 10.0, "other JSON": 12.0, "evaluation": 3.0,
    "torch file": 6.0, "safetensors": 6.0, "face cache": 5.0, "data set": 1.0, "video": 3.0, "video table": 2.0,
    "compare": 0.5,
}  # fmt: skip

SLOW = {"compare": 6.0}  # factor on the time limit: a whole command, with an MLflow store


@dataclass(frozen=True)
class Place:
    """A worker's folders: for intact files, for the input, and for outputs."""

    good: Path  # the intact files, read-only
    case: Path  # an empty folder for the input
    outputs: Path
    canary: Path  # created when an input's code is executed


@dataclass(frozen=True)
class Kind:
    """`make` writes the input of one seed below place.case; `read` passes it to the readers.

    `read` returns when the input is accepted, raises StfError when it is refused, and AssertionError when the result is
    invalid.
    """

    name: str
    make: Callable[[Rng, Place], None]
    read: Callable[[Place], None]
