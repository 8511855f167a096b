"""The table and the summary of `preprocess`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from stf.console.tables import WIDTH
from stf.preprocess.make import Made
from stf.preprocess.report import damaged, remarks

MAX_ROWS = 60
_NUMBERS = ("frames", "fps", "none", "fill", "2+", "big", "cut", "run")
_CAPTION = (
    "none: frames without the followed face; fill: missed and filled in; 2+: with several faces;\n"
    "big: with a larger other face, left out; cut: lost and taken up again; run: most in a row"
)


def videos_table(videos: Sequence[Made]) -> Table:
    """One row per video, those with remarks first; at most MAX_ROWS."""
    table = Table(title="Videos", caption=_CAPTION, width=WIDTH)
    table.add_column("video", overflow="fold", max_width=26)
    for name in _NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("remarks", overflow="fold", ratio=1)
    ordered = sorted(videos, key=lambda made: (made.outcome != "failed", not remarks(made), made.name))
    for made in ordered[:MAX_ROWS]:
        counts = (
            made.faceless,
            made.filled,
            made.several,
            made.larger_left_out,
            made.jumps,
            made.longest_run,
        )
        cells = (made.name, str(made.frames), f"{made.fps:.4g}", *map(str, counts), remarks(made))
        style = "red" if made.outcome == "failed" else "yellow" if remarks(made) else None
        table.add_row(*map(escape, cells), style=style)
    if len(ordered) > MAX_ROWS:
        table.add_row(f"… {len(ordered) - MAX_ROWS} more", *[""] * len(_NUMBERS), "in the report")
    return table


def summary(videos: Sequence[Made], n_refused: int) -> str:
    """'27 made, 2 kept, 1 failed; …'"""
    outcomes = Counter(made.outcome for made in videos)
    frames = sum(made.frames for made in videos)
    faceless = sum(made.faceless for made in videos)
    share = f"; a face in {1 - faceless / frames:.2%} of {frames:,} frames" if frames else ""
    counts = f"{outcomes['made']} made, {outcomes['kept']} complete before, {outcomes['failed'] + n_refused} failed"
    if n_damaged := len(damaged(videos)):
        counts += f", {n_damaged} damaged"
    new = [made for made in videos if made.outcome == "made"]
    seconds, new_frames = sum(made.seconds for made in new), sum(made.frames for made in new)
    rate = f"; {1000 * seconds / new_frames:.0f} ms a frame and process" if new_frames else ""
    return counts + share + rate
