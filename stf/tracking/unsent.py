"""The journals of runs that ended before the store took all they had to say, and how they are sent later."""

from __future__ import annotations

import re
from pathlib import Path

from stf.errors import TrackingError
from stf.tracking.delivery import Delivery
from stf.tracking.journal import Journal, homes
from stf.tracking.memory import RunMemory
from stf.tracking.operations import End, Start
from stf.tracking.store import shown_address, store_uri


def unsent_runs() -> list[Path]:
    """The journals' folders, the oldest first."""
    found = [folder for home in homes() if home.is_dir() for folder in home.iterdir() if folder.is_dir()]
    return sorted(
        (folder for folder in found if re.fullmatch(r"[0-9a-f]{32}", folder.name)),
        key=lambda folder: folder.stat().st_mtime,
    )


def send_run(folder: Path, anywhere: bool = False) -> str:
    """Sends a journal and deletes it; returns the run's name and id, or "" when a running process still uses it.

    With `anywhere` it is sent to the present store, whichever it is for. A run that was killed before it could say how
    it ended is KILLED. Raises TrackingError when the journal is damaged or for another store, or the store fails; what
    was not sent stays.
    """
    try:
        journal = Journal(folder, wait_s=0)
    except TimeoutError:
        return ""
    except OSError as error:
        raise TrackingError(
            f"{folder} cannot be written: {error.strerror or error}; give the right to write"
        ) from None
    try:
        if not anywhere:
            journal.require_store(shown_address(store_uri()))
        ops = journal.read()
        starts = [op for op in ops if isinstance(op, Start)]
        if starts and starts[0].token != folder.name:
            raise TrackingError(f"{folder} holds the journal of another run; move it away")
        if starts:
            if not isinstance(ops[-1], End):
                journal.append(End("KILLED", journal.written_ms()))
            memory = RunMemory(None, "", "", folder.name)
            Delivery(journal, memory).send_all()
            told = f"{starts[0].name} {memory.run_id}"
        else:
            told = "a run that had said nothing yet"
        journal.remove()
    finally:
        journal.close()
    return told
