"""Files that a command leaves behind: whole or not at all, and never over a file of another kind."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stf.errors import DataError, UsageError
from stf.io.atomic import atomic_file
from stf.io.files import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DVC_FOLDER = Path("metrics")


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """`values` as JSON under `path`, see `write_bytes`."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """`text` in UTF-8 under `path`, see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """`content` under `path` by temporary file and rename; raises DataError when it cannot be written."""
    try:
        with atomic_file(Path(path)) as file:
            file.write(content)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; what was there before is untouched"
        ) from None


def write_png(path: str | Path, figure: Figure) -> None:
    """`figure` as a PNG of its own dots per inch under `path`, see `write_bytes`; equal pixels are equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    # matplotlib writes its own version into the PNG otherwise, and an upgrade would change every hash
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    write_bytes(path, picture.getvalue())


def require_own_json(option: str, path: Path, key: str) -> None:
    """Raises UsageError unless `option` may write its JSON to `path`, and says so before any work is done.

    It must end in .json, lie outside metrics/, which is DVC's, in a folder that can be made, and hold nothing yet but
    an earlier result of the same kind: an object with `key`.
    """
    if path.suffix != ".json" or _DVC_FOLDER.resolve() in path.resolve().parents:
        raise UsageError(
            f"{option} {path}: give a file that ends in .json, and not in metrics/, which is DVC's"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = read_json(path) if path.exists() else {key: None}
    except ValueError:
        there = None
    except OSError as error:
        raise UsageError(
            f"{option} {path} cannot be written: {error.strerror or error}; give another path"
        ) from None
    if not isinstance(there, dict) or key not in there:
        raise UsageError(f"{option} {path} holds something else, which would be lost; give another path")
