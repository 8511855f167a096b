"""Objects whose unpickling executes code that creates a canary file."""

from __future__ import annotations

import builtins
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.mutations import pick


class _Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def payload(rng: np.random.Generator, canary: Path) -> Any:
    """Returns an object that executes code when unpickled, by one of several calls."""
    calls = (
        (os.mkdir, str(canary)),
        (os.system, f"touch {canary}"),
        (subprocess.run, ("touch", str(canary))),
        (builtins.exec, f"open({str(canary)!r}, 'w')"),
        (builtins.eval, f"__import__('os').mkdir({str(canary)!r})"),
        (open, str(canary), "w"),
    )
    return _Calls(*pick(rng, calls))
