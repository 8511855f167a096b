"""Checks whether the data are ready for training: counts, defects, and a leak audit of Video-SBI's pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import command, load_params, params_option
from stf.io.paths import DATA_JSON

if TYPE_CHECKING:
    from rich.console import Console

    from stf.audit.verify import Verification
    from stf.config import Params
    from stf.data.ffpp import FFPPTree
    from stf.tracking.run import TrackedRun

AUDIT_JSON = "metrics/leak_audit.json"
PAIRS_PNG = "metrics/plots/sample_pairs.png"
N_PICTURED_PAIRS = 4


@command
@params_option
def main(params_path: str) -> None:
    """Check the data set and audit the training pairs; generate the built-in sample if it is missing.

    Prints the videos on disk, a table of all defects and the leak audit; writes metrics/data.json and
    metrics/leak_audit.json. Exits with 1 when a defect would make training or evaluation fail, or when a probe of the
    background separates Video-SBI's fakes from its reals.
    """
    import cv2

    from stf.audit.report import data_json
    from stf.audit.verify import require_ready
    from stf.console.tables import make_console
    from stf.data.ffpp import FFPPTree, fingerprint_of
    from stf.io.outputs import write_json
    from stf.tracking.run import track

    cv2.setNumThreads(0)  # the work is distributed over processes
    params, console = load_params(params_path), make_console()
    root = params.data.root
    prepare_root(root, console)
    tree, fingerprint, ready = FFPPTree(root), fingerprint_of(root), False
    Path(AUDIT_JSON).unlink(missing_ok=True)  # it may belong to other data
    with track("verify_data", params=params, fingerprint=fingerprint) as run:
        verification = check(tree, params, console, run)
        try:
            require_ready(verification)
            audit(tree, params, console, run)
            ready = True
        finally:
            write_json(DATA_JSON, data_json(verification, root, fingerprint, ready))
            run.artifact(DATA_JSON)
            record_output(console, run)
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


def check(tree: FFPPTree, params: Params, console: Console, run: TrackedRun) -> Verification:
    """Runs all checks except the audit; prints and records the result."""
    import dataclasses

    from stf.audit.sample_load import load_one_pair
    from stf.audit.verify import verify_tree
    from stf.console.progress import progress_bar
    from stf.console.verification import counts_table, defects_table

    with progress_bar(console, "checking videos") as advance:
        verification = verify_tree(tree, params.data, params.runtime.num_workers, advance)
    loads = load_one_pair(params.data, params.sbi)
    verification = dataclasses.replace(verification, defects=(*loads, *verification.defects))
    console.print(counts_table(verification))
    n_errors = len(verification.errors)
    n_warnings = len(verification.defects) - n_errors
    if verification.defects:
        console.print(defects_table(verification.defects))
    console.print(
        f"{n_errors} errors, {n_warnings} warnings; one pair of train and val {'' if not loads else 'not '}loaded"
    )
    counts = {"videos": verification.n_videos, "frames": verification.n_frames, "errors": n_errors}
    run.log({f"data.{name}": value for name, value in (counts | {"warnings": n_warnings}).items()})
    return verification


def audit(tree: FFPPTree, params: Params, console: Console, run: TrackedRun) -> None:
    """Runs the leak audit; prints and records it with sample pairs. Raises DataError when a probe leaks the label."""
    from stf.audit.leak_audit import require_no_leak, run_audit
    from stf.audit.report import audit_json, audit_metrics
    from stf.audit.sample_load import sample_pairs
    from stf.audit.test_set_baselines import compute_baselines, measure_test_videos
    from stf.console.progress import progress_bar
    from stf.console.verification import audit_table, baselines_table
    from stf.data.ffpp import is_sample
    from stf.io.outputs import write_json, write_png
    from stf.tracking.pictures import pairs_figure

    n_workers = params.runtime.num_workers
    with progress_bar(console, "auditing pairs") as advance:
        report = run_audit(params.data, params.sbi, params.audit, n_workers=n_workers, progress=advance)
    console.print(audit_table(report, params.audit))
    baselines = compute_baselines(measure_test_videos(tree, params.data, n_workers))
    console.print(baselines_table(baselines, synthetic=is_sample(params.data.root)))
    write_json(AUDIT_JSON, audit_json(report, baselines, params.audit))
    write_png(PAIRS_PNG, pairs_figure(sample_pairs(params.data, params.sbi, N_PICTURED_PAIRS)))
    run.log(audit_metrics(report))
    run.artifact(AUDIT_JSON)
    run.artifact(PAIRS_PNG, "plots")
    require_no_leak(report)


def record_output(console: Console, run: TrackedRun) -> None:
    """Logs everything printed so far as an artifact of the run."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "verify_data.txt"
        path.write_text(console.export_text(clear=False), encoding="utf-8")
        run.artifact(path)


if __name__ == "__main__":
    main()
