"""`python -m pipeline.compare` on a store with invented runs."""

import json
import os
import shutil
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

from pipeline.compare import main
from stf.config import FLAGS, PHASE_A_FLAGS
from stf.tracking.store import open_store
from tests.reference.comparison_sets import (
    FINGERPRINT,
    score_table,
    store_both,
    store_evaluation,
    store_training,
    write_files,
)


@pytest.fixture(scope="module")
def stored(empty_store, tmp_path_factory):
    """A repository with evaluated runs of V7.3 (seeds 0, 1), phase A (seeds 0, 1) and phase B, and a failed one."""
    root = Path(shutil.copytree(empty_store, tmp_path_factory.mktemp("compare") / "root"))
    (root / "metrics").mkdir()
    (root / "metrics/data.json").write_text(json.dumps({"fingerprint": FINGERPRINT}))
    (root / "params.yaml").write_text("seed: 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(root)
        for seed in (0, 1):
            store_both(root, (), score_table(0.0, seed=10 + seed), seed=seed)
            store_both(root, PHASE_A_FLAGS, score_table(0.6, seed=20 + seed), seed=seed)
        store_both(root, FLAGS, score_table(2.5, seed=30), phase="b")
        store_training(root, ("use_hydra",))
        weights = store_training(root, ("use_wss",))
        store_evaluation(root, weights, ("use_wss",), score_table(1.0), fingerprint="other data")
    return root


@pytest.fixture
def repository(stored, tmp_path, monkeypatch):
    """A copy of it, which is also the working folder."""
    root = Path(shutil.copytree(stored, tmp_path / "root"))
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(root)
    return root


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_by_default_baseline_phase_a_and_phase_b_of_params_yaml(repository):
    result = invoke()
    assert result.exit_code == 0, result.output
    document = json.loads((repository / "tmp/compare/compare.json").read_text())
    runs = document["runs"]
    assert {label: run["variant"] for label, run in runs.items()} == {
        "R1": "V7.3",
        "R2": "A",
        "R3": "B",
    }
    assert runs["R2"]["name"].startswith("eval_a A")
    params = [open_store().client.get_run(run["run_id"]).data.params["seed"] for run in runs.values()]
    assert params == ["0", "0", "0"]
    assert runs["R1"]["training"]["parameters"] == 123_456
    assert runs["R1"]["training"]["gmacs_per_clip"] is None
    assert [(pair["a"], pair["b"]) for pair in document["comparisons"]] == [("R1", "R2"), ("R1", "R3")]
    overall = document["comparisons"][1]["qualities"]["c23"]["overall"]
    assert (overall["n_real"], overall["n_fake"]) == (16, 64)
    assert overall["bootstrap"]["low"] > 0
    assert overall["bootstrap"]["p_value"] < 0.05


def test_the_report_fits_100_columns_and_has_a_title(repository):
    text = invoke().output
    assert max(len(line) for line in text.splitlines()) <= 100
    flat = " ".join(text.split())
    for text in (
        "Synthetic stand-in: the data is the built-in sample",
        "R2 (A) against R1 (V7.3), c23",
        "DeLong's test takes videos for independent",
        "10000 resamples of identity pairs",
        "Only 8 identity pairs",
    ):
        assert text in flat


def test_the_comparison_is_a_run_with_figures_and_files(repository):
    assert invoke().exit_code == 0
    store = open_store()
    run = store.client.search_runs([store.experiment_id], "tags.stage = 'compare'")[0]
    document = json.loads((repository / "tmp/compare/compare.json").read_text())
    assert run.data.tags["compared"] == ", ".join(r["run_id"] for r in document["runs"].values())
    difference = document["comparisons"][0]["qualities"]["c23"]["overall"]["bootstrap"]["difference"]
    assert run.data.metrics["R2-R1/difference_overall"] == pytest.approx(difference, abs=1e-6)
    assert "R3-R1/p_value_FaceSwap" in run.data.metrics
    artifacts = {Path(file.path).name for file in store.client.list_artifacts(run.info.run_id, "comparison")}
    assert artifacts == {"compare.json", "compare.png"}
    assert cv2.imread("tmp/compare/compare.png").std() > 5


def test_files_are_compared_without_any_run(repository):
    write_files(Path("one/e.json"), score_table(0.5, seed=1))
    write_files(Path("two/e.json"), score_table(0.5, seed=1), weights=b"2")
    result = invoke("one/e.json", "two/e.json", "--output", "out/mine.json")
    assert result.exit_code == 0, result.output
    document = json.loads(Path("out/mine.json").read_text())
    groups = document["comparisons"][0]["qualities"]["c23"]
    assert all(group["delong"]["p_value"] == 1 for group in groups.values())
    assert groups["overall"]["bootstrap"]["p_value"] == 1
    assert document["runs"]["R1"]["training"]["cost_usd"] is None
    assert "its cost is n/a" in result.output
    assert Path("out/mine.png").exists()


def test_a_file_and_a_training_run_and_what_they_do_not_share(repository):
    table = score_table(0.5, seed=1, methods=("Deepfakes", "FaceSwap"))
    write_files(Path("e.json"), table[table["video_id"] != "000"])
    training = open_store().client.search_runs(
        [open_store().experiment_id], "tags.stage = 'train_phase_a' AND tags.variant = 'V7.3'"
    )[0]
    result = invoke("e.json", training.info.run_id[:16])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "R2 against R1 leaves out: c23/Face2Face: 16 only in R2; c23/NeuralTextures: 16 only in R2" in text
    assert "c23/real: 1 only in R2" in text


def test_a_missing_default_evaluation_is_reported_with_its_command(repository):
    delete("eval_b")
    result = invoke()
    assert result.exit_code == 0, result.output
    assert "B by eval_b (`dvc repro` makes it)" in result.output
    delete("eval_a")
    result = invoke()
    assert result.exit_code == 1
    assert "error: fewer than two runs to compare" in result.output
    assert "V7.3 by eval_a (`make baseline` makes it)" in result.output


def delete(stage):
    store = open_store()
    for run in store.client.search_runs([store.experiment_id], f"tags.stage = '{stage}'"):
        store.client.delete_run(run.info.run_id)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("V7.4", "eval_a V7.3"), 2, 'has "V7.4" as its id'),
        (("eval_a V7.3",), 2, "at least two runs"),
        (("--grid", "eval_a V7.3"), 2, "takes no RUN"),
        (("train_phase_a V7.3+hydra", "eval_a V7.3"), 1, "has no finished evaluation"),
        (("eval_a V7.3+wss", "eval_a V7.3"), 1, "the runs are of different data"),
        (("none.json", "eval_a V7.3"), 1, "none_details.json does not exist"),
        (("params.yaml", "eval_a V7.3"), 2, 'has "params.yaml"'),
        (("--output", "x.csv"), 2, "ends in .json"),
        (("--output", "metrics/eval_a.json"), 2, "which is DVC's"),
        (("--params", "none.yaml"), 2, "none.yaml does not exist"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(repository, arguments, code, message):
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_an_input_is_not_overwritten_and_data_must_have_been_verified(repository):
    path = write_files(Path("one/e.json"), score_table(0.5))
    before = path.read_bytes()
    result = invoke("one/e.json", "eval_a V7.3", "--output", "one/../one/e.json")
    assert (result.exit_code, path.read_bytes()) == (2, before)
    os.remove("metrics/data.json")
    assert "has not been verified" in invoke().output


def test_the_grid_lists_every_row_and_names_what_is_missing(repository):
    result = invoke("--grid")
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 100
    assert result.output.count("not run") == 9
    text = " ".join(result.output.split())
    assert "Not in the store: v73 (seed 2), v73-contrastive (seed 0, 1, 2)" in text
    rows = {row["key"]: row for row in json.loads(Path("tmp/compare/grid.json").read_text())["rows"]}
    assert len(rows) == 11
    assert rows["a"]["difference_to_v73"]["n"] == 2
    assert rows["a"]["method_auc"].keys() == {"Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"}
    assert rows["v80"]["runs"] == {}  # phase B's is fine-tuned: not this row
    assert cv2.imread("tmp/compare/grid.png").std() > 5


def test_an_empty_grid_is_reported(repository):
    delete("eval_a")
    result = invoke("--grid")
    assert (result.exit_code, "make grid" in result.output) == (1, True)
