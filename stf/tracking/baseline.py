"""The overall AUC of this store's V7.3 baseline, for the console report alone (never for a file)."""

from __future__ import annotations

import click

from stf.errors import TrackingError
from stf.tracking.names import OVERALL_AUC
from stf.tracking.store import open_store, store_errors


def baseline_auc(fingerprint: str | None = None) -> float | None:
    """Overall AUC (0 to 1) of the newest finished eval_a of a network with no flag on; None when there is none.

    eval_b's do not count: a phase B without flags has been trained for longer than V7.3 was.
    With `fingerprint` only evaluations of the same data count: figures on different data cannot be compared. For a
    store that fails it warns and returns None.
    """
    try:
        figures = _figures(fingerprint)
    except TrackingError as error:
        click.secho(f"{error}: no baseline to compare with", fg="yellow")
        return None
    return figures[0] if figures else None


def _figures(fingerprint: str | None) -> list[float]:
    store = open_store()
    query = "tags.variant = 'V7.3' AND tags.stage = 'eval_a' AND attributes.status = 'FINISHED'"
    if fingerprint is not None:
        query += f" AND tags.data_fingerprint = '{fingerprint}'"
    with store_errors():
        runs = store.client.search_runs([store.experiment_id], query, order_by=["attributes.start_time DESC"])
    return [run.data.metrics[OVERALL_AUC] for run in runs if OVERALL_AUC in run.data.metrics]
