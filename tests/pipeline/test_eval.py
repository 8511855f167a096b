"""`python -m pipeline.eval_a` and `eval_b` from end to end on a tiny tree, with untrained networks."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from pipeline.eval_a import main as eval_a
from pipeline.eval_b import main as eval_b
from stf.config import FLAGS, Params, STFV8Config
from stf.data.ffpp import fingerprint_of, video_folder
from stf.evaluation.results import TEST_DATA_USE
from stf.evaluation.run import Request
from stf.io.hashing import sha256_of
from stf.models.checkpoint import save_checkpoint
from stf.models.network import build_network
from stf.tracking.run import track
from stf.tracking.store import open_store
from tests.reference.evaluation_sets import write_three_pairs

pytestmark = pytest.mark.xdist_group("eval")  # one evaluated project for all
COMMANDS = {"a": eval_a, "b": eval_b}
FLAGS_ON = {"a": ("use_multiscale_drift",), "b": FLAGS}
GATE = "metrics/gate_a.json"
BOTH = pytest.mark.parametrize("phase", ["a", "b"])


def plain_files(phase):
    """What the plain command writes, the gate aside."""
    names = (".json", "_details.json", "_scores.csv", "_roc.png", "_scores.png")
    folders = (*["metrics"] * 3, *["metrics/plots"] * 2)
    return [f"{folder}/eval_{phase}{name}" for folder, name in zip(folders, names, strict=True)]


def write_project(folder: Path) -> Path:
    """params.yaml, data with fingerprint, and the weights of two networks that nobody trained."""
    write_three_pairs(folder / "ffpp")
    values = {
        # the checkpoint's clip length and size stand in the checkpoint; these would not even fit on disk
        "data": {"root": "ffpp", "num_frames": 64, "img_size": 512, "val_pairs_per_video": 2},
        "evaluation": {"clips_per_video": 2, "bootstrap_samples": 200},
        "runtime": {"num_workers": 0, "threads": 1, "device": "cpu"},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for phase, flags in FLAGS_ON.items():
        torch.manual_seed(0)
        config = dataclasses.replace(STFV8Config.debug(), **dict.fromkeys(flags, True))
        save_checkpoint(
            folder / f"weights/phase_{phase}.safetensors", build_network(config), config=config, epoch=4
        )
    write_fingerprint(folder)
    return folder


def write_fingerprint(folder: Path) -> None:
    (folder / "metrics").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "metrics/data.json").write_text(json.dumps({"fingerprint": fingerprint_of("ffpp")}))


def invoke(phase, *arguments):
    return CliRunner().invoke(COMMANDS[phase], list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def finished(empty_store, tmp_path_factory):
    """(folder, {phase: console text}) of a project in which both plain commands have run."""
    folder = write_project(shutil.copytree(empty_store, tmp_path_factory.mktemp("finished") / "project"))
    texts = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for phase in COMMANDS:
            with track(f"train_phase_{phase}", params=Params()) as run:
                run.tie_weights(sha256_of(f"weights/phase_{phase}.safetensors"))
            result = invoke(phase)
            assert result.exit_code == 0, result.output
            texts[phase] = result.output
    return folder, texts


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    """A copy of it, store included, free to be changed; also the working folder."""
    folder = shutil.copytree(finished[0], tmp_path / "project", symlinks=True)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    write_fingerprint(folder)  # the copy's own mtimes
    return folder


@BOTH
def test_the_plain_command_writes_all_outputs_and_the_table(finished, phase):
    folder, text = finished[0], finished[1][phase]
    for name in plain_files(phase):
        assert (folder / name).stat().st_size > 0
    document = json.loads((folder / f"metrics/eval_{phase}_details.json").read_text())
    groups = document["qualities"]["c23"]["groups"]
    assert list(groups) == ["Deepfakes", "FaceSwap", "overall"]
    assert (groups["overall"]["n_real"], groups["overall"]["n_fake"]) == (6, 12)
    assert document["clips"] == {"per_video": 2, "num_frames": 8, "img_size": 32}
    assert document["qualities"]["c23"]["not_on_disk"] == ["Face2Face", "NeuralTextures"]
    assert document["phase"] == phase
    assert document["test_data_use"] == TEST_DATA_USE[phase]
    assert f"{document['checkpoint']['variant']}, epoch 4" in text
    assert "V7.3: 51.55 %" in text
    assert len(text.splitlines()) <= 25
    assert max(len(line) for line in text.splitlines()) <= 100


def test_the_gate_is_phase_as_alone(finished):
    folder, texts = finished
    documents = {p: json.loads((folder / f"metrics/eval_{p}_details.json").read_text()) for p in COMMANDS}
    overall = documents["a"]["qualities"]["c23"]["groups"]["overall"]["auc"]
    gate = json.loads((folder / GATE).read_text())
    assert gate == documents["a"]["gate"] == {"passed": overall > 0.70, "threshold": 0.70}
    assert documents["b"]["gate"] is None
    assert [path.name for path in (folder / "metrics").glob("gate*")] == ["gate_a.json"]
    assert ["Gate of phase B (overall" in texts[phase] for phase in COMMANDS] == [True, False]


@BOTH
def test_the_run_is_tracked_with_figures_and_files_under_its_training(project, phase):
    store = open_store()
    stages = {run.data.tags["stage"]: run for run in store.client.search_runs([store.experiment_id])}
    run, training = stages[f"eval_{phase}"], stages[f"train_phase_{phase}"]
    document = json.loads((project / f"metrics/eval_{phase}_details.json").read_text())
    overall = document["qualities"]["c23"]["groups"]["overall"]["auc"]
    assert run.data.metrics["auc/overall"] == pytest.approx(overall, abs=1e-6)
    assert run.info.status == "FINISHED"
    digest = hashlib.sha256((project / f"weights/phase_{phase}.safetensors").read_bytes()).hexdigest()
    assert run.data.tags["weights_sha256"] == document["checkpoint"]["weights_sha256"] == digest
    assert run.data.tags["mlflow.parentRunId"] == training.info.run_id
    assert run.data.tags["ssm_backend"] == "torch"
    artifacts = {Path(f.path).name for f in store.client.list_artifacts(run.info.run_id, "evaluation")}
    assert artifacts == {Path(name).name for name in plain_files(phase)}


@BOTH
def test_a_second_run_writes_the_same_bytes(project, phase):
    names = [*plain_files(phase), *([GATE] if phase == "a" else [])]
    before = {name: (project / name).read_bytes() for name in names}
    for name in names:
        (project / name).unlink()
    assert invoke(phase).exit_code == 0
    assert {name: (project / name).read_bytes() for name in names} == before


@BOTH
def test_options_leave_the_pipelines_outputs_alone(project, phase):
    names = [*plain_files("a"), *plain_files("b"), GATE]
    before = {name: (project / name).read_bytes() for name in names}
    result = invoke(phase, "--methods", "FaceSwap", "--sbi-test")
    assert result.exit_code == 0, result.output
    assert {name: (project / name).read_bytes() for name in names} == before
    document = json.loads((project / f"tmp/eval_{phase}/eval_{phase}_details.json").read_text())
    assert list(document["qualities"]["raw"]["groups"]) == ["FaceSwap", "overall"]
    assert set(document["self_blended_test"]) == {"V7.3 recipe", "V8.0 recipe"}
    assert "V7.3 recipe: fixed 2-px drift, no H.264" in result.output
    written = {path.name for path in (project / f"tmp/eval_{phase}").rglob("*.*")}
    assert written == {Path(name).name for name in plain_files(phase)}


@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        ("checkpoint", "other.safetensors", "--checkpoint"),
        ("params_path", "other.yaml", "--params"),
        ("methods", ("FaceSwap",), "--methods"),
        ("sbi_test", True, "--sbi-test"),
    ],
)
def test_each_option_alone_makes_a_result_that_is_not_the_pipelines(field, value, option):
    plain = Request(
        "a", "weights/phase_a.safetensors", "params.yaml", methods=(), output=None, sbi_test=False
    )
    assert plain.changed() == ()
    assert dataclasses.replace(plain, **{field: value}).changed() == (option,)


def test_another_output_and_checkpoint(project):
    (project / "weights/phase_a.safetensors").rename(project / "other.safetensors")
    result = invoke("a", "--checkpoint", "other.safetensors", "--output", "out/mine.json")
    assert result.exit_code == 0, result.output
    mine, plain = project / "out/mine.json", project / "metrics/eval_a.json"
    assert mine.read_bytes() == plain.read_bytes()
    assert not list((project / "out").glob("gate*"))


def test_a_method_that_cannot_be_read_is_an_error_after_the_report(project):
    for folder in (video_folder("ffpp", "FaceSwap", q, "frames", "006_007").parent for q in ("raw", "c23")):
        for frame in folder.rglob("*.png"):
            frame.write_bytes(b"")
    write_fingerprint(project)
    (project / GATE).unlink()
    result = invoke("a")
    assert result.exit_code == 1
    assert "n/a" in result.output
    assert "error: no video of c23/FaceSwap, raw/FaceSwap could be read" in result.output
    assert not (project / GATE).exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--methods", "FaceSwapp"), 2, 'did you mean "FaceSwap"'),
        (("--methods", "Face2Face"), 1, "methods on disk there: Deepfakes, FaceSwap"),
        (("--checkpoint", "none.safetensors"), 1, "none.safetensors does not exist"),
        (("--params", "none.yaml"), 2, "none.yaml does not exist"),
        (("--output", "out.txt"), 2, "ends in .json"),
        (("--output", "metrics/eval_b.json", "--sbi-test"), 2, "give another path"),
        (("--output", "metrics/data.json"), 2, "not in metrics/"),
        (("--output", "/proc/none/e.json"), 2, "cannot be written"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(project, arguments, code, message):
    result = invoke("b", *arguments)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output


def test_changed_data_is_refused_before_anything_is_scored(project):
    shutil.rmtree(video_folder("ffpp", "FaceSwap", "c23", "frames", "006_007"))
    result = invoke("a")
    assert result.exit_code == 1
    assert "changed since it was verified" in result.output
    assert "verify_data" in result.output


@BOTH
def test_help_names_every_option(phase):
    result = invoke(phase, "--help")
    assert result.exit_code == 0
    for option in ("--checkpoint", "--params", "--methods", "--output", "--sbi-test", "--verbose"):
        assert option in result.output
