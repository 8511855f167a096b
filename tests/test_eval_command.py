"""`python -m pipeline.eval_a` from end to end on a tiny tree, with an untrained network."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from pipeline.eval_a import main
from stf.config import STFV8Config
from stf.data.ffpp import fingerprint_of, video_folder
from stf.models.backbone_v73 import STFMambaV73
from stf.models.weights import save_checkpoint
from stf.tracking.store import open_store
from tests.reference.evaluation_sets import write_three_pairs

PLAIN_FILES = (
    "metrics/eval_a.json",
    "metrics/eval_a_scores.csv",
    "metrics/plots/eval_a_roc.png",
    "metrics/plots/eval_a_scores.png",
    "metrics/gate_a.json",
)


def write_project(folder: Path) -> Path:
    """params.yaml, data with fingerprint, and the weights of a network that nobody trained."""
    write_three_pairs(folder / "ffpp")
    values = {
        # the checkpoint's clip length and size stand in the checkpoint; these would not even fit on disk
        "data": {"root": "ffpp", "num_frames": 64, "img_size": 512, "val_pairs_per_video": 2},
        "evaluation": {"clips_per_video": 2, "bootstrap_samples": 200},
        "runtime": {"num_workers": 0, "threads": 1, "device": "cpu"},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    torch.manual_seed(0)
    config = dataclasses.replace(STFV8Config.debug(), use_multiscale_drift=True)
    save_checkpoint(folder / "weights/phase_a.pt", STFMambaV73(config), config=config, epoch=4)
    write_fingerprint(folder)
    return folder


def write_fingerprint(folder: Path) -> None:
    (folder / "metrics").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "metrics/data.json").write_text(json.dumps({"fingerprint": fingerprint_of("ffpp")}))


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, console text) of a project in which the plain command has run."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        result = invoke()
    assert result.exit_code == 0, result.output
    return folder, result.output


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    """A copy of it, store included, free to be changed; also the working folder."""
    folder = shutil.copytree(finished[0], tmp_path / "project", symlinks=True)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    write_fingerprint(folder)  # the copy's own mtimes
    return folder


def test_the_plain_command_writes_all_outputs_and_the_table(finished):
    folder, text = finished
    for name in PLAIN_FILES:
        assert (folder / name).stat().st_size > 0
    document = json.loads((folder / "metrics/eval_a.json").read_text())
    groups = document["qualities"]["c23"]["groups"]
    assert list(groups) == ["Deepfakes", "FaceSwap", "overall"]
    assert (groups["overall"]["n_real"], groups["overall"]["n_fake"]) == (6, 12)
    assert document["clips"] == {"per_video": 2, "num_frames": 8, "img_size": 32}
    assert document["qualities"]["c23"]["not_on_disk"] == ["Face2Face", "NeuralTextures"]
    gate = json.loads((folder / "metrics/gate_a.json").read_text())
    assert gate == {"passed": groups["overall"]["auc"] > 0.70, "threshold": 0.70}
    assert document["gate"] == gate
    assert "drift, epoch 4" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_the_run_is_tracked_with_figures_and_files(project):
    store = open_store()
    run = store.client.search_runs([store.experiment_id])[0]
    document = json.loads((project / "metrics/eval_a.json").read_text())
    overall = document["qualities"]["c23"]["groups"]["overall"]["auc"]
    assert run.data.metrics["auc_overall"] == pytest.approx(overall, abs=1e-6)
    assert run.info.status == "FINISHED"
    assert run.data.tags["weights_sha256"] == document["checkpoint"]["weights_sha256"]
    kept = {Path(f.path).name for f in store.client.list_artifacts(run.info.run_id, "evaluation")}
    assert kept == {Path(name).name for name in PLAIN_FILES} - {"gate_a.json"}


def test_a_second_run_writes_the_same_bytes(project):
    before = {name: (project / name).read_bytes() for name in PLAIN_FILES}
    for name in PLAIN_FILES:
        (project / name).unlink()
    assert invoke().exit_code == 0
    assert {name: (project / name).read_bytes() for name in PLAIN_FILES} == before


def test_options_leave_the_pipelines_outputs_alone(project):
    before = {name: (project / name).read_bytes() for name in PLAIN_FILES}
    result = invoke("--methods", "FaceSwap", "--sbi-test")
    assert result.exit_code == 0, result.output
    assert {name: (project / name).read_bytes() for name in PLAIN_FILES} == before
    document = json.loads((project / "tmp/eval_a/eval_a.json").read_text())
    assert list(document["qualities"]["raw"]["groups"]) == ["FaceSwap", "overall"]
    assert set(document["self_blended_test"]) == {"V7.3 recipe", "V8.0 recipe"}
    assert "V7.3 recipe: fixed 2-px drift, no H.264" in result.output
    assert sorted(p.name for p in (project / "tmp/eval_a").rglob("*.*")) == [
        "eval_a.json",
        "eval_a_roc.png",
        "eval_a_scores.csv",
        "eval_a_scores.png",
    ]


def test_another_output_and_checkpoint(project):
    (project / "weights/phase_a.pt").rename(project / "other.pt")
    result = invoke("--checkpoint", "other.pt", "--output", "out/mine.json")
    assert result.exit_code == 0, result.output
    mine, plain = project / "out/mine.json", project / "metrics/eval_a.json"
    assert mine.read_bytes() == plain.read_bytes()
    assert not list((project / "out").glob("gate*"))


def test_a_method_that_cannot_be_read_is_an_error_after_the_report(project):
    for folder in (video_folder("ffpp", "FaceSwap", q, "frames", "006_007").parent for q in ("raw", "c23")):
        for frame in folder.rglob("*.png"):
            frame.write_bytes(b"")
    write_fingerprint(project)
    (project / "metrics/gate_a.json").unlink()
    result = invoke()
    assert result.exit_code == 1
    assert "n/a" in result.output
    assert "error: no video of c23/FaceSwap, raw/FaceSwap could be read" in result.output
    assert not (project / "metrics/gate_a.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--methods", "FaceSwapp"), 2, 'did you mean "FaceSwap"'),
        (("--methods", "Face2Face"), 1, "methods on disk there: Deepfakes, FaceSwap"),
        (("--checkpoint", "none.pt"), 1, "none.pt does not exist"),
        (("--params", "none.yaml"), 2, "none.yaml does not exist"),
        (("--output", "out.txt"), 2, "ends in .json"),
        (("--output", "metrics/eval_a.json", "--sbi-test"), 2, "give another path"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(project, arguments, code, message):
    result = invoke(*arguments)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output


def test_changed_data_is_refused_before_anything_is_scored(project):
    shutil.rmtree(video_folder("ffpp", "FaceSwap", "c23", "frames", "006_007"))
    result = invoke()
    assert result.exit_code == 1
    assert "changed since it was verified" in result.output
    assert "verify_data" in result.output


def test_help_is_fast_because_it_imports_nothing_heavy():
    heavy = "{'torch', 'cv2', 'sklearn', 'matplotlib', 'mlflow', 'pandas'}"
    code = f"import sys, pipeline.eval_a; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = invoke("--help")
    assert result.exit_code == 0
    for option in ("--checkpoint", "--params", "--methods", "--output", "--sbi-test"):
        assert option in result.output
