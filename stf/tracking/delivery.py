"""Brings what a run has recorded to the MLflow store, now or in a later command.

A run neither fails nor waits for minutes because of its store. Every report is recorded on disk first (record.py) and
sent in batches. When the store fails, the run warns once, continues, and tries again now and then and at its end. What
is missing then is found by comparing the record with the store, so nothing is sent twice and nothing is left out.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import click
from mlflow.entities import Metric

from stf.errors import TrackingError
from stf.io.paths import repository_root
from stf.tracking.mlflow_run import MlflowRun, find_or_create
from stf.tracking.record import Entry, Record
from stf.tracking.store import open_store, require_answer, shown_address, store_errors, store_uri

FLUSH_EVERY_S = 5.0
RETRY_EVERY_S = 60.0
_RETRY_SHARE = 0.05  # of the run's time at most, however long a server takes to fail
WAIT_S = 2.0  # for the store's answer: a training step waits for it
_FLUSH_EVERY_POINTS = 400


class Delivery:
    """Sends a record to the store at `store_uri()`."""

    def __init__(self, record: Record) -> None:
        self.record, self.run = record, None  # the run is None while the store does not answer
        self._pending: list[Entry] = []  # recorded, but not sent since the store last answered
        self._flushed_at_s, self._next_try_s, self._has_warned = time.monotonic(), 0.0, False

    def report(self, entry: Entry) -> None:
        """Records an entry, and sends what is pending when it is time to; raises TrackingError for a full disk."""
        self.record.append(entry)
        if self.run is not None:
            self._pending.append(entry)
        n_points = sum(len(pending.metrics) for pending in self._pending)
        if time.monotonic() - self._flushed_at_s >= FLUSH_EVERY_S or n_points >= _FLUSH_EVERY_POINTS:
            self.flush()

    def flush(self, *, force: bool = False) -> None:
        """Sends what is pending; after a failure only when the next try is due, or with `force`. Never raises."""
        began_s = self._flushed_at_s = time.monotonic()
        if self.run is None and not force:
            self.record.sync()
            if began_s < self._next_try_s:
                return
        try:
            self.send()
        except TrackingError as error:
            took_s = time.monotonic() - began_s
            self._next_try_s = time.monotonic() + max(RETRY_EVERY_S, took_s / _RETRY_SHARE)
            if not self._has_warned:
                later = f"The run continues; MLflow gets everything later, from {self.record.folder}"
                click.secho(f"{error}. {later}", fg="yellow")
            self._has_warned = True
        else:
            if self._has_warned:
                click.echo("the MLflow store answers again and has received everything so far")
            self._has_warned = False

    def send(self) -> None:
        """Sends all that the store lacks; raises TrackingError, and leaves `run` None, when it fails."""
        run, pending, self.run, self._pending = self.run, self._pending, None, []
        with store_errors():
            require_answer(WAIT_S)
            if run is None:
                run, pending = _missing(self.record.read())
            _send(run, pending, self.record.files)
        self.run = run

    def close(self) -> None:
        """Closes the record, which is kept where the store lacks part of it."""
        if self.run is None:
            self.record.sync()
            lacking = f"the MLflow store at {shown_address(store_uri())} lacks part of this run"
            later = "the next command that opens the store sends it"
            click.secho(f"{lacking}; {later} from {self.record.folder}", fg="yellow")
        self.record.close(all_sent=self.run is not None)


def _missing(entries: list[Entry]) -> tuple[MlflowRun, list[Entry]]:
    """Finds the run or creates it; returns it and the entries, without the points that the store has.

    A point is the same when key, step and time are: a step that was logged by one part of a run has one time.
    """
    store, starts = open_store(WAIT_S), [entry.start for entry in entries if entry.start is not None]
    stored, is_new = find_or_create(store, starts[0].token, starts[0].name, entries[0].ms)
    if is_new and len(starts) > 1:
        click.echo(f"the MLflow run of this training is not in {store.uri}: it is created from its record")
    run, part = MlflowRun(store, stored.info.run_id), _latest_part(entries)
    if stored.info.status != "RUNNING" and not any(entry.status for entry in part):
        store.client.update_run(run.run_id, status="RUNNING")
    if "error" in stored.data.tags and not any("error" in entry.tags for entry in part):
        store.client.delete_tag(run.run_id, "error")
    params = dict(stored.data.params)
    changed = {"resumed": str(len(starts) - 1)} if len(starts) > 1 else {}
    for start in starts:  # MLflow refuses another value of a parameter, so that becomes a tag
        changed |= {f"resumed.{k}": v for k, v in start.params.items() if params.setdefault(k, v) != v}
    run.log(params={k: v for k, v in params.items() if k not in stored.data.params}, tags=changed)
    history = {key: store.client.get_metric_history(run.run_id, key) for key in stored.data.metrics}
    has = {(key, point.step, point.timestamp) for key, points in history.items() for point in points}
    missing = []
    for e in entries:
        new = {k: v for k, v in e.metrics.items() if (k, e.step, e.ms) not in has or e.linked_weights}
        missing.append(dataclasses.replace(e, metrics=new))
    return run, missing


def _send(run: MlflowRun, entries: list[Entry], files: Path) -> None:
    tags: dict[str, str] = {}
    for entry in entries:
        if entry.start is not None:  # what ended an earlier part is not this run's error
            tags.pop("error", None)
        tags |= entry.tags
    run.log([Metric(k, value, e.ms, e.step) for e in entries for k, value in e.metrics.items()], tags=tags)
    for entry in entries:
        training = run.link(entry.links, entry.linked_weights) if entry.linked_weights else None
        if training is not None:  # MLflow ignores a point that it has
            training.log([Metric(k, value, entry.ms, entry.step) for k, value in entry.metrics.items()])
    if files.is_dir():
        run.keep(files)
        shutil.rmtree(files)
    for entry in _latest_part(entries):
        if entry.model is not None:
            run.register(entry.model)
        if entry.status is not None:
            run.end(entry.status, entry.ms)


def _latest_part(entries: list[Entry]) -> list[Entry]:
    """The entries since the run was started or resumed last."""
    starts = [i for i, entry in enumerate(entries) if entry.start is not None]
    return entries[starts[-1] :] if starts else entries


def send_unsent() -> None:
    """Sends what earlier runs could not, and says so. One that was killed is KILLED; a running one sends its own."""
    for mark in sorted(repository_root().resolve().glob("checkpoints/*/mlflow*/unsent")):
        try:
            record = Record(mark.parent, wait_s=0)
        except TimeoutError:
            continue
        except (OSError, TrackingError) as error:
            click.secho(f"not sent to MLflow: {error}", fg="yellow")
            continue
        delivery, is_sent = Delivery(record), False
        try:
            entries, address = record.read(), shown_address(store_uri())
            for start in [entry.start for entry in entries if entry.start is not None][-1:]:
                if start.store != address:
                    raise TrackingError(
                        f"it is for the store at {start.store}, not {address}; set MLFLOW_TRACKING_URI to send it"
                    )
                if not any(entry.status for entry in _latest_part(entries)):
                    record.append(Entry(max(entry.ms for entry in entries), status="KILLED"))
                delivery.send()
                click.echo(f"MLflow has received the rest of {start.name}")
            is_sent = True
        except TrackingError as error:
            click.secho(f"not sent to MLflow: {mark.parent}: {error}", fg="yellow")
        record.close(all_sent=is_sent)
