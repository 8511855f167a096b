"""What every table on the console has in common."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import IO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 100
# box.SIMPLE_HEAD with a rule of ASCII, whose bytes are its columns in a log file too
RULE_BELOW_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
FEW_CLUSTERS = 10  # with fewer clusters of people a bootstrap's interval is too narrow


def make_console(file: IO[str] | None = None) -> Console:
    """A recording console of at most 100 columns; exactly 100 where `file` (default: stdout) is no terminal."""
    console = Console(file=file)
    width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    return Console(file=file, width=width, highlight=False, record=True)


def make_table(title: str, *columns: str) -> Table:
    """An empty table; the first column is left-justified, the others right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=RULE_BELOW_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def percent(value: float | None) -> str:
    """A share in [0, 1] as per cent with one decimal; None is n/a."""
    return "n/a" if value is None else f"{100 * value:.1f}"


def number(value: float | None, scale: float, decimals: int) -> str:
    """`value`·`scale` with that many decimals; None is n/a."""
    return "n/a" if value is None else f"{value * scale:.{decimals}f}"


def print_notes(console: Console, texts: Iterable[str]) -> None:
    """Sentences as bullets."""
    for text in texts:
        lines = textwrap.wrap(text, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
        console.print(escape("\n  ".join(["• " + lines[0], *lines[1:]])), soft_wrap=True)
