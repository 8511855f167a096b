"""Runs read back from the store, for the commands that compare them. No stage of the pipeline may use this."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run

from stf.errors import TrackingError, UsageError
from stf.tracking.delivery import send_unsent
from stf.tracking.store import Store, open_store, store_errors

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # two files of a few kB

EVALUATION_FOLDER = "evaluation"  # of the artifacts of an eval_* run
SHOWN_ID = 8  # characters of a run id in messages
_MIN_PREFIX = 4
_FINISHED = "attributes.status = 'FINISHED'"
_MAX_LISTED = 5


@dataclass(frozen=True)
class StoredRun:
    """One run as the store holds it; metrics are the last values."""

    run_id: str
    name: str
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    minutes: float | None

    @property
    def stage(self) -> str:
        return self.tags.get("stage", "")

    @property
    def label(self) -> str:
        """Name and the beginning of the id."""
        return f"{self.name} {self.run_id[:SHOWN_ID]}"


def finished_runs(stages: Sequence[str], fingerprint: str) -> list[StoredRun]:
    """The finished runs of these stages on the data with that fingerprint, newest first."""
    store = open_up_to_date()
    queries = [
        f"tags.stage = '{stage}' AND tags.data_fingerprint = '{fingerprint}' AND {_FINISHED}"
        for stage in stages
    ]
    runs = [run for query in queries for run in _search(store, query)]
    return [_stored(run) for run in sorted(runs, key=lambda run: -run.info.start_time)]


def find_evaluation(text: str) -> StoredRun:
    """The evaluation that `text` identifies: a run's id, the beginning of it, a run's name, or a DVC experiment's.

    A training run stands for its newest finished evaluation; of several runs with that name the newest counts.
    Raises UsageError when nothing or more than one id fits, TrackingError when there is no finished evaluation.
    """
    store = open_up_to_date()
    runs = _matching(store, text)
    if not runs:
        raise UsageError(
            f'no run in {store.uri} has "{text}" as its id, the beginning of its id (≥ {_MIN_PREFIX} characters), its '
            "name or its DVC experiment, and it is no evaluation's .json file; `make ui` lists the runs"
        )
    evaluations = [run for run in runs if run.stage.startswith("eval")]
    finished = [run for run in evaluations if run.status == "FINISHED"]
    if finished:
        return finished[0]
    if evaluations:
        raise TrackingError(
            f"{evaluations[0].label} ended {evaluations[0].status}: its evaluation is not whole"
        )
    trainings = [run for run in runs if run.stage.startswith("train")]
    if not trainings:
        raise UsageError(f"{runs[0].label} is a run of {runs[0].stage}, neither evaluation nor training")
    of_weights = [each for run in trainings for each in _evaluations_of(store, run)]
    if not of_weights:
        raise TrackingError(
            f"{trainings[0].label} has no finished evaluation; its weights are an artifact of the run: "
            "python -m pipeline.eval_a --checkpoint FILE"
        )
    return of_weights[0]


def training_of(weights_sha256: str) -> StoredRun | None:
    """The newest finished training run that made these weights; None when the store has none."""
    if not re.fullmatch(r"[0-9a-f]{64}", weights_sha256):
        return None
    query = f"tags.weights_sha256 = '{weights_sha256}' AND tags.stage LIKE 'train%' AND {_FINISHED}"
    runs = _search(open_store(), query)
    return _stored(runs[0]) if runs else None


def fetch_evaluation(run: StoredRun, folder: Path) -> Path:
    """Copies the run's evaluation details and scores into `folder`; returns the details' path.

    Raises TrackingError when the run does not hold exactly one of them.
    """
    store = open_store()
    with store_errors():
        names = [file.path for file in store.client.list_artifacts(run.run_id, EVALUATION_FOLDER)]
    details = [name for name in names if name.endswith("_details.json")]
    scores = [f"{name.removesuffix('_details.json')}_scores.csv" for name in details]
    if len(details) != 1 or scores[0] not in names:
        raise TrackingError(
            f"{run.label} does not hold one evaluation's details and scores; evaluate it again"
        )
    try:
        with store_errors():
            download = store.client.download_artifacts
            places = [download(run.run_id, name, str(folder)) for name in (scores[0], details[0])]
    except OSError as error:
        raise TrackingError(f"{run.label}: {error}") from None
    return Path(places[-1])


def open_up_to_date() -> Store:
    """The store, after earlier runs' unsent reports went there; raises TrackingError when it does not answer."""
    store = open_store()
    send_unsent()
    return store


def _matching(store: Store, text: str) -> list[StoredRun]:
    """The runs that `text` can mean, newest first; raises UsageError for a beginning that several ids share."""
    if re.fullmatch(rf"[0-9a-f]{{{_MIN_PREFIX},32}}", text):
        runs = _search(store, f"attributes.run_id LIKE '{text}%'")
        if len(runs) > 1:
            ids = ", ".join(run.info.run_id[: SHOWN_ID + 4] for run in runs[:_MAX_LISTED])
            more = ", …" if len(runs) > _MAX_LISTED else ""
            raise UsageError(
                f'"{text}" is the beginning of {len(runs)} run ids: {ids}{more}; give more of it'
            )
        if runs:
            return [_stored(runs[0])]
    if "'" in text or "\\" in text:  # no name of ours, and MLflow's filters cannot hold it
        return []
    for key in ("attributes.run_name", "tags.dvc.experiment"):
        runs = _search(store, f"{key} = '{text}'")
        if runs:
            return [_stored(run) for run in runs]
    return []


def _evaluations_of(store: Store, training: StoredRun) -> list[StoredRun]:
    """By the weights' hash, not by the parent run: equal weights are tied to the newest run that made them."""
    digest = training.tags.get("weights_sha256")
    if digest is None:
        return []
    query = f"tags.weights_sha256 = '{digest}' AND tags.stage LIKE 'eval%' AND {_FINISHED}"
    return [_stored(run) for run in _search(store, query)]


def _search(store: Store, query: str) -> list[Run]:
    """Every run that fits, newest first, however many there are."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        with store_errors():
            page = store.client.search_runs(
                [store.experiment_id], query, order_by=["attributes.start_time DESC"], page_token=token
            )
        runs += page
        token = page.token
        if not token:
            return runs


def _stored(run: Run) -> StoredRun:
    info, data = run.info, run.data
    minutes = (info.end_time - info.start_time) / 60_000 if info.end_time else None
    name = info.run_name or "run"
    return StoredRun(info.run_id, name, info.status, data.params, data.tags, data.metrics, minutes)
