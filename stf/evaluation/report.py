"""Writes an evaluation's files: JSON, CSV, plots and, for the plain command, the gate."""

from __future__ import annotations

from pathlib import Path

from stf.errors import DataError
from stf.evaluation.document import as_document, write_document, write_scores
from stf.evaluation.outputs import Outputs
from stf.evaluation.plots import save_roc_plot, save_scores_plot
from stf.evaluation.results import Evaluation
from stf.io.hashing import sha256_of


def write_report(
    evaluation: Evaluation, outputs: Outputs, phase: str, checkpoint: str | Path
) -> tuple[Path, ...]:
    """Writes the JSON document, the scores and both plots; returns their paths. The gate is `write_gate`'s."""
    digest = sha256_of(checkpoint)
    write_document(as_document(evaluation, phase, digest), outputs.document)
    write_scores(evaluation.table, outputs.scores)
    save_roc_plot(evaluation, outputs.roc_plot)
    save_scores_plot(evaluation, outputs.scores_plot)
    return outputs.document, outputs.scores, outputs.roc_plot, outputs.scores_plot


def write_gate(evaluation: Evaluation, outputs: Outputs) -> None:
    """Writes the gate where `outputs` has one; raises DataError, and writes none, when a group has no figures."""
    failed = evaluation.failed_groups()
    if failed:
        hint = "`dvc repro verify_data` lists every defect"
        raise DataError(f"no video of {', '.join(failed)} could be read, so its figures are n/a; {hint}")
    if outputs.gate is not None and evaluation.gate is not None:
        evaluation.gate.write(outputs.gate)
