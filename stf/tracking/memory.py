"""What a run that may be killed must know to go on as the same MLflow run: a JSON file beside its checkpoints."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stf.models.checkpoint_file import write_atomically
from stf.tracking.plain import is_hex, is_int, is_text, require

_MAX_BYTES = 1 << 20  # some 40 metrics have a line each
_KEYS = ("identity", "store", "token", "part", "run_id", "steps")  # of the file


@dataclass
class RunMemory:
    """The run at `store` (an address that `shown_address` gave) that stands for the training named `identity`.

    `token` names the run before the store gave it an id, `part` counts how often it was begun and gone on with, `steps`
    holds the last step that was recorded of each metric. Without a path nothing is kept.
    """

    path: Path | None
    identity: str
    store: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    part: int = 0
    run_id: str | None = None
    steps: dict[str, int] = field(default_factory=dict)

    def is_new(self, key: str, step: int, remember: bool = True) -> bool:
        """Whether that step of a metric is yet to be recorded; with `remember` it counts as recorded from now on."""
        if self.path is None:
            return True
        if step <= self.steps.get(key, step - 1):
            return False
        if remember:
            self.steps[key] = step
        return True

    def save(self) -> None:
        """Writes the file whole or not at all; raises CheckpointError when the disk is full or read-only."""
        if self.path is not None:
            values = {key: getattr(self, key) for key in _KEYS}
            write_atomically(self.path, (json.dumps(values, indent=2) + "\n").encode())


def recall(path: Path | None, identity: str, store: str) -> tuple[RunMemory, str]:
    """What the file remembers of that training in that store, or a fresh memory; and why, where that is news."""
    fresh = RunMemory(path, identity, store)
    if path is None:
        return fresh, ""
    try:
        found = _read(path)
    except FileNotFoundError:
        return fresh, ""
    except (OSError, ValueError, RecursionError) as error:
        return fresh, f"{path} cannot be used ({error})"
    if found["identity"] != identity:
        return fresh, ""
    if found["store"] != store:
        return fresh, f"the MLflow run so far is in another store ({found['store']!r})"
    return RunMemory(path, **found), ""


def _read(path: Path) -> Mapping[str, Any]:
    """The file's values; raises ValueError or RecursionError for a damaged one."""
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError("it is too large")
    values = json.loads(content)
    if not isinstance(values, dict) or values.keys() != set(_KEYS):
        raise ValueError("it has other keys than this version writes")
    identity, store, token, part, run_id, steps = (values[key] for key in _KEYS)
    require(is_text(identity) and is_text(store), "identity or store")
    require(is_hex(token, 32) and (run_id is None or is_hex(run_id, 32)), "token or run_id")
    require(isinstance(steps, dict) and all(map(is_int, (part, *steps.values()))), "part or steps")
    return values
