"""Runs are found by id, prefix of an id, name or DVC experiment, and their evaluation is read back as files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stf.config import PHASE_A_FLAGS, Params
from stf.errors import TrackingError, UsageError
from stf.tracking.run import track
from stf.tracking.store import open_store
from stf.tracking.stored import fetch_evaluation, find_evaluation, finished_runs, training_of
from tests.reference.comparison_sets import (
    FINGERPRINT,
    score_table,
    store_both,
    store_evaluation,
    store_training,
)


@pytest.fixture
def store(root: Path, tmp_path: Path) -> Path:
    """A store with a V7.3 and a phase A run, each evaluated."""
    for flags in ((), PHASE_A_FLAGS):
        store_both(tmp_path, flags, score_table(0.5))
    return root


def test_a_run_can_be_selected_by_each_of_its_names(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = finished_runs(("eval_a",), FINGERPRINT)[0]
    assert newest.tags["variant"] == "A"
    for text in (newest.run_id, newest.run_id[:20], newest.name, "eval_a A"):
        assert find_evaluation(text).run_id == newest.run_id
    open_store().client.set_tag(newest.run_id, "dvc.experiment", "grid-a-s0")
    assert find_evaluation("grid-a-s0").run_id == newest.run_id


def test_a_training_run_selects_the_newest_evaluation_of_its_weights(store: Path, tmp_path: Path) -> None:
    older = finished_runs(("train_phase_a",), FINGERPRINT)[0]
    weights = store_training(tmp_path, PHASE_A_FLAGS)  # trained again: the same bytes
    store_evaluation(tmp_path, weights, PHASE_A_FLAGS, score_table(0.9))
    newest = finished_runs(("eval_a",), FINGERPRINT)[0]
    assert find_evaluation(older.run_id).run_id == newest.run_id
    assert training_of(newest.tags["weights_sha256"]).run_id != older.run_id  # the newest that made them


def test_files_of_an_evaluation_are_read_back(store: Path, tmp_path: Path) -> None:
    (tmp_path / "copy of it").mkdir()
    path = fetch_evaluation(find_evaluation("eval_a V7.3"), tmp_path / "copy of it")
    assert path.name == "eval_a_details.json"
    assert path.with_name("eval_a_scores.csv").read_text().startswith("video_id")


def test_an_unknown_name_is_a_usage_error(store: Path) -> None:
    for text in ("nothing", "abcdef0123", "f" * 32, "it's", "%", "", "a\\", "eval_a", "--"):
        with pytest.raises(UsageError, match="no run in"):
            find_evaluation(text)


def test_an_empty_store_is_reported(root: Path) -> None:
    with pytest.raises(UsageError, match="no run in sqlite"):
        find_evaluation("eval_a V7.3")
    assert finished_runs(("eval_a",), FINGERPRINT) == []
    assert training_of("0" * 64) is None
    assert training_of("' OR 1=1") is None


def test_an_ambiguous_id_prefix_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(f"abcd{i:028x}" for i in range(9))
    monkeypatch.setattr("uuid.uuid4", lambda: type("Id", (), {"hex": next(ids)}))
    for _ in range(2):
        with track("eval_a", params=Params()):
            pass
    with pytest.raises(UsageError, match='"abcd" is the beginning of 2 run ids'):
        find_evaluation("abcd")


def test_a_run_that_cannot_be_compared_is_reported_with_the_reason(root: Path, tmp_path: Path) -> None:
    store_training(tmp_path, ())
    with pytest.raises(TrackingError, match="has no finished evaluation"):
        find_evaluation("train_phase_a V7.3")
    with track("verify_data", params=Params()):
        pass
    with pytest.raises(UsageError, match="neither evaluation nor training"):
        find_evaluation("verify_data")
    with pytest.raises(KeyboardInterrupt), track("eval_b", params=Params()):
        raise KeyboardInterrupt
    with pytest.raises(TrackingError, match="ended KILLED"):
        find_evaluation("eval_b")


def test_an_evaluation_without_its_files_is_reported(store: Path, tmp_path: Path) -> None:
    with track("eval_a", params=Params()):
        pass
    with pytest.raises(TrackingError, match="does not hold one evaluation"):
        fetch_evaluation(find_evaluation("eval_a"), tmp_path)
    shutil.rmtree(store / "mlruns/artifacts")
    with pytest.raises(TrackingError, match="eval_a V7.3"):
        fetch_evaluation(find_evaluation("eval_a V7.3"), tmp_path)
