"""One MLflow run per execution of a stage, as a context manager.

Nothing here returns a value to the caller: a result must never depend on what the store holds, so that an edit of
tracking code reruns no stage (tests/test_tracking_values.py).
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal

import click
from matplotlib.figure import Figure

from stf.config import FLAGS, Params, STFV8Config
from stf.errors import Interrupted, StfError
from stf.io.hashing import sha256_of
from stf.tracking.delivery import Delivery, send_unsent
from stf.tracking.provenance import code_provenance, machine_provenance
from stf.tracking.record import Entry, Start, open_record
from stf.tracking.store import shown_address, store_uri

_MAX_TAG_CHARS = 4000
_LINKS = ("training_run_id", "mlflow.parentRunId")


class TrackedRun:
    """What a stage can log about itself; made by `track`. Every method returns None.

    None of them fails because the store does: what the store has not received stays on disk (delivery.py). They raise
    TrackingError when that disk is full or read-only.
    """

    def __init__(self, delivery: Delivery, stage: str, last_steps: dict[str, int]) -> None:
        """`last_steps`: of each metric the last step that an earlier part of a resumed run has logged."""
        self._delivery, self._stage = delivery, stage
        self._earlier_steps, self._steps = last_steps, dict(last_steps)
        self._has_cost = False

    def log(
        self, metrics: Mapping[str, float], step: int | None = None, *, provisional: bool = False
    ) -> None:
        """Logs numbers of one step (or epoch), or of the whole run: then they replace the metric's last value.

        A step that an earlier part of a resumed run has logged is not logged again, unless that was `provisional`.
        """
        self._has_cost |= "cost_usd" in metrics
        by_step: dict[int, dict[str, float]] = {}
        for key, value in metrics.items():
            at = self._steps.get(key, 0) if step is None else step
            if step is None or step > self._earlier_steps.get(key, step - 1):
                by_step.setdefault(at, {})[key] = float(value)
                self._steps[key] = max(at, self._steps.get(key, at))
        for at, fresh in by_step.items():
            self._delivery.report(Entry(_now_ms(), at, fresh, provisional))

    def log_evaluation(self, metrics: Mapping[str, float], weights_sha256: str) -> None:
        """Logs an evaluation's numbers; its AUCs stand on the training run that made the weights too."""
        self.log({key: value for key, value in metrics.items() if not key.startswith("auc")})
        aucs = {key: float(value) for key, value in metrics.items() if key.startswith("auc")}
        self._delivery.report(Entry(_now_ms(), metrics=aucs, links=_LINKS, linked_weights=weights_sha256))

    def tag(self, key: str, value: object) -> None:
        """Sets one tag of the run; later values replace earlier ones."""
        self._delivery.report(Entry(_now_ms(), tags={key: _text(value)}))

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Keeps a copy of a file or a folder with the run; raises FileNotFoundError when it does not exist."""
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist, so it cannot be kept with the run")
        self._delivery.record.keep(Path(path), folder or "")

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

    def tie_weights(self, sha256: str) -> None:
        """Identifies the weights by their file's hash; an evaluation is nested under the run that trained them."""
        is_training = self._stage.startswith("train")
        links, linked = ((), None) if is_training else (_LINKS, sha256)
        entry = Entry(_now_ms(), tags={"weights_sha256": sha256}, links=links, linked_weights=linked)
        self._delivery.report(entry)

    def starts_from(self, weights_sha256: str) -> None:
        """Identifies the weights that this run starts from, and the training run that made them if it is known."""
        tags, links = {"starting_weights_sha256": weights_sha256}, ("starting_run_id",)
        self._delivery.report(Entry(_now_ms(), tags=tags, links=links, linked_weights=weights_sha256))

    def register(self, weights_path: str | Path, config: STFV8Config) -> None:
        """Registers weights file + configuration (JSON) as the next version of the model; never a pickle.

        The same weights are registered once in a run, however often it is resumed.
        """
        self.text(json.dumps(dataclasses.asdict(config), indent=2) + "\n", "model/config.json")
        self.artifact(weights_path, "model")
        tags = {"variant": config.variant(), "stage": self._stage, "weights": Path(weights_path).name}
        self._delivery.report(Entry(_now_ms(), model=tags | {"weights_sha256": sha256_of(weights_path)}))

    def _end(self, status: Literal["FINISHED", "FAILED", "KILLED"], spent_usd: float) -> None:
        if not self._has_cost:
            self.log({"cost_usd": spent_usd})
        error, tags = sys.exception(), {}
        if error is not None and not isinstance(error, Interrupted):
            tags = {"error": _text(f"{type(error).__name__}: {error}")}
        self._delivery.report(Entry(_now_ms(), tags=tags, status=status))


@contextmanager
def track(  # noqa: PLR0913  # each by its name
    stage: str,
    *,
    params: Params,
    config: STFV8Config | None = None,
    fingerprint: str | None = None,
    device: str | None = None,
    memory: Path | None = None,
    identity: str = "",
    resume: bool = True,
) -> Iterator[TrackedRun]:
    """Opens a run of `stage` and closes it: FINISHED, KILLED on KeyboardInterrupt and Interrupted, else FAILED.

    Records the flat parameters, the flags and variant of `config`, commit, DVC experiment, machine and `fingerprint`
    of the data. Cost is wall time x budget.cost_per_hour unless the stage logs it as `cost_usd`. With a folder `memory`
    the run's record is kept there, and the next call with the same folder and `identity` resumes the run, however it
    ended, unless `resume` is False. Also sends what earlier runs could not. A store that fails stops no run.
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

    record = open_record(memory, identity, resume=resume)
    last_steps = dict[str, int]()
    for entry in record.entries:
        last_steps |= dict.fromkeys(() if entry.provisional else entry.metrics, entry.step)
    start = _start(record.entries, identity, name, {key: str(value) for key, value in logged.items()}, tags)
    delivery = Delivery(record)
    run, status = TrackedRun(delivery, stage, last_steps), "FAILED"
    try:
        delivery.report(start)
        if delivery.run is not None:
            send_unsent()
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
            click.secho(str(error), fg="yellow")  # what ended the run is more important
        finally:
            delivery.close()


def _start(
    earlier: Sequence[Entry], identity: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> Entry:
    """The first entry of a run, or of the next part of one with `earlier` entries."""
    starts = [entry.start for entry in earlier if entry.start is not None]
    known = {key: value for entry in earlier for key, value in entry.params.items()}
    new = {key: value for key, value in params.items() if key not in known}
    token = starts[0].token if starts else uuid.uuid4().hex
    start = Start(token, identity, shown_address(store_uri()), name)
    if starts:  # MLflow refuses another value of a parameter, so that becomes a tag
        changed = {f"resumed.{key}": value for key, value in params.items() if known.get(key, value) != value}
        tags = {**tags, "resumed": str(len(starts)), **changed}
    return Entry(_now_ms(), params=new, tags=tags, start=start)


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
