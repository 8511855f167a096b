"""The one MLflow store of this repository, however a run is started.

By default it is `mlruns/mlflow.db` (SQLite) with the artifacts in `mlruns/artifacts`, both in the real repository:
under `dvc exp run --temp` and `--queue` the working folder is a copy that DVC throws away. MLFLOW_TRACKING_URI
points it at a server instead.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from filelock import FileLock

from stf.errors import TrackingError
from stf.io.paths import repository_root

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
# MLflow's own 7 retries of 120 s would hold up a training step for minutes; what fails is sent later (delivery.py).
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# MLflow would print the run's address with the user's name and password in it.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

EXPERIMENT = "stf-mamba"
_MAX_REASON = 200  # characters; MLflow's messages repeat a web address three times
_CREATION_WAIT = (
    12  # times `wait_s` for the lock: another process may be creating the database, some 10 s of work
)
# With the user's name before it. A database's may hold / ? # as they are, which in a server's end the host.
_PASSWORD = re.compile(r"(?<=://)(?:[^/?#\s]*|[^:/\s]*:(?!\d+/)[^@\s]*)@")
ANSWER_WAIT_S = 10.0  # for a server's answer, or for a database that another program has locked
# Columns of MLflow's schema that hold an absolute artifact location, which goes stale when the folder moves.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)


@dataclass(frozen=True)
class Store:
    """An open store: MLflow's client, the id of the experiment, and the address for messages, without credentials."""

    client: MlflowClient
    experiment_id: str
    uri: str


@contextmanager
def store_errors() -> Iterator[None]:
    """Turns what MLflow, the database and the connection raise inside the block into a TrackingError.

    It is one short line that names the store, without credentials.
    """
    try:
        yield
    except (MlflowException, sqlite3.Error, SQLAlchemyError, OSError, ImportError, ValueError) as error:
        # ImportError: no driver for such a database. ValueError: a port that is no number, bytes that are not UTF-8
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        reason = shorten(_PASSWORD.sub("", first), _MAX_REASON)
        raise TrackingError(f"the MLflow store at {shown_address(store_uri())} failed: {reason}") from error


def shown_address(uri: str) -> str:
    """The store's address as a file and a terminal may hold it: without a password, the same after the folder moved."""
    root = f"sqlite:///{repository_root().resolve()}/"
    if uri.startswith(root):
        uri = "sqlite:///" + uri.removeprefix(root)
    return "".join(char if char.isprintable() else "\ufffd" for char in _PASSWORD.sub("", uri))


def store_uri() -> str:
    """MLFLOW_TRACKING_URI, or the repository's own SQLite file."""
    return (
        os.environ.get("MLFLOW_TRACKING_URI")
        or f"sqlite:///{repository_root().resolve() / 'mlruns' / 'mlflow.db'}"
    )


def open_store(wait_s: float = ANSWER_WAIT_S) -> Store:
    """Opens the store, creating it on first use; waits `wait_s` seconds for its answer.

    Raises TrackingError when the server does not answer, the database stays locked, or MLflow refuses.
    """
    uri, mlruns, lock_wait_s = store_uri(), repository_root().resolve() / "mlruns", _CREATION_WAIT * wait_s
    is_own = not os.environ.get("MLFLOW_TRACKING_URI")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Failures are reported in one line by the caller; these would print a traceback and every retry.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # Two processes that create the database at once corrupt it for good (measured), hence the lock.
    try:
        mlruns.mkdir(parents=True, exist_ok=True)
        with FileLock(mlruns / ".lock", timeout=lock_wait_s), store_errors():
            require_answer(wait_s)
            artifacts = (mlruns / "artifacts").as_posix() if is_own else None
            if artifacts:
                _relocate_artifacts(mlruns / "mlflow.db", artifacts)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            return Store(client, _experiment_id(client, artifacts), shown_address(uri))
    except TimeoutError:
        raise TrackingError(
            f"{mlruns / '.lock'} has been held for {lock_wait_s:.0f} s; end the process that holds it"
        ) from None
    except OSError as error:
        raise TrackingError(
            f"the MLflow store in {mlruns} cannot be written: {error.strerror or error}; free some space or give "
            "write permission"
        ) from None


def require_answer(wait_s: float) -> None:
    """Returns when the store can be used now; else raises within seconds, where MLflow would retry for minutes.

    Raises TrackingError for a server, sqlite3.Error for a database. Other kinds of store are not asked.
    """
    uri = store_uri()
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{shown_address(uri).rstrip('/')}/health", timeout=wait_s).close()
        except urllib.error.HTTPError:
            return  # it answers, perhaps asking for credentials: MLflow's business
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise TrackingError(
                f"no MLflow server answers at {shown_address(uri)} ({error}); start it, or unset MLFLOW_TRACKING_URI "
                "to log into mlruns/"
            ) from None
    elif uri.startswith("sqlite:///") and (database := Path(uri.removeprefix("sqlite:///"))).exists():
        with closing(sqlite3.connect(database, timeout=wait_s)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()


def _experiment_id(client: MlflowClient, artifacts: str | None) -> str:
    known = client.get_experiment_by_name(EXPERIMENT)
    if known is None:
        return client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return known.experiment_id


def _relocate_artifacts(database: Path, artifacts: str) -> None:
    """Replaces the old folder in every recorded artifact location when the repository was moved or copied."""
    if not database.exists():
        return
    with closing(sqlite3.connect(database, timeout=ANSWER_WAIT_S)) as connection, connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if "experiments" not in tables:
            return
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        row = connection.execute(query, (EXPERIMENT,)).fetchone()
        if row is None or row[0] == artifacts:
            return
        for table, column in _LOCATIONS:
            if table in tables:
                moved = (
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                )
                connection.execute(moved, (artifacts, len(row[0]) + 1, len(row[0]), row[0]))
