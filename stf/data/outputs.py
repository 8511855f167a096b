"""Files that a stage leaves behind: whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from stf.errors import DataError


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """`values` as JSON under `path`, see `write_text`."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """`text` under `path` by temporary file and rename; raises DataError when it cannot be written."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, 0o644)
        os.replace(file.name, target)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
