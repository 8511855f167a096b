"""Which store a run's reports are for: never another one, and never shown with a password."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stf.config import Params
from stf.tracking.delivery import send_unsent
from stf.tracking.run import track
from stf.tracking.store import shown_address

AWAY = "http://ann:sEcret@127.0.0.1:1"  # nobody listens on port 1


def output_of_a_run(capsys: pytest.CaptureFixture[str]) -> str:
    with track("train_phase_a", params=Params()) as run:
        run.log({"loss": 1.0}, step=1)
    captured = capsys.readouterr()
    return captured.out + captured.err


def unsent(root: Path) -> list[Path]:
    return list((root / "checkpoints" / "unsent").iterdir())


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
def test_no_store_address_stops_a_run_or_shows_its_password(
    address: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    output = output_of_a_run(capsys)
    assert "The run continues; MLflow gets everything later, from " in output
    assert f"the MLflow store at {shown_address(address)} lacks part of this run" in output
    send_unsent()
    output += capsys.readouterr().out
    assert output.count("not sent to MLflow: ") == 1
    assert "sEcret" not in output
    [folder] = unsent(root)
    assert "sEcret" not in (folder / "run.jsonl").read_text()


def test_a_record_goes_to_its_own_store_only(
    root: Path,
    runs: Callable[[], list],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    output_of_a_run(capsys)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    send_unsent()
    assert (
        "it is for the store at http://127.0.0.1:1, not sqlite:///mlruns/mlflow.db; set MLFLOW_TRACKING_URI to send it"
        in capsys.readouterr().out
    )
    assert len(unsent(root)) == 1
    assert runs() == []


def test_a_record_for_the_repositorys_own_store_moves_with_it(
    root: Path,
    tmp_path: Path,
    runs: Callable[[], list],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("stf.tracking.delivery.open_store", _locked)
        output_of_a_run(capsys)
    moved = tmp_path / "moved"
    shutil.move(root, moved)
    monkeypatch.setenv("DVC_ROOT", str(moved))
    send_unsent()
    assert "MLflow has received the rest of train_phase_a" in capsys.readouterr().out
    assert len(runs()) == 1
    assert unsent(moved) == []


def _locked(wait_s: float) -> None:
    from stf.errors import TrackingError

    raise TrackingError("the database is locked")


def test_the_shown_address_has_no_password_and_no_path_of_the_repository(root: Path) -> None:
    assert shown_address("https://ann:secret@mlflow.lab:5000/x") == "https://mlflow.lab:5000/x"
    assert shown_address("https://mlflow.lab") == "https://mlflow.lab"
    assert shown_address(f"sqlite:///{root}/mlruns/mlflow.db") == "sqlite:///mlruns/mlflow.db"
    assert shown_address("sqlite:////elsewhere/mlflow.db") == "sqlite:////elsewhere/mlflow.db"
