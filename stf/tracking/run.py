"""One MLflow run per execution of a stage, as a context manager.

Nothing here returns a value to the caller: a result must never depend on what the store holds, so that an edit of
tracking code reruns no stage (SPEC section 9; tests/test_dvc_graph.py holds it).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from stf.config import FLAGS, Params, STFV8Config
from stf.errors import Interrupted
from stf.tracking.memory import RunMemory, recall
from stf.tracking.provenance import code_provenance, machine_provenance
from stf.tracking.store import Store, named_failures, open_store, shown_address

MODEL_NAME = "stf-mamba"
_FLUSH_EVERY_METRICS = 400  # one batch of 400 costs the SQLite store as much as a dozen single calls
_FLUSH_EVERY_S = 5.0
_MAX_BATCH = 100  # MLflow's limit of parameters and of tags in one call
_MAX_TAG_CHARS = 4000


class TrackedRun:
    """What a stage may tell the store about itself; made by `track`. Every method returns None."""

    def __init__(self, store: Store, run_id: str, stage: str, memory: RunMemory) -> None:
        self._store, self._run_id, self._stage = store, run_id, stage
        self._memory = memory
        self._waiting: list[Metric] = []
        self._seen: set[str] = set()
        self._flushed_at_s = time.monotonic()

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records numbers, of one step (or epoch) when `step` is given. Written in batches, at latest at the end.

        A step of this metric that a continued run has recorded already is not recorded again.
        """
        now_ms = int(time.time() * 1000)
        fresh = {
            key: value for key, value in metrics.items() if step is None or self._memory.is_new(key, step)
        }
        self._waiting += [Metric(key, float(value), now_ms, step or 0) for key, value in fresh.items()]
        self._seen.update(metrics)
        late = time.monotonic() - self._flushed_at_s > _FLUSH_EVERY_S
        if late or len(self._waiting) >= _FLUSH_EVERY_METRICS:
            self._flush()

    def tag(self, key: str, value: object) -> None:
        """Sets one tag of the run; later values replace earlier ones."""
        with named_failures(self._store.uri):
            self._store.client.set_tag(self._run_id, key, str(value)[:_MAX_TAG_CHARS])

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Keeps a copy of a file or a folder with the run; raises FileNotFoundError when there is none."""
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist, so it cannot be kept with the run")
        client = self._store.client
        keep = client.log_artifacts if Path(path).is_dir() else client.log_artifact
        with named_failures(self._store.uri):
            keep(self._run_id, str(path), folder)

    def figure(self, figure: Figure, name: str) -> None:
        """Keeps a matplotlib figure as `name` (a file name such as "pairs.png", with or without folders)."""
        with named_failures(self._store.uri):
            self._store.client.log_figure(self._run_id, figure, name)

    def text(self, content: str, name: str) -> None:
        """Keeps text as the file `name`, with or without folders."""
        with named_failures(self._store.uri):
            self._store.client.log_text(self._run_id, content, name)

    def tie_weights(self, path: str | Path) -> None:
        """Names the weights by their sha256; an evaluation is then nested under the training run that made them."""
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self.tag("weights_sha256", digest)
        training_run_id = None if self._stage.startswith("train") else self._training_run_of(digest)
        if training_run_id is not None:
            self.tag("training_run_id", training_run_id)
            self.tag("mlflow.parentRunId", training_run_id)

    def starts_from(self, weights_sha256: str) -> None:
        """Names the weights that this run starts from, and the training run that made them where the store has it."""
        self.tag("starting_weights_sha256", weights_sha256)
        training_run_id = self._training_run_of(weights_sha256)
        if training_run_id is not None:
            self.tag("starting_run_id", training_run_id)

    def register(self, weights_path: str | Path, config: STFV8Config) -> None:
        """Registers weights file + configuration (JSON) as the next version of the model; never a pickle.

        The same weights are registered once in a run, however often it is continued.
        """
        client, variant = self._store.client, config.variant()
        digest = hashlib.sha256(Path(weights_path).read_bytes()).hexdigest()
        with named_failures(self._store.uri):
            known = client.search_model_versions(f"name = '{MODEL_NAME}' AND run_id = '{self._run_id}'")
        if any(version.tags.get("weights_sha256") == digest for version in known):
            return
        with TemporaryDirectory() as folder:
            described = json.dumps(dataclasses.asdict(config), indent=2)
            (Path(folder) / "config.json").write_text(described + "\n", encoding="utf-8")
            self.artifact(Path(folder) / "config.json", "model")
        self.artifact(weights_path, "model")
        with named_failures(self._store.uri):
            if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
                client.create_registered_model(
                    MODEL_NAME, description="Video deepfake detector trained on real videos"
                )
            source = f"{client.get_run(self._run_id).info.artifact_uri}/model"
            tags = {"variant": variant, "stage": self._stage, "weights": Path(weights_path).name}
            tags["weights_sha256"] = digest
            version = client.create_model_version(
                MODEL_NAME, source, self._run_id, tags=tags, description=variant
            )
        self.tag("registered_model", f"{MODEL_NAME} v{version.version}")

    def _training_run_of(self, weights_sha256: str) -> str | None:
        """The newest training run that made these weights."""
        query = f"tags.weights_sha256 = '{weights_sha256}' AND tags.stage LIKE 'train%'"
        with named_failures(self._store.uri):
            newest_first = ["attributes.start_time DESC"]
            found = self._store.client.search_runs([self._store.experiment_id], query, order_by=newest_first)
        return found[0].info.run_id if found else None

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._flushed_at_s = time.monotonic()
        self._memory.save()
        with named_failures(self._store.uri):
            for start in range(0, len(waiting), 1000):  # MLflow's limit of metrics in one call
                self._store.client.log_batch(self._run_id, metrics=waiting[start : start + 1000])

    def _end(self, status: str, spent_usd: float) -> None:
        if "cost_usd" not in self._seen:
            self.log({"cost_usd": spent_usd})
        self._flush()
        error = sys.exception()
        if error is not None and not isinstance(error, Interrupted):
            self.tag("error", f"{type(error).__name__}: {error}")
        with named_failures(self._store.uri):
            self._store.client.set_terminated(self._run_id, status)


@contextmanager
def track(
    stage: str,
    *,
    params: Params,
    config: STFV8Config | None = None,
    fingerprint: str | None = None,
    device: str | None = None,
    memory: Path | None = None,
    identity: str = "",
) -> Iterator[TrackedRun]:
    """Opens a run of `stage` and closes it: FINISHED, KILLED on KeyboardInterrupt and Interrupted, else FAILED.

    Records the flat parameters, the flags and variant of `config`, commit, DVC experiment, machine and `fingerprint`
    of the data. Cost is wall time x budget.cost_per_hour unless the stage logs it as `cost_usd`. With a file `memory`
    the run is remembered there, and the next call with the same file and `identity` goes on with it, however it ended.
    Raises TrackingError when the store cannot be opened.
    """
    store, started_s = open_store(), time.monotonic()
    tags = code_provenance() | machine_provenance() | {"stage": stage}
    logged = params.flat()
    if config is not None:
        flags = {flag: str(getattr(config, flag)).lower() for flag in FLAGS}
        tags |= flags | {"variant": config.variant()}
        logged |= flags | {"variant": config.variant()}
    optional = {"data_fingerprint": fingerprint, "machine.device": device}
    tags |= {key: value for key, value in optional.items() if value is not None}
    name = " ".join(filter(None, (stage, tags.get("variant"), tags.get("dvc.experiment"))))
    setting = Setting(name, {key: str(value) for key, value in logged.items()}, tags)
    with named_failures(store.uri):
        remembered = _open_run(store, setting, memory, identity)
    run, status = TrackedRun(store, str(remembered.run_id), stage, remembered), "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, Interrupted):
        status = "KILLED"
        raise
    finally:
        run._end(status, (time.monotonic() - started_s) / 3600 * params.budget.cost_per_hour)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a run says about itself when it starts."""

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]


def _open_run(store: Store, setting: Setting, path: Path | None, identity: str) -> RunMemory:
    """Goes on with the run that is remembered, or starts one; either way it is remembered from here on."""
    memory, news = recall(path, identity, shown_address(store.uri))
    before = _active_run(store, memory.run_id) if memory.run_id else None
    if before is None:
        if memory.run_id:
            news, memory = (
                f"run {memory.run_id} is no longer in {store.uri}",
                RunMemory(path, identity, memory.store),
            )
        if news:
            click.echo(f"{news}: a new MLflow run is started")
        memory.run_id = store.client.create_run(store.experiment_id, run_name=setting.name).info.run_id
        _log_setting(store, memory.run_id, setting)
    else:
        _go_on(store, before, setting)
    memory.save()
    return memory


def _active_run(store: Store, run_id: str) -> Run | None:
    """The run; None when it was deleted or the store does not know it."""
    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _go_on(store: Store, before: Run, setting: Setting) -> None:
    """Makes an old run a running one. MLflow refuses another value of a parameter, so that one becomes a tag."""
    run_id, known = before.info.run_id, before.data.params
    store.client.update_run(run_id, status="RUNNING")
    if "error" in before.data.tags:
        store.client.delete_tag(run_id, "error")
    changed = {
        f"resumed.{key}": value for key, value in setting.params.items() if known.get(key, value) != value
    }
    count = int(before.data.tags.get("resumed", "0")) + 1
    new = {key: value for key, value in setting.params.items() if key not in known}
    _log_setting(
        store, run_id, Setting(setting.name, new, {**setting.tags, **changed, "resumed": str(count)})
    )


def _log_setting(store: Store, run_id: str, setting: Setting) -> None:
    """Writes parameters and tags in as few calls as MLflow allows."""
    all_params = [Param(key, value) for key, value in setting.params.items()]
    all_tags = [RunTag(key, value) for key, value in setting.tags.items()]
    for start in range(0, max(len(all_params), len(all_tags)), _MAX_BATCH):
        batch = slice(start, start + _MAX_BATCH)
        store.client.log_batch(run_id, params=all_params[batch], tags=all_tags[batch])
