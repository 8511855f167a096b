"""The report of `preprocess`, and what it prints of its videos."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from stf.preprocess.video import VideoEntry


def remarks(entry: VideoEntry) -> str:
    """Returns the entry's problem and notes in one line."""
    return "; ".join((entry.problem, *entry.notes) if entry.problem else entry.notes)


def damaged(entries: Sequence[VideoEntry]) -> list[VideoEntry]:
    """Returns the videos of which only the part before some damage was written."""
    return [entry for entry in entries if entry.outcome != "failed" and entry.problem]


def report_json(entries: Sequence[VideoEntry], refused: Sequence[str]) -> dict[str, Any]:
    """Builds preprocess.json: all entries by name, and the refused files."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    return {"videos": [dataclasses.asdict(entry) for entry in ordered], "refused": list(refused)}
