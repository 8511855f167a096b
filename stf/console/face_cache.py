"""Texts about the face cache: its cost, and the clips it does not contain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from stf.data.cache.build import BuiltVideo, Estimate

MAX_LISTED = 10


def cost_text(planned: Estimate, n_workers: int) -> str:
    """'720 videos, 367,200 frames: 190.2 GB (518 kB per frame), about 101 core-minutes, 13 minutes in 8 processes'."""
    size = f"{planned.n_bytes / 1e9:,.1f} GB ({planned.n_bytes / max(1, planned.n_frames) / 1e3:,.0f} kB per frame)"
    minutes, n_processes = planned.core_seconds / 60, max(1, n_workers)
    where = "one process" if n_processes == 1 else f"{n_processes} processes"
    time = f"about {minutes:,.1f} core-minutes, {minutes / n_processes:,.1f} minutes in {where}"
    return f"{planned.n_videos:,} videos, {planned.n_frames:,} frames: {size}, {time}"


def print_uncached(built: Sequence[BuiltVideo], console: Console) -> None:
    """Lists the videos of which some clips are still read from the PNGs, and why."""
    partial = [video for video in built if video.problem]
    for video in partial[:MAX_LISTED]:
        cached = f"{video.n_cached} of {video.n_clips} clips are cached"
        console.print(
            f"{video.name}: {cached}; {video.problem}", style="yellow", markup=False, soft_wrap=True
        )
    if len(partial) > MAX_LISTED:
        console.print(
            f"and {len(partial) - MAX_LISTED} more such videos; `dvc repro verify_data` lists all of them"
        )
