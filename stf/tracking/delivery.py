"""Brings what a run has recorded to the MLflow store, now or in a later command.

A run neither fails nor waits for minutes because of its store. Every report is recorded on disk first (record.py) and
sent in batches. When the store fails, the run warns once, continues, and tries again now and then and at its end. What
is missing then is found by comparing the record with the store, so nothing is sent twice and nothing is left out.
"""

from __future__ import annotations

import time
from contextlib import closing

import click

from stf.errors import TrackingError
from stf.io.paths import repository_root
from stf.tracking.mlflow_run import MlflowRun, find_or_create
from stf.tracking.record import Entry, Record
from stf.tracking.store import open_store, require_answer, shown_address, store_errors, store_uri

FLUSH_EVERY_S = 5.0
RETRY_EVERY_S = 60.0
_RETRY_SHARE = 0.05  # of the run's time at most, however long a server takes to fail
WAIT_S = 2.0  # for the store's answer: a training step waits for it


class Delivery:
    """Sends a record to the store at `store_uri()`."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.run: MlflowRun | None = None  # None while the store does not answer
        self._n_sent = 0  # entries that the store has, while `run` is not None
        self._due_s, self._has_warned = 0.0, False

    def report(self, entry: Entry) -> None:
        """Records an entry, and sends what is pending when that is due; raises TrackingError only for the disk."""
        self.record.append(entry)
        began_s = time.monotonic()
        if not (entry.start or entry.status or began_s >= self._due_s):
            return
        try:
            self.send()
            wait_s = FLUSH_EVERY_S
            if self._has_warned:
                click.echo("the MLflow store answers again and has received everything so far")
        except TrackingError as error:
            wait_s = max(RETRY_EVERY_S, (time.monotonic() - began_s) / _RETRY_SHARE)
            if not self._has_warned:
                later = f"The run continues; MLflow gets everything later, from {self.record.folder}"
                click.secho(f"{error}. {later}", fg="yellow")
        self._due_s, self._has_warned = time.monotonic() + wait_s, self.run is None

    def send(self) -> None:
        """Sends all that the store lacks; raises TrackingError, and leaves `run` None, when it fails."""
        run, self.run, entries, stored = self.run, None, self.record.entries, set()
        with store_errors():
            require_answer(WAIT_S)
            if run is None:
                run = find_or_create(open_store(WAIT_S), entries)
                stored, self._n_sent = run.points(), 0
            run.send(entries[self._n_sent :], self.record.files, stored)
        self.run, self._n_sent = run, len(entries)

    def close(self) -> None:
        """Closes the record, which is kept where the store lacks part of it."""
        if self.run is None:
            lacking = f"the MLflow store at {shown_address(store_uri())} lacks part of this run"
            later = "the next command that opens the store sends it"
            click.secho(f"{lacking}; {later} from {self.record.folder}", fg="yellow")
        self.record.close(all_sent=self.run is not None)


def send_unsent() -> None:
    """Sends what earlier runs could not, and says so. One that was killed is KILLED; a running one sends its own."""
    for mark in sorted(repository_root().resolve().glob("checkpoints/*/mlflow*/unsent")):
        try:
            with closing(Record(mark.parent, wait_s=0)) as record:
                record.load()
                for start in [entry.start for entry in record.entries if entry.start][-1:]:
                    if start.store != (address := shown_address(store_uri())):
                        raise TrackingError(
                            f"it is for the store at {start.store}, not {address}; set MLFLOW_TRACKING_URI to send it"
                        )
                    if record.entries[-1].status is None:
                        record.append(Entry(max(entry.ms for entry in record.entries), status="KILLED"))
                    Delivery(record).send()
                    click.echo(f"MLflow has received the rest of {start.name}")
                record.close(all_sent=True)
        except TimeoutError:
            continue
        except (OSError, TrackingError) as error:
            click.secho(f"not sent to MLflow: {mark.parent}: {error}", fg="yellow")
