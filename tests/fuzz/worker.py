"""A process that runs one input per line ("KIND:SEED") and answers with the outcome.

It may be killed at any time. Its address space is limited, so unbounded memory becomes a MemoryError, which no reader
may let through.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import traceback
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.guard import Guard
from tests.fuzz.kinds import Kind, Place

MORE_MEMORY = 2 << 30  # bytes beyond what the imports have mapped
MAX_MESSAGE = 700  # characters of an error message
_PAGE = resource.getpagesize()


def load_kinds(names: Collection[str]) -> dict[str, Kind]:
    """Returns the kinds of these names; imports only the modules they need, because torch and MLflow take seconds."""
    kinds: tuple[Kind, ...] = ()
    for name in names:
        if name in ("png", "npy"):
            from tests.fuzz.pictures import KINDS as more
        elif name in ("torch file", "safetensors", "face cache"):
            from tests.fuzz.states import KINDS as more
        elif name in ("data set", "video", "video table"):
            from tests.fuzz.trees import KINDS as more
        elif name == "compare":
            from tests.fuzz.commands import KINDS as more
        elif name.startswith("planted"):
            from tests.fuzz.planted import KINDS as more
        else:
            from tests.fuzz.documents import KINDS as more
        kinds += more
    return {kind.name: kind for kind in kinds if kind.name in names}


def _limit_memory() -> None:
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MORE_MEMORY, mapped + MORE_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _new_place(scratch: Path) -> Place:
    """Creates empty folders, with the input two levels deep, so that writes above it are detected."""
    room = scratch / "room"
    shutil.rmtree(room, ignore_errors=True)
    case = room / "a" / "case"
    case.mkdir(parents=True)
    return Place(scratch.parent / "good", case, scratch / "outputs", room / "canary")


def one_input(kind: Kind, seed: int, scratch: Path, guard: Guard) -> dict[str, Any]:
    """Returns {"outcome": "refused", "accepted" or "traceback", "detail": …, "writes": [...], "runs": [...]}."""
    from stf.errors import StfError

    place = _new_place(scratch)
    outcome, detail = "accepted", ""
    try:
        kind.make(np.random.default_rng([zlib.crc32(kind.name.encode()), seed]), place)
    except Exception:  # noqa: BLE001 - an error of the fuzzer itself is reported too
        return {"outcome": "traceback", "detail": traceback.format_exc(limit=-3), "writes": [], "runs": []}
    with guard as effects:
        try:
            kind.read(place)
        except StfError as error:
            outcome, detail = _refusal(str(error))
        except BaseException:  # noqa: BLE001 - any other exception is a failure of the reader
            outcome, detail = "traceback", traceback.format_exc(limit=-6)[-2000:]
    return {"outcome": outcome, "detail": detail, "writes": effects.writes, "runs": effects.runs}


def _refusal(message: str) -> tuple[str, str]:
    if "\n" in message or not message.strip() or len(message) > MAX_MESSAGE:
        return "traceback", f"not one line of at most {MAX_MESSAGE} characters: {message[:1500]}"
    return "refused", message


@contextmanager
def _quiet() -> Iterator[Any]:
    """Discards what libraries print; yields the stream for the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    yield answers


def main() -> None:
    """`python -m tests.fuzz.worker SCRATCH KIND…`; SCRATCH is beside good/."""
    scratch, names = Path(sys.argv[1]).resolve(), sys.argv[2:]
    outputs, store = scratch / "outputs", scratch.parent / "good" / "store"
    (outputs / "tmp").mkdir(parents=True)
    if store.is_dir():
        shutil.copytree(store, outputs, dirs_exist_ok=True)
    os.environ |= {
        "DVC_ROOT": str(outputs),
        "TMPDIR": str(outputs / "tmp"),
        "MPLCONFIGDIR": str(outputs / "tmp"),
    }
    os.chdir(outputs)
    with _quiet() as answers:
        kinds = load_kinds(names)
        place = _new_place(scratch)
        guard = Guard(place.canary.parent, outputs, place.canary)
        _limit_memory()
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            name, _, seed = line.strip().rpartition(":")
            print(json.dumps(one_input(kinds[name], int(seed), scratch, guard)), file=answers, flush=True)


if __name__ == "__main__":
    main()
