"""Which store a run's words are for: never another one's, never with a password on the screen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.send_runs import main
from stf.config import Params
from stf.tracking.journal import homes
from stf.tracking.run import track
from stf.tracking.store import shown_address

AWAY = "http://ann:sEcret@127.0.0.1:1"  # nobody listens on port 1


def told_by_a_run(capsys: pytest.CaptureFixture[str]) -> str:
    with track("train_phase_a", params=Params()) as run:
        run.log({"loss": 1.0}, step=1)
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize(
    "address",
    [
        AWAY,
        "http://127.0.0.1:notaport",
        "http://ann:x@sEcret@127.0.0.1:1",
        "http://\udcff:9",
        "postgresql://ann:sEcret@h/db",
        "postgresql://ann:sEcret@h:notaport/db",
        "postgresql://ann:/sEcret@h/db",
        "nosuch+driver://ann:sEcret@h",
    ],
)
def test_no_address_stops_a_run_or_shows_its_password(
    address: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    said = told_by_a_run(capsys)
    assert "what MLflow is to be told is kept in" in said
    assert "sEcret" not in said
    assert f"holds what the MLflow store at {shown_address(address)} has yet to be told: python -m" in said
    result = CliRunner().invoke(main)
    assert result.exit_code == 1
    assert "still unsent" in result.output
    assert "unexpected" not in result.output
    assert "sEcret" not in result.output


def test_a_journal_goes_to_its_own_store_only(
    root: Path,
    runs: Callable[[], list],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    told_by_a_run(capsys)
    [folder] = homes()[0].iterdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = CliRunner().invoke(main)
    assert result.exit_code == 1
    assert "is for the store at http://127.0.0.1:1, not for sqlite:///mlruns/mlflow.db" in result.output
    assert "set it to http://127.0.0.1:1" in result.output
    assert folder.is_dir()
    assert runs() == []
    assert CliRunner().invoke(main, ["--here"]).exit_code == 0
    assert len(runs()) == 1


def test_a_journal_of_the_repositorys_own_store_moves_with_it(
    root: Path,
    tmp_path: Path,
    runs: Callable[[], list],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("stf.tracking.delivery.open_store", _locked)
        told_by_a_run(capsys)
    assert (next(homes()[0].iterdir()) / "store").read_text() == "sqlite:///mlruns/mlflow.db"
    moved = tmp_path / "moved"
    shutil.move(root, moved)
    monkeypatch.setenv("DVC_ROOT", str(moved))
    result = CliRunner().invoke(main)
    assert result.exit_code == 0, result.output
    assert len(runs()) == 1


def _locked(wait_s: float) -> None:
    from stf.errors import TrackingError

    raise TrackingError("the database is locked")
