"""An MLflow store of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stf.tracking.store import Store, open_store


@pytest.fixture
def root(repository_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository root with a store of its own; the working folder is another one, as under `exp run --temp`."""
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    return repository_root


@pytest.fixture
def runs(root: Path) -> Callable[[], list]:
    """The store's runs, newest first."""

    def newest_first() -> list:
        store: Store = open_store()
        return list(store.client.search_runs([store.experiment_id], order_by=["attributes.start_time DESC"]))

    return newest_first
