"""`pipeline.ablate` from top to bottom: what the store lacks of the grid is queued as DVC experiments, then run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from stf.config import Params, nearest_name
from stf.data.ffpp import recorded_fingerprint
from stf.errors import ConfigError, TrainingError, UsageError
from stf.evaluation.ablation import ROWS, Row, collect
from stf.io.paths import DATA_JSON
from stf.tracking.stored import finished_runs

TARGET = "eval_a"  # with what it depends on; phase B is not trained


def chosen(rows: str | None, seeds: str) -> list[tuple[Row, int]]:
    """Every row with every seed, all rows of one seed first, so that a grid cut short still compares rows."""
    known = {row.key: row for row in ROWS}
    keys = [key.strip() for key in rows.split(",")] if rows is not None else list(known)
    for key in keys:
        if key not in known:
            hint = nearest_name(key, list(known))
            raise UsageError(f'--rows: the grid has no row "{key}"{hint}; its rows: {", ".join(known)}')
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise UsageError(f"--seeds {seeds[:60]}: give whole numbers with commas between them") from None
    for number in numbers:
        try:
            Params(seed=number)
        except ConfigError as error:
            raise UsageError(f"--seeds: {error}") from None
    return [(known[key], seed) for seed in dict.fromkeys(numbers) for key in dict.fromkeys(keys)]


def run_grid(
    experiments: Sequence[tuple[Row, int]], params: Params, jobs: int, *, force: bool, dry_run: bool
) -> None:
    """Queues the (row, seed) pairs that the store does not hold, `jobs` at a time, and works the queue off.

    With `force` all of them, and every stage runs. `dry_run` only prints the commands. Raises TrainingError when a dvc
    command fails or an experiment leaves no run.
    """
    held = set() if force else held_experiments(params)
    due = [(row, seed) for row, seed in experiments if row.experiment(seed) not in held]
    click.echo(f"{len(experiments)} experiments, {len(experiments) - len(due)} of them in the store already")
    environment = dvc_environment(os.environ)
    queueing = [
        [
            "exp",
            "run",
            "--queue",
            "--name",
            row.experiment(seed),
            *(["--force"] if force else []),
            *set_params,
            TARGET,
        ]
        for row, seed in due
        for set_params in [[part for value in row.overrides(seed) for part in ("-S", value)]]
    ]
    working_off = ["exp", "run", "--run-all", "--jobs", str(jobs)]
    if dry_run:
        for arguments in [*queueing, working_off]:
            click.echo(f"dvc {' '.join(arguments)}")
        return
    if due:
        clear_names([row.experiment(seed) for row, seed in due], environment)
        for (row, seed), arguments in zip(due, queueing, strict=True):
            dvc(arguments, environment, quiet=True)
            click.echo(f"queued {row.experiment(seed)}: {row.title}, seed {seed}")
        dvc(working_off, environment)
        require_runs([row.experiment(seed) for row, seed in due], params)
    click.echo("the table: python -m pipeline.compare --grid")


def held_experiments(params: Params) -> set[str]:
    """Names of the experiments whose result the store holds for the verified data and these parameters."""
    fingerprint = recorded_fingerprint(DATA_JSON)
    trainings, evaluations = (finished_runs((stage,), fingerprint) for stage in ("train_phase_a", TARGET))
    cells = collect(trainings, evaluations, params).cells
    return {row.experiment(seed) for row in ROWS for key, seed in cells if key == row.key}


def require_runs(names: Sequence[str], params: Params) -> None:
    """Raises TrainingError naming the experiments that left no run in the store; DVC itself ends with 0."""
    held = held_experiments(params)
    missing = [name for name in names if name not in held]
    if missing:
        raise TrainingError(
            f"{len(missing)} of {len(names)} experiments left no evaluated run: {', '.join(missing)}. `dvc queue logs "
            'NAME` shows why; where it says "cached", DVC restored an earlier result: --force trains it again'
        )


def dvc_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """With this Python first on PATH, since stages run `python`, and a git identity, which DVC's commits need."""
    changed = dict(environment)
    changed["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), changed.get("PATH", "")])
    for key, option, default in (
        ("NAME", "user.name", "stf-mamba"),
        ("EMAIL", "user.email", "stf-mamba@localhost"),
    ):
        known = subprocess.run(
            ("git", "config", option), capture_output=True, text=True, check=False
        ).stdout.strip()
        for role in ("AUTHOR", "COMMITTER"):
            changed.setdefault(f"GIT_{role}_{key}", known or default)
    return changed


def clear_names(names: Sequence[str], environment: Mapping[str, str]) -> None:
    """Takes these names from earlier experiments and from the queue; raises TrainingError while one of them runs."""
    lines = dvc(["queue", "status"], environment, quiet=True).splitlines()
    states = {words[1]: words[-1] for line in lines if len(words := line.split()) > 2 and words[1] in names}
    running = [name for name, state in states.items() if state == "Running"]
    if running:
        raise TrainingError(
            f"{', '.join(running)} is running already; wait, or end it with `dvc queue stop --kill`"
        )
    if states:
        dvc(["queue", "remove", *states], environment, quiet=True)
    known = dvc(["exp", "list", "--name-only"], environment, quiet=True).split()
    old = [name for name in names if name in known]
    if old:
        dvc(["exp", "remove", *old], environment, quiet=True)


def dvc(arguments: Sequence[str], environment: Mapping[str, str], *, quiet: bool = False) -> str:
    """Runs one dvc command; `quiet` keeps its output and returns it. Raises TrainingError with its last line."""
    done = subprocess.run(
        (sys.executable, "-m", "dvc", *arguments),
        env=dict(environment),
        capture_output=quiet,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or "see above").strip().splitlines()[-1]
        raise TrainingError(f"dvc {' '.join(arguments[:2])} failed: {said}")
    return done.stdout or ""
