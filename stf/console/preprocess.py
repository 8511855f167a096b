"""The table and the summary of `preprocess`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from stf.console.tables import WIDTH
from stf.preprocess.report import damaged, remarks
from stf.preprocess.video import VideoEntry

MAX_ROWS = 60
_NUMBERS = ("frames", "fps", "none", "fill", "2+", "big", "cut", "run")
_CAPTION = (
    "none: frames without the tracked face; fill: with an interpolated face; 2+: with several faces;\n"
    "big: with a larger face, omitted; cut: times lost and found again; run: most consecutive"
)


def videos_table(videos: Sequence[VideoEntry]) -> Table:
    """Builds one row per video, those with remarks first; at most MAX_ROWS."""
    table = Table(title="Videos", caption=_CAPTION, width=WIDTH)
    table.add_column("video", overflow="fold", max_width=26)
    for name in _NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("remarks", overflow="fold", ratio=1)
    ordered = sorted(videos, key=lambda entry: (entry.outcome != "failed", not remarks(entry), entry.name))
    for entry in ordered[:MAX_ROWS]:
        counts = (
            entry.faceless,
            entry.filled,
            entry.several,
            entry.larger_left_out,
            entry.jumps,
            entry.longest_run,
        )
        cells = (entry.name, str(entry.frames), f"{entry.fps:.4g}", *map(str, counts), remarks(entry))
        style = "red" if entry.outcome == "failed" else "yellow" if remarks(entry) else None
        table.add_row(*map(escape, cells), style=style)
    if len(ordered) > MAX_ROWS:
        table.add_row(f"… {len(ordered) - MAX_ROWS} more", *[""] * len(_NUMBERS), "in the report")
    return table


def summary(videos: Sequence[VideoEntry], n_refused: int) -> str:
    """For example '27 made, 2 already complete, 1 failed; a face in 99.10% of 8,100 frames; 40 ms per frame'."""
    outcomes = Counter(entry.outcome for entry in videos)
    frames = sum(entry.frames for entry in videos)
    faceless = sum(entry.faceless for entry in videos)
    share = f"; a face in {1 - faceless / frames:.2%} of {frames:,} frames" if frames else ""
    counts = f"{outcomes['made']} made, {outcomes['kept']} already complete, {outcomes['failed'] + n_refused} failed"
    if n_damaged := len(damaged(videos)):
        counts += f", {n_damaged} damaged"
    new = [entry for entry in videos if entry.outcome == "made"]
    seconds, new_frames = sum(entry.seconds for entry in new), sum(entry.frames for entry in new)
    rate = f"; {1000 * seconds / new_frames:.0f} ms per frame in one process" if new_frames else ""
    return counts + share + rate
