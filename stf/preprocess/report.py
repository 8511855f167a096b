"""What `preprocess` says of its videos, and the report that it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from stf.preprocess.make import Made


def remarks(made: Made) -> str:
    """Everything worth a look, in one line."""
    return "; ".join((made.problem, *made.notes) if made.problem else made.notes)


def damaged(videos: Sequence[Made]) -> list[Made]:
    """Those of which only the part before some damage could be made."""
    return [made for made in videos if made.outcome != "failed" and made.problem]


def report_json(videos: Sequence[Made], refused: Sequence[str]) -> dict[str, Any]:
    """All entries by name, and the files that were not taken."""
    ordered = sorted(videos, key=lambda made: made.name)
    return {"videos": [dataclasses.asdict(made) for made in ordered], "refused": list(refused)}
