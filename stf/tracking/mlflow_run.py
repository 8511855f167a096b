"""One run in the store, by MLflow's plain client. Doing any of this twice is the same as doing it once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Metric, Param, Run, RunTag

from stf.tracking.store import Store

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

    def keep(self, folder: Path) -> None:
        """Makes what is in `folder` artifacts, at the same paths."""
        self.store.client.log_artifacts(self.run_id, str(folder))

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

    def end(self, status: str, ms: int) -> None:
        """Sets its status and the time, ms since 1970, when it ended."""
        self.store.client.set_terminated(self.run_id, status, ms)


def find_or_create(store: Store, token: str, name: str, start_ms: int) -> tuple[Run, bool]:
    """The run with this token, and whether it had to be created."""
    runs = store.client.search_runs([store.experiment_id], f"tags.{TOKEN_TAG} = '{token}'")
    if runs:
        return runs[0], False
    tags = {TOKEN_TAG: token}
    return store.client.create_run(store.experiment_id, start_ms, tags=tags, run_name=name), True
