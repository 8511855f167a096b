"""One run in the store, by MLflow's plain client. Doing any of this twice is the same as doing it once."""

from __future__ import annotations

import shutil
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from mlflow.entities import Metric, Param, RunTag

from stf.tracking.record import Entry
from stf.tracking.store import Store

Point = tuple[str, int, int]  # key, step, ms since 1970
MODEL_NAME = "stf-mamba"
TOKEN_TAG = "run_token"  # finds a run even if the answer to its creation was lost
_MAX_POINTS, _MAX_PAIRS = 1000, 100  # MLflow's limits of metrics, and of parameters and tags, in one call


@dataclass(frozen=True)
class MlflowRun:
    """A run that exists."""

    store: Store
    run_id: str

    def log(
        self, points: Sequence[Metric] = (), params: Mapping[str, str] = {}, tags: Mapping[str, str] = {}
    ) -> None:
        """Writes all of it in as few calls as MLflow allows."""
        log_batch = self.store.client.log_batch
        for start in range(0, len(points), _MAX_POINTS):
            log_batch(self.run_id, metrics=points[start : start + _MAX_POINTS])
        all_params = [Param(key, value) for key, value in params.items()]
        all_tags = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, max(len(all_params), len(all_tags)), _MAX_PAIRS):
            batch = slice(start, start + _MAX_PAIRS)
            log_batch(self.run_id, params=all_params[batch], tags=all_tags[batch])

    def send(self, entries: Sequence[Entry], files: Path, stored: Container[Point] = ()) -> None:
        """Writes reports, except the points in `stored`; what is in the folder `files` is moved to its artifacts."""
        tags: dict[str, str] = {}
        params: dict[str, str] = {}
        for entry in entries:
            params |= entry.params
            # the error that ended an earlier part is not this run's
            if entry.status is None or entry is entries[-1]:
                tags |= entry.tags
        points = [_metric(e, key) for e in entries for key in e.metrics if (key, e.step, e.ms) not in stored]
        self.log(points, params, tags)
        for entry in entries:
            training = self.link(entry.links, entry.linked_weights) if entry.linked_weights else None
            if training is not None:  # MLflow ignores a point that it has
                training.log([_metric(entry, key) for key in entry.metrics])
        if files.is_dir():
            self.store.client.log_artifacts(self.run_id, str(files))
            shutil.rmtree(files)
        for model in [entry.model for entry in entries if entry.model is not None][-1:]:
            self.register(model)  # its files are those of the last one
        if entries and entries[-1].status is not None:
            self.store.client.set_terminated(self.run_id, entries[-1].status, entries[-1].ms)

    def points(self) -> set[Point]:
        """The points that the run has. A step that was logged by one part of a run has one time."""
        client = self.store.client
        keys = client.get_run(self.run_id).data.metrics
        history = (point for key in keys for point in client.get_metric_history(self.run_id, key))
        return {(point.key, point.step, point.timestamp) for point in history}

    def link(self, tags: Iterable[str], weights_sha256: str) -> MlflowRun | None:
        """Sets tags to the id of the newest training run that made these weights; returns it, None if there is none."""
        query = f"tags.weights_sha256 = '{weights_sha256}' AND tags.stage LIKE 'train%'"
        newest = ["attributes.start_time DESC"]
        runs = self.store.client.search_runs(
            [self.store.experiment_id], query, order_by=newest, max_results=1
        )
        if not runs:
            return None
        self.log(tags=dict.fromkeys(tags, runs[0].info.run_id))
        return MlflowRun(self.store, runs[0].info.run_id)

    def register(self, tags: Mapping[str, str]) -> None:
        """Makes the artifacts in model/ (weights file and JSON, no pickle) the model's next version.

        The same weights (tag weights_sha256) are registered once in a run, however often it is resumed.
        """
        client = self.store.client
        known = client.search_model_versions(f"name = '{MODEL_NAME}' AND run_id = '{self.run_id}'")
        same = [known_ for known_ in known if known_.tags.get("weights_sha256") == tags["weights_sha256"]]
        if not same:
            if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
                about = "Video deepfake detector trained on real videos"
                client.create_registered_model(MODEL_NAME, description=about)
            source, about = f"{client.get_run(self.run_id).info.artifact_uri}/model", tags["variant"]
            version = client.create_model_version(
                MODEL_NAME, source, self.run_id, dict(tags), description=about, await_creation_for=0
            )
            same = [version]
        client.set_tag(self.run_id, "registered_model", f"{MODEL_NAME} v{same[0].version}")


def find_or_create(store: Store, entries: Sequence[Entry]) -> MlflowRun:
    """The run that these entries report, made if need be; it is running, without the error of an earlier part."""
    starts, client = [entry.start for entry in entries if entry.start is not None], store.client
    runs = client.search_runs([store.experiment_id], f"tags.{TOKEN_TAG} = '{starts[0].token}'")
    if not runs:
        if len(starts) > 1:
            click.echo(
                f"the MLflow run of this training is not in {store.uri}: it is created from its record"
            )
        tags = {TOKEN_TAG: starts[0].token}
        runs = [client.create_run(store.experiment_id, entries[0].ms, tags=tags, run_name=starts[0].name)]
    run = runs[0]
    if run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")
    if "error" in run.data.tags:
        client.delete_tag(run.info.run_id, "error")
    return MlflowRun(store, run.info.run_id)


def _metric(entry: Entry, key: str) -> Metric:
    return Metric(key, entry.metrics[key], entry.ms, entry.step)
