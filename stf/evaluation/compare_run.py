"""`pipeline.compare` from top to bottom: runs → comparison or grid → files → console → tracking."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from stf.config import Params, PhaseName, STFV8Config
from stf.console.ablation import print_grid
from stf.console.comparison import print_comparison
from stf.console.tables import make_console
from stf.data.ffpp import is_sample, recorded_fingerprint
from stf.errors import DataError, TrackingError
from stf.evaluation.ablation import HOW, INTERVAL, collect, row_results
from stf.evaluation.ablation import as_document as grid_document
from stf.evaluation.compare import (
    BOOTSTRAP_NOTE,
    DELONG_NOTE,
    Contestant,
    Costs,
    compare,
    is_synthetic,
    tracked_differences,
)
from stf.evaluation.compare import as_document as comparison_document
from stf.evaluation.outputs import read_evaluation, write_document
from stf.evaluation.plots import save_comparison_plot, save_grid_plot
from stf.evaluation.results import SYNTHETIC_NOTE
from stf.evaluation.stored_runs import newest_of
from stf.io.paths import DATA_JSON
from stf.tracking.run import track
from stf.tracking.stored import StoredRun, fetch_evaluation, find_evaluation, finished_runs, training_of


def report_comparison(runs: Sequence[str], params: Params, path: Path) -> None:
    """Finds the runs, compares them, writes and prints the report, and keeps it as a run of its own."""
    picture = path.with_suffix(".png")
    sources: Sequence[str | StoredRun] = [find(run) for run in runs] if runs else repository_runs(params)
    with tempfile.TemporaryDirectory() as folder:
        labels = [
            f"R{i}" for i in range(1, len(sources) + 1)
        ]  # what a report calls them: variants have the names A and B
        contestants = [
            load(label, run, Path(folder) / label) for label, run in zip(labels, sources, strict=True)
        ]
    fingerprints = {c.fingerprint: c.name for c in contestants if c.fingerprint is not None}
    if len(fingerprints) > 1:
        names = ", ".join(f"{name}: {digest[:8]}" for digest, name in fingerprints.items())
        raise DataError(f"the runs are of different data ({names}); figures on different data do not compare")
    comparisons = compare(contestants)
    write_document(comparison_document(contestants, comparisons), path)
    synthetic = is_synthetic(contestants)
    save_comparison_plot(contestants, comparisons, synthetic, picture)
    console = make_console()
    warning = SYNTHETIC_NOTE if synthetic else None
    print_comparison(
        console, contestants, comparisons, warning=warning, methods=(DELONG_NOTE, BOOTSTRAP_NOTE)
    )
    with track("compare", params=params, fingerprint=next(iter(fingerprints), None)) as run:
        run.tag("compared", ", ".join(c.run_id or c.name for c in contestants))
        run.log(tracked_differences(comparisons))
        run.artifact(path, "comparison")
        run.artifact(picture, "comparison")
    console.print(f"• Written: {path}, {picture}", markup=False)


def find(text: str) -> str | StoredRun:
    """The path of an evaluation's JSON as it is, anything else as a run of the store."""
    return text if Path(text).suffix == ".json" else find_evaluation(text)


def load(label: str, source: str | StoredRun, folder: Path) -> Contestant:
    """Reads one evaluation, and what its network and training took from the run that made the weights."""
    if isinstance(source, str):
        evaluation, name, run_id, fingerprint = read_evaluation(source), source, None, None
    else:
        folder.mkdir()
        evaluation = read_evaluation(fetch_evaluation(source, folder))
        name, run_id, fingerprint = source.label, source.run_id, source.tags.get("data_fingerprint")
    training = training_of(evaluation.weights_sha256)
    costs = Costs() if training is None else Costs.of(training.metrics, training.minutes, training.tags)
    return Contestant(label, name, run_id, fingerprint, evaluation, costs)


def repository_runs(params: Params) -> list[StoredRun]:
    """V7.3, phase A and phase B as params.yaml has them, on the verified data; says what is missing."""
    fingerprint = recorded_fingerprint(DATA_JSON)
    trainings = finished_runs(("train_phase_a", "train_phase_b"), fingerprint)
    phases: tuple[tuple[str, PhaseName, str], ...] = (
        ("V7.3", "a", "make baseline"),
        (STFV8Config.from_params(params, "a").variant(), "a", "dvc repro"),
        (STFV8Config.from_params(params, "b").variant(), "b", "dvc repro"),
    )
    runs: list[StoredRun] = []
    missing: list[str] = []
    for variant, phase, makes in phases:
        evaluations = finished_runs((f"eval_{phase}",), fingerprint)
        run = newest_of(variant, phase, evaluations, trainings, params)
        if run is None:
            missing.append(f"{variant} by eval_{phase} (`{makes}` makes it)")
        else:
            runs.append(run)
    text = f"not in the store, with this data, params.yaml and seed {params.seed}: {'; '.join(missing)}"
    if len(runs) < 2:
        hint = "what DVC restored from its cache made no MLflow run: `dvc repro --force`"
        raise TrackingError(
            f"fewer than two runs to compare; {text}. {hint}, or give two evaluations' JSON files"
        )
    if missing:
        click.secho(f"{text}", fg="yellow")
    return runs


def report_grid(params: Params, path: Path) -> None:
    """Collects the finished runs of the ablation grid, writes and prints its table."""
    fingerprint, synthetic = recorded_fingerprint(DATA_JSON), is_sample(params.data.root)
    trainings, evaluations = (finished_runs((stage,), fingerprint) for stage in ("train_phase_a", "eval_a"))
    grid = collect(trainings, evaluations, params)
    if not grid.cells:
        raise TrackingError(
            "the store holds no evaluated run of the grid with this data and params.yaml; `make grid` makes them, and "
            "`python -m pipeline.ablate --force` those that DVC would restore from its cache, which makes no run"
        )
    results, picture = row_results(grid), path.with_suffix(".png")
    write_document(grid_document(results, grid, fingerprint, synthetic), path)
    save_grid_plot(results, synthetic, picture)
    console = make_console()
    warning = SYNTHETIC_NOTE if synthetic else None
    print_grid(console, results, grid, warning=warning, methods=(HOW, INTERVAL))
    with track("compare", params=params, fingerprint=fingerprint) as run:
        run.tag("compared", "ablation grid")
        run.artifact(path, "comparison")
        run.artifact(picture, "comparison")
    console.print(f"• Written: {path}, {picture}", markup=False)
