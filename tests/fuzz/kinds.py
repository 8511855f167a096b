"""What is fuzzed: each kind writes a spoiled input, and hands it to the project's own readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Rng = np.random.Generator
# Of all inputs, each kind's weight: the more the sooner it is read, and the more a stranger can do with it.
SHARES = {
    "png": 28.0, "npy": 16.0, "params.yaml": 18.0, "split JSON": 10.0, "other JSON": 12.0, "evaluation": 3.0,
    "checkpoint": 9.0, "face cache": 5.0, "data set": 1.0, "video": 3.0, "video table": 2.0, "compare": 0.5,
}  # fmt: skip

SLOW = {
    "compare": 6.0
}  # a whole command, with an MLflow store: so many times the time that another input may take


@dataclass(frozen=True)
class Place:
    """Where a worker finds good files, puts the input, and may write."""

    good: Path  # read-only: what is spoiled
    case: Path  # an empty folder for the input
    outputs: Path
    canary: Path  # appears when code of an input is run


@dataclass(frozen=True)
class Kind:
    """`make` writes the input of one seed below place.case; `read` gives it to the readers.

    `read` returns when the input was accepted, raises StfError when it was refused, and AssertionError when what was
    read cannot be right.
    """

    name: str
    make: Callable[[Rng, Place], None]
    read: Callable[[Place], None]
