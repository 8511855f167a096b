"""An epoch that the budget cut is told, and told again when a larger budget lets it end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stf.config import Params
from stf.tracking.run import track
from stf.tracking.store import open_store


def test_the_later_value_of_a_provisional_step_counts(root: Path, runs: Callable[[], list]) -> None:
    memory = root / "mlflow_run.json"
    for value, provisional in ((0.4, True), (0.6, False), (0.9, False)):
        with track("train_phase_a", params=Params(), memory=memory, identity="i") as run:
            run.log({"val_auc": value}, step=3, provisional=provisional)
    [found] = runs()
    points = open_store().client.get_metric_history(found.info.run_id, "val_auc")
    assert [point.value for point in points] == [0.4, 0.6]
    assert found.data.metrics["val_auc"] == 0.6
