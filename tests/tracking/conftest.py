"""An MLflow store of the test's own. Creating one takes 3 s, so it is made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stf.tracking.store import Store, open_store


@pytest.fixture(scope="session")
def empty_store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository root whose mlruns/ holds a store without runs."""
    root = tmp_path_factory.mktemp("empty_store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store()
    return root


@pytest.fixture
def root(empty_store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository root with a store of its own; the working folder is another one, as under `exp run --temp`."""
    shutil.copytree(empty_store_folder, tmp_path / "repository")
    (tmp_path / "copy").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "repository"


@pytest.fixture
def runs(root: Path) -> Callable[[], list]:
    """The store's runs, newest first."""

    def newest_first() -> list:
        store: Store = open_store()
        return list(store.client.search_runs([store.experiment_id], order_by=["attributes.start_time DESC"]))

    return newest_first
