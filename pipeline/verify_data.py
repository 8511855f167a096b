"""Checks whether the data are ready for training: counts, defects, and a leak audit of Video-SBI's pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import command, load_params, params_option
from stf.io.paths import DATA_JSON

if TYPE_CHECKING:
    from rich.console import Console

    from stf.audit.verify import Verification
    from stf.config import Params
    from stf.data.ffpp import FFPPTree
    from stf.tracking.run import TrackedRun

DATA_DETAILS = "metrics/data_details.json"
AUDIT_JSON = "metrics/leak_audit.json"
AUDIT_DETAILS = "metrics/leak_audit_details.json"
PAIRS_PNG = "metrics/plots/sample_pairs.png"
N_PICTURED_PAIRS = 4


@command
@params_option
@click.option(
    "-v", "--verbose", is_flag=True, help="Also print the tables of videos, leak probes and test videos."
)
def main(params_path: str, verbose: bool) -> None:
    """Check the data set and audit the training pairs; generate the built-in sample if it is missing.

    Prints the number of videos, a table of all defects and the result of the leak audit; writes metrics/data.json and
    metrics/leak_audit.json, with their details beside them. Exits with 1 when a defect would make training or
    evaluation fail, or when a probe of the background separates Video-SBI's fakes from its reals.
    """
    import io

    import cv2

    from stf.audit.report import data_details, data_metrics
    from stf.audit.verify import require_ready
    from stf.console.tables import make_console
    from stf.data.ffpp import FFPPTree, fingerprint_of
    from stf.io.outputs import write_json
    from stf.tracking.run import track

    cv2.setNumThreads(0)  # the work is distributed over processes
    params, console = load_params(params_path), make_console()
    tables = console if verbose else make_console(file=io.StringIO())  # the MLflow run keeps a copy
    root = params.data.root
    prepare_root(root, console)
    tree, fingerprint, ready = FFPPTree(root), fingerprint_of(root), False
    for path in (AUDIT_JSON, AUDIT_DETAILS):
        Path(path).unlink(missing_ok=True)  # it may belong to other data
    with track("verify_data", params=params, fingerprint=fingerprint) as run:
        verification = check(tree, params, console, tables, run)
        try:
            require_ready(verification)
            audit(tree, params, console, tables, run)
            ready = True
        finally:
            write_json(DATA_JSON, data_metrics(verification, root, fingerprint, ready))
            write_json(DATA_DETAILS, data_details(verification))
            run.artifact(DATA_JSON)
            run.artifact(DATA_DETAILS)
            run.text(tables.export_text(clear=False), "verify_data.txt")
    n_videos, n_frames = verification.n_videos, verification.n_frames
    console.print(f"[bold green]{n_videos:,} videos, {n_frames:,} total frames, ready to train[/]")


def prepare_root(root: str, console: Console) -> None:
    """Generates the sample if it is the root and missing; for another root, creates an empty folder in its place."""
    from stf.config import SAMPLE_ROOT
    from stf.console.progress import progress_bar
    from stf.data.ffpp import is_sample, tree_folder
    from stf.sample.build import generate_sample

    if not is_sample(root):
        Path(SAMPLE_ROOT).mkdir(parents=True, exist_ok=True)  # the stage's out must exist for any data.root
    elif not tree_folder(root).is_dir():
        console.print(f"{root} is missing: generating the synthetic sample")
        with progress_bar(console, "generating") as advance:
            generate_sample(Path(root), progress=advance)


def check(tree: FFPPTree, params: Params, console: Console, tables: Console, run: TrackedRun) -> Verification:
    """Runs all checks except the audit; prints and records the result."""
    import dataclasses

    from stf.audit.sample_load import load_one_pair
    from stf.audit.verify import verify_tree
    from stf.console.progress import progress_bar
    from stf.console.verification import counts_table, defects_table, print_counts

    with progress_bar(console, "checking videos") as advance:
        verification = verify_tree(tree, params.data, params.runtime.num_workers, advance)
    load_defects = load_one_pair(params.data, params.sbi)
    verification = dataclasses.replace(verification, defects=(*load_defects, *verification.defects))
    tables.print(counts_table(verification))
    print_counts(console, verification)
    if verification.defects:
        console.print(defects_table(verification.defects))
    n_errors = len(verification.errors)
    n_warnings = len(verification.defects) - n_errors
    loaded = "one pair each of train and val loads" if not load_defects else "a pair does not load"
    console.print(f"{n_errors} errors, {n_warnings} warnings; {loaded}")
    counts = {"videos": verification.n_videos, "frames": verification.n_frames, "errors": n_errors}
    run.log({f"data.{name}": value for name, value in (counts | {"warnings": n_warnings}).items()})
    return verification


def audit(tree: FFPPTree, params: Params, console: Console, tables: Console, run: TrackedRun) -> None:
    """Runs the leak audit; prints and records it with sample pairs. Raises DataError when a probe leaks the label."""
    from stf.audit.leak_audit import require_no_leak, run_audit
    from stf.audit.report import audit_details, audit_metrics, tracked_audit
    from stf.audit.sample_load import sample_pairs
    from stf.audit.test_set_baselines import compute_baselines, measure_test_videos
    from stf.console.progress import progress_bar
    from stf.console.verification import audit_table, baselines_table, print_audit
    from stf.data.ffpp import is_sample
    from stf.io.outputs import write_json, write_png
    from stf.tracking.pictures import pairs_figure

    n_workers = params.runtime.num_workers
    with progress_bar(console, "auditing pairs") as advance:
        report = run_audit(params.data, params.sbi, params.audit, n_workers=n_workers, progress=advance)
    print_audit(console, report)
    (console if report.leaking else tables).print(audit_table(report, params.audit))
    baselines = compute_baselines(measure_test_videos(tree, params.data, n_workers))
    tables.print(baselines_table(baselines, synthetic=is_sample(params.data.root)))
    write_json(AUDIT_JSON, audit_metrics(report))
    write_json(AUDIT_DETAILS, audit_details(report, baselines, params.audit))
    write_png(PAIRS_PNG, pairs_figure(sample_pairs(params.data, params.sbi, N_PICTURED_PAIRS)))
    run.log(tracked_audit(report))
    run.artifact(AUDIT_JSON)
    run.artifact(AUDIT_DETAILS)
    run.artifact(PAIRS_PNG, "plots")
    require_no_leak(report)


if __name__ == "__main__":
    main()
