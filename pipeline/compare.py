"""Evaluations side by side, every one against the first; or the ablation grid as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import command, load_params, params_option
from stf.io.paths import DATA_JSON

if TYPE_CHECKING:
    from stf.config import Params, PhaseName
    from stf.evaluation.compare import Contestant
    from stf.tracking.stored import StoredRun

FOLDER = Path("tmp/compare")  # beside DVC: nothing of the pipeline lies there
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@command
@click.argument("runs", nargs=-1, metavar="[RUN]…")
@click.option(
    "--grid", is_flag=True, help="The ablation grid's table instead; `make grid` runs what is missing."
)
@params_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="The JSON file; the picture goes beside it. [default: tmp/compare/compare.json, or grid.json]",
)
def main(runs: tuple[str, ...], grid: bool, params_path: str, output: str | None) -> None:
    """Compare evaluations on the videos that all of them scored: AUC, paired difference, interval, p-value.

    A RUN is an MLflow run's id (or its beginning), its name, a DVC experiment's name, or the path of an evaluation's
    JSON with its scores beside it. A training run stands for its newest evaluation. Without RUN: the V7.3 baseline,
    phase A and phase B of this repository. The first is what the others are held against.
    """
    from stf.errors import UsageError
    from stf.io.outputs import require_own_json

    if grid and runs:
        raise UsageError("--grid takes no RUN: it collects its own")
    if len(runs) == 1 or len(runs) > len(LETTERS):
        raise UsageError(
            f"give at least two runs to compare and at most {len(LETTERS)}, or none for the default"
        )
    path = Path(output) if output else FOLDER / ("grid.json" if grid else "compare.json")
    require_own_json("--output", path, "rows" if grid else "comparisons")
    params = load_params(params_path)
    if grid:
        report_grid(params, path)
    else:
        report_comparison(runs, params, path)


def report_comparison(runs: Sequence[str], params: Params, path: Path) -> None:
    """Finds the runs, compares them, writes and prints the report, and keeps it as a run of its own."""
    import tempfile

    from stf.errors import DataError
    from stf.evaluation.compare import compare, tracked_differences
    from stf.evaluation.compare_console import print_comparison
    from stf.evaluation.compare_document import as_document
    from stf.evaluation.compare_plots import save_comparison_plot
    from stf.evaluation.console import make_console
    from stf.evaluation.document import write_document
    from stf.tracking.run import track

    picture = path.with_suffix(".png")
    found: Sequence[str | StoredRun] = [find(run) for run in runs] if runs else repository_runs(params)
    with tempfile.TemporaryDirectory() as folder:
        contestants = [load(LETTERS[i], run, Path(folder) / LETTERS[i]) for i, run in enumerate(found)]
    fingerprints = {c.fingerprint: c.name for c in contestants if c.fingerprint is not None}
    if len(fingerprints) > 1:
        names = ", ".join(f"{name}: {digest[:8]}" for digest, name in fingerprints.items())
        raise DataError(f"the runs are of different data ({names}); figures on different data do not compare")
    comparisons = compare(contestants)
    write_document(as_document(contestants, comparisons), path)
    save_comparison_plot(contestants, comparisons, picture)
    console = make_console()
    print_comparison(console, contestants, comparisons)
    with track("compare", params=params, fingerprint=next(iter(fingerprints), None)) as run:
        run.tag("compared", ", ".join(c.run_id or c.name for c in contestants))
        run.log(tracked_differences(comparisons))
        run.artifact(path, "comparison")
        run.artifact(picture, "comparison")
    console.print(f"• Written: {path}, {picture}", markup=False)


def find(text: str) -> str | StoredRun:
    """The path of an evaluation's JSON as it is, anything else as a run of the store."""
    from stf.tracking.stored import find_evaluation

    return text if Path(text).suffix == ".json" else find_evaluation(text)


def load(letter: str, found: str | StoredRun, folder: Path) -> Contestant:
    """Reads one evaluation, and what its network and training took from the run that made the weights."""
    from stf.evaluation.compare import Contestant, Costs
    from stf.evaluation.saved import read_evaluation
    from stf.tracking.stored import fetch_evaluation, training_of

    if isinstance(found, str):
        evaluation, name, run_id, fingerprint = read_evaluation(found), found, None, None
    else:
        folder.mkdir()
        evaluation = read_evaluation(fetch_evaluation(found, folder))
        name, run_id, fingerprint = found.label, found.run_id, found.tags.get("data_fingerprint")
    training = training_of(evaluation.weights_sha256)
    costs = Costs() if training is None else Costs.of(training.metrics, training.minutes, training.tags)
    return Contestant(letter, name, run_id, fingerprint, evaluation, costs)


def repository_runs(params: Params) -> list[StoredRun]:
    """V7.3, phase A and phase B as params.yaml has them, on the verified data; says what is missing."""
    from stf.config import STFV8Config
    from stf.data.ffpp import recorded_fingerprint
    from stf.errors import TrackingError
    from stf.evaluation.setting import newest_of
    from stf.tracking.stored import finished_runs

    fingerprint = recorded_fingerprint(DATA_JSON)
    trainings = finished_runs(("train_phase_a", "train_phase_b"), fingerprint)
    phases: tuple[tuple[str, PhaseName, str], ...] = (
        ("V7.3", "a", "make baseline"),
        (STFV8Config.from_params(params, "a").variant(), "a", "dvc repro"),
        (STFV8Config.from_params(params, "b").variant(), "b", "dvc repro"),
    )
    found: list[StoredRun] = []
    missing: list[str] = []
    for variant, phase, makes in phases:
        evaluations = finished_runs((f"eval_{phase}",), fingerprint)
        run = newest_of(variant, phase, evaluations, trainings, params)
        if run is None:
            missing.append(f"{variant} by eval_{phase} (`{makes}` makes it)")
        else:
            found.append(run)
    text = f"not in the store, with this data, params.yaml and seed {params.seed}: {'; '.join(missing)}"
    if len(found) < 2:
        hint = "what DVC restored from its cache made no MLflow run: `dvc repro --force`"
        raise TrackingError(
            f"fewer than two runs to compare; {text}. {hint}, or give two evaluations' JSON files"
        )
    if missing:
        click.secho(f"{text}", fg="yellow")
    return found


def report_grid(params: Params, path: Path) -> None:
    """Collects the finished runs of the ablation grid, writes and prints its table."""
    from stf.data.ffpp import is_sample, recorded_fingerprint
    from stf.errors import TrackingError
    from stf.evaluation.ablation import collect, row_results
    from stf.evaluation.ablation_plot import save_grid_plot
    from stf.evaluation.ablation_report import as_document, print_grid
    from stf.evaluation.console import make_console
    from stf.evaluation.document import write_document
    from stf.tracking.run import track
    from stf.tracking.stored import finished_runs

    fingerprint, synthetic = recorded_fingerprint(DATA_JSON), is_sample(params.data.root)
    trainings, evaluations = (finished_runs((stage,), fingerprint) for stage in ("train_phase_a", "eval_a"))
    grid = collect(trainings, evaluations, params)
    if not grid.cells:
        raise TrackingError(
            "the store holds no evaluated run of the grid with this data and params.yaml; `make grid` makes them, and "
            "`python -m pipeline.ablate --force` those that DVC would restore from its cache, which makes no run"
        )
    results, picture = row_results(grid), path.with_suffix(".png")
    write_document(as_document(results, grid, fingerprint, synthetic), path)
    save_grid_plot(results, synthetic, picture)
    console = make_console()
    print_grid(console, results, grid, synthetic)
    with track("compare", params=params, fingerprint=fingerprint) as run:
        run.tag("compared", "ablation grid")
        run.artifact(path, "comparison")
        run.artifact(picture, "comparison")
    console.print(f"• Written: {path}, {picture}", markup=False)


if __name__ == "__main__":
    main()
