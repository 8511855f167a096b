"""`python -m tests.drill`: kills trainings at random moments and tells what was lost; exits with 1 if anything was."""

from __future__ import annotations

import itertools
import signal
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.drill.chain import Chain, draw_moment, run_chain
from tests.drill.scratch import Outcome, Place, make_template, new_place, set_seed
from tests.drill.ways import STAGE, WAYS, Way

KILLS_PER_CHAIN = 4
COLUMNS = (
    "kills",
    "resumed",
    "mended",
    "identical",
    "CSV whole",
    "one run",
    "lost mean",
    "lost max",
    "leave s",
)


def table_of(chains: Sequence[Chain]) -> Table:
    """A row per way; every kill counts as its chain came out."""
    table = Table(box=None, pad_edge=False)
    table.add_column("way", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name in [way.name for way in WAYS]:
        if of_way := [chain for chain in chains if chain.way.name == name]:
            table.add_row(name, *_figures(of_way))
    table.add_row("all", *_figures(chains), style="bold")
    return table


def _figures(chains: Sequence[Chain]) -> list[str]:
    kills = [kill for chain in chains for kill in chain.kills]
    lost = [kill.lost_steps for kill in kills] or [0]
    return [
        str(len(kills)),
        str(sum(kill.resumed for kill in kills)),
        str(sum(kill.mended for kill in kills)),
        *(str(sum(len(chain.kills) for chain in chains if good(chain))) for good in (
            lambda chain: chain.identical, lambda chain: chain.csv_whole, lambda chain: chain.runs == 1
        )),
        f"{fmean(lost):.1f}",
        str(max(lost)),
        f"{max((kill.leave_s for kill in kills), default=0.0):.1f}",
    ]  # fmt: skip


def _line(chain: Chain) -> str:
    return ", ".join(f"{name} {figure}" for name, figure in zip(COLUMNS, _figures([chain]), strict=True))


def is_good(chain: Chain) -> bool:
    """Whether nothing was lost but steps since the last state."""
    resumed = all(kill.resumed for kill in chain.kills)
    return resumed and chain.identical and chain.csv_whole and chain.runs == 1 and not chain.trouble


def undisturbed(template: Place, path: Path) -> tuple[float, Outcome]:
    """(seconds of a training that nobody kills, what it leaves)."""
    place = new_place(template, path)
    set_seed(place)
    started_s = time.monotonic()
    place.run("python", "-m", f"pipeline.{STAGE}")
    return time.monotonic() - started_s, place.outcome()


def drill(kills: int, ways: Sequence[Way], seed: int, jobs: int, folder: Path) -> list[Chain]:
    """Chains over the `ways` in turn until there are at least `kills`."""
    template = make_template(folder)
    usual_s, expected = undisturbed(template, folder / "undisturbed")
    click.echo(f"undisturbed training: {usual_s:.0f} s")
    numbers, chains = itertools.count(), list[Chain]()

    def one(number: int) -> Chain:
        rng = np.random.default_rng([seed, number])
        moments = [draw_moment(rng, usual_s) for _ in range(KILLS_PER_CHAIN)]
        place = new_place(template, folder / f"chain{number:03d}")
        return run_chain(place, ways[number % len(ways)], moments, expected, click.echo)

    with ThreadPoolExecutor(jobs) as pool:
        while (done := sum(len(chain.kills) for chain in chains)) < kills:
            wanted = min(jobs, -(-(kills - done) // KILLS_PER_CHAIN))
            for chain in pool.map(one, itertools.islice(numbers, wanted)):
                chains.append(chain)
                click.echo(f"{chain.way.name}: {'good' if is_good(chain) else 'BAD'}: {_line(chain)}")
                for trouble in chain.trouble:
                    click.echo(trouble)
    return chains


@click.command()
@click.option("--kills", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Chains at once.")
@click.option(
    "--ways",
    multiple=True,
    type=click.Choice([way.name for way in WAYS]),
    help="LAUNCHER:VICTIM; may be repeated.",
)
@click.option("--keep", type=click.Path(file_okay=False), help="Work in this folder and leave it.")
def main(kills: int, seed: int, jobs: int, ways: tuple[str, ...], keep: str | None) -> None:
    """Kill trainings on the sample at random moments, start them again, and compare with an undisturbed one."""
    # a script's background job ignores Ctrl-C, and would have all that it starts ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = [way for way in WAYS if not ways or way.name in ways]
    with tempfile.TemporaryDirectory(prefix="stf-drill-") as folder:
        chains = drill(kills, chosen, seed, jobs, Path(keep or folder))
    Console(width=100).print(table_of(chains))
    raise SystemExit(0 if all(map(is_good, chains)) else 1)


if __name__ == "__main__":
    main()
