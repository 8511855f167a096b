"""One MLflow run per execution of a stage, as a context manager.

Nothing here returns a value to the caller: a result must never depend on what the store holds, so that an edit of
tracking code reruns no stage (SPEC section 9; tests/test_dvc_graph.py holds it).
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import click
from matplotlib.figure import Figure

from stf.config import FLAGS, Params, STFV8Config
from stf.errors import Interrupted, StfError, TrackingError
from stf.io.hashing import sha256_of
from stf.tracking.delivery import Delivery
from stf.tracking.journal import open_journal
from stf.tracking.memory import RunMemory, recall
from stf.tracking.operations import End, Keep, Link, Points, Register, Start, Tag
from stf.tracking.provenance import code_provenance, machine_provenance
from stf.tracking.store import shown_address, store_uri

_MAX_TAG_CHARS = 4000


class TrackedRun:
    """What a stage may tell the store about itself; made by `track`. Every method returns None.

    None of them fails because the store does: what it does not take is kept on disk. They raise TrackingError when that
    disk is full or read-only.
    """

    def __init__(self, delivery: Delivery, memory: RunMemory, stage: str) -> None:
        self._delivery, self._memory, self._stage = delivery, memory, stage
        self._seen: set[str] = set()

    def log(
        self, metrics: Mapping[str, float], step: int | None = None, *, provisional: bool = False
    ) -> None:
        """Records numbers, of one step (or epoch) when `step` is given. Sent in batches, at latest at the end.

        A step of a metric that a continued run has recorded already is not recorded again, unless what was recorded
        is `provisional`: then the later value is the one that counts.
        """
        fresh = {
            key: value
            for key, value in metrics.items()
            if step is None or self._memory.is_new(key, step, remember=not provisional)
        }
        self._seen.update(metrics)
        if fresh:
            ms = _now_ms()
            self._delivery.add(Points([(key, float(value), ms, step or 0) for key, value in fresh.items()]))

    def tag(self, key: str, value: object) -> None:
        """Sets one tag of the run; later values replace earlier ones."""
        self._delivery.do(Tag(key, _text(value)))

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Keeps a copy of a file or a folder with the run; raises FileNotFoundError when there is none."""
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist, so it cannot be kept with the run")
        self._delivery.do(Keep(str(path), folder or ""))

    def figure(self, figure: Figure, name: str) -> None:
        """Keeps a matplotlib figure as `name` (a file name such as "pairs.png", with or without folders)."""
        with _draft(name) as (path, folder):
            figure.savefig(path)
            self.artifact(path, folder)

    def text(self, content: str, name: str) -> None:
        """Keeps text as the file `name`, with or without folders."""
        with _draft(name) as (path, folder):
            path.write_text(content, encoding="utf-8")
            self.artifact(path, folder)

    def tie_weights(self, path: str | Path) -> None:
        """Names the weights by their sha256; an evaluation is then nested under the training run that made them."""
        digest = sha256_of(path)
        self.tag("weights_sha256", digest)
        if not self._stage.startswith("train"):
            self._delivery.do(Link(digest, ["training_run_id", "mlflow.parentRunId"]))

    def starts_from(self, weights_sha256: str) -> None:
        """Names the weights that this run starts from, and the training run that made them where the store has it."""
        self.tag("starting_weights_sha256", weights_sha256)
        self._delivery.do(Link(weights_sha256, ["starting_run_id"]))

    def register(self, weights_path: str | Path, config: STFV8Config) -> None:
        """Registers weights file + configuration (JSON) as the next version of the model; never a pickle.

        The same weights are registered once in a run, however often it is continued.
        """
        described = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
        tags = {"variant": config.variant(), "stage": self._stage, "weights": Path(weights_path).name}
        self._delivery.do(Register(str(weights_path), sha256_of(weights_path), described, tags))

    def _end(self, status: str, spent_usd: float) -> None:
        if "cost_usd" not in self._seen:
            self.log({"cost_usd": spent_usd})
        error = sys.exception()
        if error is not None and not isinstance(error, Interrupted):
            self.tag("error", f"{type(error).__name__}: {error}")
        self._delivery.end(End(status, _now_ms()))


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
    A store that does not answer stops no run: what it is to be told is kept in mlruns/unsent/ until it can be sent.
    """
    started_s = time.monotonic()
    tags = code_provenance() | machine_provenance() | {"stage": stage}
    logged = params.flat()
    if config is not None:
        flags = {flag: str(getattr(config, flag)).lower() for flag in FLAGS}
        tags |= flags | {"variant": config.variant()}
        logged |= flags | {"variant": config.variant()}
    optional = {"data_fingerprint": fingerprint, "machine.device": device}
    tags |= {key: value for key, value in optional.items() if value is not None}
    name = " ".join(filter(None, (stage, tags.get("variant"), tags.get("dvc.experiment"))))
    remembered, delivery = _open(memory, identity)
    setting = {key: str(value) for key, value in logged.items()}
    delivery.begin(Start(remembered.token, remembered.part, name, _now_ms(), setting, tags))
    run, status = TrackedRun(delivery, remembered, stage), "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, Interrupted):
        status = "KILLED"
        raise
    finally:
        try:
            run._end(status, (time.monotonic() - started_s) / 3600 * params.budget.cost_per_hour)
        except StfError as error:
            if status == "FINISHED":
                raise
            click.secho(str(error), fg="yellow")  # and what ended the run is what counts


def _open(path: Path | None, identity: str) -> tuple[RunMemory, Delivery]:
    """The run that the file remembers, or a new one; its journal is whole and nobody else's."""
    memory, news = recall(path, identity, shown_address(store_uri()))
    journal = open_journal(memory.token, memory.store)
    try:
        journal.read()
    except TrackingError as error:
        news = str(error)
        journal.close()
        memory = RunMemory(path, identity, memory.store)
        journal = open_journal(memory.token, memory.store)
    if news:
        click.echo(f"{news}: a new MLflow run is started")
    memory.part += 1
    return memory, Delivery(journal, memory)


@contextmanager
def _draft(name: str) -> Iterator[tuple[Path, str]]:
    """A place to write an artifact of that name, and the folder of the artifacts that it belongs to."""
    with TemporaryDirectory() as folder:
        inner = PurePosixPath(name)
        yield Path(folder) / inner.name, "" if inner.parent == PurePosixPath() else str(inner.parent)


def _text(value: object) -> str:
    """As a tag: short enough for MLflow, and without the bytes of a file name that are no text."""
    return str(value)[:_MAX_TAG_CHARS].encode("utf-8", "replace").decode()


def _now_ms() -> int:
    return int(time.time() * 1000)
