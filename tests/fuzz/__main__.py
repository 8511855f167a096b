"""`python -m tests.fuzz`: feeds thousands of damaged inputs to the project's readers; exits with 1 on a failure."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.fuzz.kinds import SHARES
from tests.fuzz.supervise import COLUMNS, Tally, run_inputs

SHOWN_PER_KIND, MAX_LISTED = 5, 20


def names_of(inputs: int, seed: int, shares: dict[str, float]) -> list[str]:
    """Returns "KIND:SEED" of every input: each kind by its share, at least one; shuffled to spread slow ones."""
    total = sum(shares.values())
    counts = {name: max(1, round(inputs * share / total)) for name, share in shares.items()}
    counts[max(counts, key=lambda name: counts[name])] += inputs - sum(counts.values())
    names = [f"{name}:{seed * 1_000_000 + i}" for name, count in counts.items() for i in range(count)]
    np.random.default_rng(seed).shuffle(names)
    return names


def report(console: Console, tallies: dict[str, Tally]) -> int:
    """Prints the table and the failures; returns how many there are."""
    table = Table(box=None, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name in sorted(tallies):
        table.add_row(name, *(f"{tallies[name].counts[column]:,}" for column in COLUMNS))
    table.add_row(
        "all", *(f"{sum(t.counts[column] for t in tallies.values()):,}" for column in COLUMNS), style="bold"
    )
    console.print(table)
    for tally in tallies.values():
        for name, failure, detail in tally.failures[:SHOWN_PER_KIND]:
            text = f"\n{failure}: --only {name!r}\n{detail.rstrip()}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        if len(tally.failures) > SHOWN_PER_KIND:
            others = " ".join(name for name, _, _ in tally.failures[SHOWN_PER_KIND:][:MAX_LISTED])
            console.print(f"\nand {len(tally.failures) - SHOWN_PER_KIND} more: {others}", highlight=False)
    return sum(len(tally.failures) for tally in tallies.values())


def fuzz(names: Sequence[str], workers: int, limit_s: float, console: Console) -> dict[str, Tally]:
    """Prepares the intact files and runs the inputs in a temporary folder."""
    from tests.fuzz.good import prepare_good

    with tempfile.TemporaryDirectory(prefix="stf-fuzz-") as folder:
        prepare_good(Path(folder) / "good", with_store=any(name.startswith("compare") for name in names))
        start = time.monotonic()

        def progress(done: int) -> None:
            if done % 1000 == 0:
                console.print(f"{done:,} of {len(names):,} inputs, {time.monotonic() - start:.0f} s")

        return run_inputs(names, Path(folder), workers=workers, limit_s=limit_s, progress=progress)


@click.command()
@click.option("--inputs", default=10_000, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option(
    "--workers", default=os.cpu_count() or 1, type=click.IntRange(min=1), help="Processes. [default: cores]"
)
@click.option(
    "--limit",
    "limit_s",
    default=10.0,
    show_default=True,
    help="Seconds after which an input counts as hanging.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="KIND[:SEED]",
    help="Run one kind, or repeat one input; may be given several times.",
)
def main(inputs: int, seed: int, workers: int, limit_s: float, only: tuple[str, ...]) -> None:
    """Damage intact inputs, read them, and count those refused in one line, those accepted, and all failures."""
    console = Console(width=100)
    replayed = [name for name in only if name.rpartition(":")[2].isdecimal()]
    shares = {name: SHARES[name] for name in only if name not in replayed} if only else SHARES
    names = replayed + (names_of(inputs, seed, shares) if shares else [])
    tallies = fuzz(names, min(workers, len(names)), limit_s, console)
    raise SystemExit(1 if report(console, tallies) else 0)


if __name__ == "__main__":
    main()
