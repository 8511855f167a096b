"""`python -m tests.fuzz`: thousands of spoiled inputs through the project's own readers; exits with 1 on a failure."""

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

SHOWN_PER_KIND, MAX_NAMED = 5, 20


def names_of(inputs: int, seed: int, shares: dict[str, float]) -> list[str]:
    """ "KIND:SEED" of every input: each kind its share of them, at least one; mixed, so that slow ones are spread."""
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
        for name, what, detail in tally.failures[:SHOWN_PER_KIND]:
            told = f"\n{what}: --only {name!r}\n{detail.rstrip()}"
            console.print(told, markup=False, highlight=False, soft_wrap=True)
        if len(tally.failures) > SHOWN_PER_KIND:
            others = " ".join(name for name, _, _ in tally.failures[SHOWN_PER_KIND:][:MAX_NAMED])
            console.print(f"\nand {len(tally.failures) - SHOWN_PER_KIND} more: {others}", highlight=False)
    return sum(len(tally.failures) for tally in tallies.values())


def fuzz(names: Sequence[str], workers: int, limit_s: float, console: Console) -> dict[str, Tally]:
    """Makes the good files, and runs the inputs in a temporary folder."""
    from tests.fuzz.good import prepare_good

    with tempfile.TemporaryDirectory(prefix="stf-fuzz-") as folder:
        prepare_good(Path(folder) / "good", with_store=any(name.startswith("compare") for name in names))
        start = time.monotonic()

        def told(done: int) -> None:
            if done % 1000 == 0:
                console.print(f"{done:,} of {len(names):,} inputs, {time.monotonic() - start:.0f} s")

        return run_inputs(names, Path(folder), workers=workers, limit_s=limit_s, told=told)


@click.command()
@click.option("--inputs", default=10_000, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option(
    "--workers", default=os.cpu_count() or 1, type=click.IntRange(min=1), help="Processes. [default: cores]"
)
@click.option(
    "--limit", "limit_s", default=10.0, show_default=True, help="Seconds after which an input hangs."
)
@click.option(
    "--only", multiple=True, metavar="KIND[:SEED]", help="One kind, or one input again; may be repeated."
)
def main(inputs: int, seed: int, workers: int, limit_s: float, only: tuple[str, ...]) -> None:
    """Spoil good inputs, read them, and count: refused in one line, accepted, or what must never happen."""
    console = Console(width=100)
    replayed = [name for name in only if name.rpartition(":")[2].isdecimal()]
    wanted = {name: SHARES[name] for name in only if name not in replayed} if only else SHARES
    names = replayed + (names_of(inputs, seed, wanted) if wanted else [])
    tallies = fuzz(names, min(workers, len(names)), limit_s, console)
    raise SystemExit(1 if report(console, tallies) else 0)


if __name__ == "__main__":
    main()
