"""For every test: one thread, no writes to this checkout's MLflow store, no network on import, skips with a reason."""

from __future__ import annotations

import os

import pytest

from stf.io.cores import usable_cores

# Tests run in parallel on all cores and their tensors are tiny: several threads per test would only slow others down.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def _own_mlflow_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points DVC_ROOT, by which stf.tracking locates the repository, at a folder of the test session."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path_factory.getbasetemp() / "dvc_root"))
    for name in ("MLFLOW_TRACKING_URI", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Sets `-n auto`: one process per usable core, at most eight, because each takes close to 1 GB."""
    return min(usable_cores(), 8)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips tests marked gpu without a CUDA device, and makes tests of an xdist_group run in one process.

    xdist 3.8 stores the group in a field that pytest 9.2 does not read (pytest-dev/pytest-xdist#1386).
    """
    for item in items if getattr(config.option, "loadgroup", False) else ():
        if group := item.get_closest_marker("xdist_group"):
            item._id = type(item._id).parse(f"{item.nodeid}@{group.args[0]}")
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
