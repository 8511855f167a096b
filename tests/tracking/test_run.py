"""What a run carries, and how it ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from stf.config import FLAGS, PHASE_A_FLAGS, Params, STFV8Config
from stf.errors import DataError, Interrupted, TrackingError
from stf.io.hashing import sha256_of
from stf.tracking.baseline import baseline_auc
from stf.tracking.mlflow_run import MODEL_NAME
from stf.tracking.names import OVERALL_AUC
from stf.tracking.run import track
from stf.tracking.store import open_store

PARAMS = Params()
Runs = Callable[[], list]


def _evaluate(config: STFV8Config, auc: float, fingerprint: str = "data 1", stage: str = "eval_a") -> None:
    with track(stage, params=PARAMS, config=config, fingerprint=fingerprint) as run:
        run.log({OVERALL_AUC: auc})


def test_run_carries_params_flags_and_provenance(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train_phase_a")
    monkeypatch.setenv("DVC_EXP_NAME", "wss-off")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc123")
    with track(
        "train_phase_a",
        params=PARAMS,
        config=STFV8Config.phase_a(),
        fingerprint="f",
        device="cpu",
    ):
        pass
    (run,) = runs()
    assert run.info.run_name == "train_phase_a A wss-off"
    assert run.info.status == "FINISHED"
    written = {key: str(value) for key, value in PARAMS.flat().items()}
    assert written.items() <= run.data.params.items()
    for where in (run.data.params, run.data.tags):
        assert {flag: where[flag] for flag in FLAGS} == {
            flag: str(flag in PHASE_A_FLAGS).lower() for flag in FLAGS
        }
        assert where["variant"] == "A"
    tags = run.data.tags
    assert (tags["stage"], tags["data_fingerprint"], tags["machine.device"]) == ("train_phase_a", "f", "cpu")
    assert (tags["dvc.stage"], tags["dvc.experiment"], tags["dvc.baseline_rev"]) == (
        "train_phase_a",
        "wss-off",
        "abc123",
    )
    machine = {"cpu", "cores", "ram_gib", "gpu", "os", "threads", "python", "torch"}
    assert all(tags[f"machine.{name}"] for name in machine)


def test_the_commit_is_recorded_and_outputs_of_stages_do_not_make_it_dirty(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = _repository(tmp_path / "code", monkeypatch)
    for written, expected in (("dvc.lock", "false"), ("metrics/eval_a.json", "false"), ("code.py", "true")):
        Path(written).write_text("changed")
        with track("verify_data", params=PARAMS):
            pass
        assert runs()[0].data.tags["git.dirty"] == expected, written
    assert runs()[0].data.tags["git.commit"] == git("rev-parse", "HEAD")


def _repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    import subprocess

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@t")
        return subprocess.run(
            ("git", *identity, *arguments), check=True, capture_output=True, text=True
        ).stdout.strip()

    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("metrics").mkdir()
    for name in ("dvc.lock", "metrics/eval_a.json", "code.py"):
        Path(name).write_text("first")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    return git


def test_all_metrics_of_steps_arrive(runs: Runs) -> None:
    """Over 1,000 points: more than MLflow takes in one call."""
    with track("train_phase_a", params=PARAMS) as run:
        for step in range(500):
            run.log({"loss": step / 7, "auc": float("nan")}, step=step)
    store = open_store()
    history = store.client.get_metric_history(runs()[0].info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(step, step / 7) for step in range(500)]


def test_few_metrics_of_a_slow_run_are_on_disk_before_it_ends(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stf.tracking.delivery.FLUSH_EVERY_S", 0.0)
    with track("train_phase_a", params=PARAMS) as run:
        run.log({"loss": 1.5})
        assert runs()[0].data.metrics["loss"] == 1.5


def test_cost_comes_from_the_stage_or_from_the_clock(runs: Runs) -> None:
    with track("train_phase_a", params=PARAMS) as run:
        run.log({"cost_usd": 2.5})
    assert runs()[0].data.metrics["cost_usd"] == 2.5
    with track("verify_data", params=PARAMS):
        pass
    assert 0 < runs()[0].data.metrics["cost_usd"] < 0.01


@pytest.mark.parametrize(
    ("raised", "status"),
    [(DataError("no frames"), "FAILED"), (KeyError("k"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_a_run_that_raises_is_failed_and_keeps_its_metrics(
    runs: Runs, raised: BaseException, status: str
) -> None:
    with pytest.raises(type(raised)), track("train_phase_a", params=PARAMS) as run:
        run.log({"loss": 1.0})
        raise raised
    (ended,) = runs()
    assert ended.info.status == status
    assert ended.data.metrics["loss"] == 1.0
    assert ended.data.tags["error"].startswith(type(raised).__name__)


def test_a_full_disk_does_not_hide_what_ended_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise TrackingError("no space")

    monkeypatch.setattr("stf.tracking.run.TrackedRun._end", full)
    with pytest.raises(Interrupted), track("train_phase_a", params=PARAMS):
        raise Interrupted("stopped by SIGTERM", 143)
    assert "no space" in capsys.readouterr().out
    with pytest.raises(TrackingError, match="no space"), track("train_phase_a", params=PARAMS):
        pass


def test_files_folders_and_figures_are_stored(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.csv").write_text("1")
    with track("eval_a", params=PARAMS) as run:
        run.artifact(tmp_path / "clips" / "a.csv", "tables")
        run.artifact(tmp_path / "clips")
        run.figure(Figure(), "plots/roc.png")
        run.text("loaded 3\n", "tables/transfer.txt")
        with pytest.raises(FileNotFoundError, match=r"missing\.csv does not exist"):
            run.artifact("missing.csv")
    client, run_id = open_store().client, runs()[0].info.run_id
    stored = {
        entry.path for folder in ("", "tables", "plots") for entry in client.list_artifacts(run_id, folder)
    }
    assert {"tables/a.csv", "tables/transfer.txt", "a.csv", "plots/roc.png"} <= stored


def test_evaluation_is_nested_under_the_newest_training_of_the_same_weights(
    runs: Runs, tmp_path: Path
) -> None:
    weights = tmp_path / "phase_a.safetensors"
    for content in (b"other", b"weights", b"weights"):
        weights.write_bytes(content)
        with track("train_phase_a", params=PARAMS) as run:
            run.tie_weights(sha256_of(weights))
    training = runs()[0]
    assert training.data.tags["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert "mlflow.parentRunId" not in training.data.tags
    with track("eval_a", params=PARAMS) as run:
        run.tie_weights(sha256_of(weights))
    tags = runs()[0].data.tags
    assert tags["training_run_id"] == tags["mlflow.parentRunId"] == training.info.run_id


def test_the_training_run_carries_the_aucs_of_its_evaluation(runs: Runs) -> None:
    weights = "0" * 64  # their hash
    with track("train_phase_a", params=PARAMS) as run:
        run.tie_weights(weights)
    with track("eval_a", params=PARAMS) as run:
        run.tie_weights(weights)
        run.log_evaluation({"auc/overall": 0.5, "auc_raw/FaceSwap": 0.75, "f1/overall": 0.25}, weights)
    evaluation, training = runs()
    assert evaluation.data.metrics.keys() >= {"auc/overall", "auc_raw/FaceSwap", "f1/overall"}
    assert training.data.metrics.keys() - {"cost_usd"} == {"auc/overall", "auc_raw/FaceSwap"}
    assert training.data.metrics["auc/overall"] == 0.5


def test_evaluation_of_foreign_weights_has_no_parent(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "found.pt").write_bytes(b"from elsewhere")
    with track("eval_a", params=PARAMS) as run:
        run.tie_weights(sha256_of(tmp_path / "found.pt"))
    assert "mlflow.parentRunId" not in runs()[0].data.tags


def test_phase_b_records_the_training_that_it_starts_from(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "phase_a.safetensors").write_bytes(b"phase a")
    with track("train_phase_a", params=PARAMS) as run:
        run.tie_weights(sha256_of(tmp_path / "phase_a.safetensors"))
    start = runs()[0].info.run_id
    for content, known in ((b"phase a", {"starting_run_id": start}), (b"from elsewhere", {})):
        digest = hashlib.sha256(content).hexdigest()
        with track("train_phase_b", params=PARAMS) as run:
            run.starts_from(digest)
        tags = {key: value for key, value in runs()[0].data.tags.items() if key.startswith("starting")}
        assert tags == {"starting_weights_sha256": digest} | known
        assert "mlflow.parentRunId" not in runs()[0].data.tags  # beside phase A in the list, not below it


def test_model_is_registered_from_weights_and_json_alone(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "phase_a.safetensors").write_bytes(b"weights")
    for _ in range(2):
        with track("train_phase_a", params=PARAMS, config=STFV8Config.phase_a()) as run:
            run.register(tmp_path / "phase_a.safetensors", STFV8Config.phase_a())
    client = open_store().client
    versions = {int(v.version): v for v in client.search_model_versions(f"name = '{MODEL_NAME}'")}
    assert sorted(versions) == [1, 2]
    assert versions[2].tags["variant"] == "A"
    assert versions[2].run_id == runs()[0].info.run_id
    folder = Path(client.get_model_version_download_uri(MODEL_NAME, "2"))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "phase_a.safetensors"]
    assert STFV8Config(**json.loads((folder / "config.json").read_text())) == STFV8Config.phase_a()


def test_baseline_is_the_newest_finished_v73_evaluation(root: Path) -> None:
    assert baseline_auc() is None
    _evaluate(STFV8Config.phase_a(), 0.9)
    assert baseline_auc() is None
    _evaluate(STFV8Config(), 0.51)
    _evaluate(STFV8Config(), 0.52)
    _evaluate(STFV8Config(), 0.60, stage="eval_b")  # without flags too, but trained for longer than V7.3
    with pytest.raises(DataError), track("eval_a", params=PARAMS, config=STFV8Config()) as run:
        run.log({OVERALL_AUC: 0.99})
        raise DataError("stopped")
    assert baseline_auc() == 0.52


def test_baseline_of_other_data_does_not_count(root: Path) -> None:
    _evaluate(STFV8Config(), 0.51, fingerprint="data 1")
    _evaluate(STFV8Config(), 0.77, fingerprint="data 2")
    assert baseline_auc("data 1") == 0.51
    assert baseline_auc("data 3") is None


def test_a_store_that_fails_has_no_baseline(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _evaluate(STFV8Config(), 0.51)
    (root / "mlruns" / "mlflow.db").write_bytes(b"this is no database " * 100)
    assert baseline_auc() is None
    assert "file is not a database: no baseline to compare with" in capsys.readouterr().out
