"""What every table on the console has in common."""

from __future__ import annotations

from rich.console import Console

WIDTH = 100


def make_console() -> Console:
    """A recording console of at most 100 columns; exactly 100 where the output is no terminal."""
    console = Console()
    width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    return Console(width=width, highlight=False, record=True)
