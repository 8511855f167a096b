"""What a run can tell the store, as plain data: each operation can be done now, or written down and done later.

Doing one twice is the same as doing it once: MLflow drops a point of a metric that it holds already (same key, step,
time and value), a run is found by its token, a model version by the hash of its weights. So after a connection that
broke nobody need know whether the last call arrived. Values are checked when an operation is made, for it may come from
a file; ValueError says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import click
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from stf.tracking.plain import is_hex, is_inner_path, is_int, is_text, is_texts, require
from stf.tracking.store import Store

MODEL_NAME = "stf-mamba"
TOKEN_TAG = "run_token"  # by it a run is found whose creation was never answered
_MAX_BATCH = 100  # MLflow's limit of parameters and of tags in one call
_MAX_POINTS = 1000  # of metrics
_STATUSES = ("FINISHED", "FAILED", "KILLED")


@dataclass
class Target:
    """Where operations go: a store that answers, and the run in it (None until Start was done)."""

    store: Store
    run_id: str | None = None

    @property
    def run(self) -> str:
        """The run's id; raises ValueError before Start."""
        if self.run_id is None:
            raise ValueError("the first operation is not the start of a run")
        return self.run_id


@dataclass(frozen=True)
class Start:
    """The run begins, or goes on when `part` is above 1; `ms` since 1970, parameters and tags as text."""

    KIND: ClassVar = "start"
    token: str
    part: int
    name: str
    ms: int
    params: Mapping[str, str]
    tags: Mapping[str, str]

    def __post_init__(self) -> None:
        require(is_hex(self.token, 32), "token")
        require(is_text(self.name) and self.name.isprintable(), "name")  # it is shown on a terminal
        require(is_int(self.part) and is_int(self.ms), "part or time")
        require(is_texts(self.params) and is_texts(self.tags), "params or tags")

    def apply(self, target: Target) -> None:
        """Finds the run or creates it, and writes the setting."""
        run = _active_run(target.store, target.run_id) if target.run_id else self._by_token(target.store)
        if run is not None:
            target.run_id = run.info.run_id
            self._go_on(target, run)
            return
        if target.run_id is not None:
            click.echo(f"run {target.run_id} is no longer in {target.store.uri}: a new MLflow run is started")
        store, token = target.store, {TOKEN_TAG: self.token}
        created = store.client.create_run(store.experiment_id, self.ms, tags=token, run_name=self.name)
        target.run_id = created.info.run_id
        _log_setting(target, self.params, self.tags)

    def _by_token(self, store: Store) -> Run | None:
        found = store.client.search_runs([store.experiment_id], f"tags.{TOKEN_TAG} = '{self.token}'")
        return found[0] if found else None

    def _go_on(self, target: Target, run: Run) -> None:
        """Makes an old run a running one. MLflow refuses another value of a parameter, so that one becomes a tag."""
        known = run.data.params
        target.store.client.update_run(target.run, status="RUNNING")
        if "error" in run.data.tags:
            target.store.client.delete_tag(target.run, "error")
        changed = {
            f"resumed.{key}": value for key, value in self.params.items() if known.get(key, value) != value
        }
        if self.part > 1:
            changed["resumed"] = str(self.part - 1)
        new = {key: value for key, value in self.params.items() if key not in known}
        _log_setting(target, new, {**self.tags, **changed})


@dataclass(frozen=True)
class Points:
    """Points of metrics, each (key, value, ms since 1970, step)."""

    KIND: ClassVar = "points"
    points: Sequence[tuple[str, float, int, int]]

    def __post_init__(self) -> None:
        require(isinstance(self.points, list) and all(map(_is_point, self.points)), "points")

    def apply(self, target: Target) -> None:
        metrics = [Metric(*point) for point in self.points]
        for start in range(0, len(metrics), _MAX_POINTS):
            target.store.client.log_batch(target.run, metrics=metrics[start : start + _MAX_POINTS])


@dataclass(frozen=True)
class Tag:
    """One tag; later values replace earlier ones."""

    KIND: ClassVar = "tag"
    key: str
    value: str

    def __post_init__(self) -> None:
        require(is_text(self.key) and is_text(self.value), "tag")

    def apply(self, target: Target) -> None:
        target.store.client.set_tag(target.run, self.key, self.value)


@dataclass(frozen=True)
class Keep:
    """A file or a folder becomes an artifact, in the artifacts' folder `folder` ("" is the top)."""

    KIND: ClassVar = "keep"
    path: str
    folder: str

    def __post_init__(self) -> None:
        require(is_text(self.path) and is_inner_path(self.folder), "path or folder")

    def apply(self, target: Target) -> None:
        client = target.store.client
        keep = client.log_artifacts if Path(self.path).is_dir() else client.log_artifact
        keep(target.run, self.path, self.folder or None)


@dataclass(frozen=True)
class Link:
    """Each tag of `keys` gets the id of the newest training run that made these weights, where there is one."""

    KIND: ClassVar = "link"
    weights_sha256: str
    keys: Sequence[str]

    def __post_init__(self) -> None:
        require(is_hex(self.weights_sha256, 64), "sha256")
        require(isinstance(self.keys, list) and all(map(is_text, self.keys)), "keys")

    def apply(self, target: Target) -> None:
        store, query = (
            target.store,
            f"tags.weights_sha256 = '{self.weights_sha256}' AND tags.stage LIKE 'train%'",
        )
        found = store.client.search_runs(
            [store.experiment_id], query, order_by=["attributes.start_time DESC"]
        )
        for key in self.keys if found else ():
            store.client.set_tag(target.run, key, found[0].info.run_id)


@dataclass(frozen=True)
class Register:
    """Weights file + configuration (JSON text) become the next version of the model; never a pickle.

    The same weights are registered once in a run, however often it is continued.
    """

    KIND: ClassVar = "register"
    path: str
    weights_sha256: str
    config: str
    tags: Mapping[str, str]

    def __post_init__(self) -> None:
        require(is_text(self.path) and is_hex(self.weights_sha256, 64), "path or sha256")
        require(is_text(self.config) and is_texts(self.tags) and "variant" in self.tags, "config or tags")

    def apply(self, target: Target) -> None:
        client, tags = target.store.client, {**self.tags, "weights_sha256": self.weights_sha256}
        known = client.search_model_versions(f"name = '{MODEL_NAME}' AND run_id = '{target.run}'")
        same = [version for version in known if version.tags.get("weights_sha256") == self.weights_sha256]
        if not same:
            client.log_text(target.run, self.config, "model/config.json")
            client.log_artifact(target.run, self.path, "model")
            if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
                about = "Video deepfake detector trained on real videos"
                client.create_registered_model(MODEL_NAME, description=about)
            source = f"{client.get_run(target.run).info.artifact_uri}/model"
            variant = self.tags["variant"]
            same = [
                client.create_model_version(MODEL_NAME, source, target.run, tags=tags, description=variant)
            ]
        client.set_tag(target.run, "registered_model", f"{MODEL_NAME} v{same[0].version}")


@dataclass(frozen=True)
class End:
    """The run, or this part of it, is over."""

    KIND: ClassVar = "end"
    status: str
    ms: int

    def __post_init__(self) -> None:
        require(self.status in _STATUSES and is_int(self.ms), "status or time")

    def apply(self, target: Target) -> None:
        target.store.client.set_terminated(target.run, self.status, self.ms)


Operation = Start | Points | Tag | Keep | Link | Register | End
KINDS: Mapping[str, type[Operation]] = {
    kind.KIND: kind for kind in (Start, Points, Tag, Keep, Link, Register, End)
}


def operation(values: Any) -> Operation:
    """The operation that a JSON object describes; raises ValueError when it describes none."""
    require(isinstance(values, dict) and is_text(values.get("kind")), "entry")
    kind = KINDS.get(values["kind"])
    if kind is None or values.keys() != {"kind", *(field.name for field in fields(kind))}:
        raise ValueError(f"{values['kind'][:40]!r} is no operation with these keys")
    return kind(**{key: value for key, value in values.items() if key != "kind"})


def _active_run(store: Store, run_id: str) -> Run | None:
    """The run; None when it was deleted or the store does not know it."""
    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _log_setting(target: Target, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """Writes parameters and tags in as few calls as MLflow allows."""
    all_params = [Param(key, value) for key, value in params.items()]
    all_tags = [RunTag(key, value) for key, value in tags.items()]
    for start in range(0, max(len(all_params), len(all_tags)), _MAX_BATCH):
        batch = slice(start, start + _MAX_BATCH)
        target.store.client.log_batch(target.run, params=all_params[batch], tags=all_tags[batch])


def _is_point(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 4:
        return False
    key, number, ms, step = value
    return is_text(key) and isinstance(number, float) and is_int(ms) and is_int(step)
