"""Places that several commands know."""

from __future__ import annotations

import os
from pathlib import Path

DATA_JSON = "metrics/data.json"  # what verify_data found, with the data's fingerprint


def repository_root() -> Path:
    """The real repository: under `dvc exp run --temp` the working folder is a copy that DVC throws away."""
    return Path(os.environ.get("DVC_ROOT") or ".")
