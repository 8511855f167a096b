"""`python -m tests.drill`: kills trainings at random moments and reports what was lost; exit code 1 if anything was."""

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
from tests.drill.scenarios import SCENARIOS, STAGE, Scenario
from tests.drill.scratch import Clone, Outcome, make_template, new_clone, set_seed

KILLS_PER_CHAIN = 4
COLUMNS = (
    "kills",
    "resumed",
    "needed git",
    "identical",
    "full CSV",
    "one run",
    "mean steps",
    "max steps",
    "exit s",
)


def table_of(chains: Sequence[Chain]) -> Table:
    """A row per scenario. Every kill counts with the result of its chain; steps are those trained again."""
    table = Table(box=None, pad_edge=False)
    table.add_column("scenario", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name in [scenario.name for scenario in SCENARIOS]:
        if of_scenario := [chain for chain in chains if chain.scenario.name == name]:
            table.add_row(name, *_figures(of_scenario))
    table.add_row("all", *_figures(chains), style="bold")
    return table


def _figures(chains: Sequence[Chain]) -> list[str]:
    kills = [kill for chain in chains for kill in chain.kills]
    repeated = [kill.repeated_steps for kill in kills] or [0]
    return [
        str(len(kills)),
        str(sum(kill.resumed for kill in kills)),
        str(sum(kill.needed_git for kill in kills)),
        *(str(sum(len(chain.kills) for chain in chains if holds(chain))) for holds in (
            lambda chain: chain.identical, lambda chain: chain.csv_complete, lambda chain: chain.runs == 1
        )),
        f"{fmean(repeated):.1f}",
        str(max(repeated)),
        f"{max((kill.exit_s for kill in kills), default=0.0):.1f}",
    ]  # fmt: skip


def _line(chain: Chain) -> str:
    return ", ".join(f"{name} {figure}" for name, figure in zip(COLUMNS, _figures([chain]), strict=True))


def passed(chain: Chain) -> bool:
    """Whether nothing was lost but steps since the last checkpoint."""
    resumed = all(kill.resumed for kill in chain.kills)
    return resumed and chain.identical and chain.csv_complete and chain.runs == 1 and not chain.problems


def uninterrupted(template: Clone, path: Path) -> tuple[float, Outcome]:
    """(seconds, outcome) of a training that is not killed."""
    clone = new_clone(template, path)
    set_seed(clone)
    started_s = time.monotonic()
    clone.run("python", "-m", f"pipeline.{STAGE}")
    return time.monotonic() - started_s, clone.outcome()


def drill(kills: int, scenarios: Sequence[Scenario], seed: int, jobs: int, folder: Path) -> list[Chain]:
    """Chains over the `scenarios` in turn until there are at least `kills`."""
    template = make_template(folder)
    usual_s, expected = uninterrupted(template, folder / "uninterrupted")
    click.echo(f"uninterrupted training: {usual_s:.0f} s")
    numbers, chains = itertools.count(), list[Chain]()

    def one(number: int) -> Chain:
        rng = np.random.default_rng([seed, number])
        moments = [draw_moment(rng, usual_s) for _ in range(KILLS_PER_CHAIN)]
        clone = new_clone(template, folder / f"chain{number:03d}")
        return run_chain(clone, scenarios[number % len(scenarios)], moments, expected, click.echo)

    with ThreadPoolExecutor(jobs) as pool:
        while (done := sum(len(chain.kills) for chain in chains)) < kills:
            n_chains = min(jobs, -(-(kills - done) // KILLS_PER_CHAIN))
            for chain in pool.map(one, itertools.islice(numbers, n_chains)):
                chains.append(chain)
                click.echo(
                    f"{chain.scenario.name}: {'passed' if passed(chain) else 'FAILED'}: {_line(chain)}"
                )
                for problem in chain.problems:
                    click.echo(problem)
    return chains


@click.command()
@click.option("--kills", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Chains at a time.")
@click.option(
    "--scenarios",
    "names",
    multiple=True,
    type=click.Choice([scenario.name for scenario in SCENARIOS]),
    help="LAUNCHER:VICTIM; may be repeated.",
)
@click.option("--keep", type=click.Path(file_okay=False), help="Work in this folder and keep it.")
def main(kills: int, seed: int, jobs: int, names: tuple[str, ...], keep: str | None) -> None:
    """Kill trainings on the sample at random moments, start them again, and compare with an uninterrupted one."""
    # a script's background job ignores Ctrl-C, and so would everything that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    with tempfile.TemporaryDirectory(prefix="stf-drill-") as folder:
        chains = drill(kills, chosen, seed, jobs, Path(keep or folder))
    Console(width=100).print(table_of(chains))
    raise SystemExit(0 if all(map(passed, chains)) else 1)


if __name__ == "__main__":
    main()
