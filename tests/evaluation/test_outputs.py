"""An evaluation's files: a complete JSON, scores and two plots, the same for the same input, and read back."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from stf.errors import DataError, UsageError
from stf.evaluation.metrics import GroupMetrics
from stf.evaluation.outputs import (
    Outputs,
    all_details,
    choose_outputs,
    flat_metrics,
    read_evaluation,
    tracked_metrics,
    write_gate,
    write_report,
)
from tests.reference.comparison_sets import score_table, write_files


def test_the_details_hold_every_figure_and_only_json(evaluated):
    details = all_details(evaluated, "a", "f00")
    assert json.loads(json.dumps(details, allow_nan=False)) == details
    overall = details["qualities"]["c23"]["groups"]["overall"]
    expected = {f.name for f in dataclasses.fields(GroupMetrics)} - {"auc_interval"}
    assert set(overall) == expected | {"auc_low", "auc_high", "n_clusters"}
    assert overall["auc"] == pytest.approx(evaluated.headline.overall.auc, abs=1e-6)
    assert overall["tpr_at_fpr_1pct"] is None
    assert details["threshold"]["value"] == pytest.approx(evaluated.threshold.value, abs=1e-6)
    assert set(details["trivial_baselines"]["auc"]) == {"network", "bits_per_pixel", "sharpness", "face_px"}
    assert set(details["self_blended_test"]) == {"V7.3 recipe", "V8.0 recipe"}
    assert details["checkpoint"] == {"variant": "V7.3", "epoch": 7, "weights_sha256": "f00"}


@pytest.mark.parametrize("phase", ["a", "b"])
def test_the_metrics_are_flat_figures_under_the_phases_own_keys(evaluated, phase):
    metrics = flat_metrics(evaluated, phase)
    details = all_details(evaluated, phase, "f00")
    groups = details["qualities"]["c23"]["groups"]
    assert {name: metrics[f"{phase}_auc_{name}"] for name in groups} == {
        name: group["auc"] for name, group in groups.items()
    }
    overall = groups["overall"]
    assert (metrics[f"{phase}_auc_overall_low"], metrics[f"{phase}_auc_overall_high"]) == (
        overall["auc_low"],
        overall["auc_high"],
    )
    assert (metrics[f"{phase}_n_real"], metrics[f"{phase}_n_fake"]) == (6, 12)
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert all(name.startswith(f"{phase}_") for name in metrics)


def test_tracked_metrics_are_named_by_measure_and_method(evaluated):
    result = tracked_metrics(evaluated)
    assert result["auc/overall"] == pytest.approx(evaluated.headline.overall.auc)
    assert result["auc_raw/FaceSwap"] == pytest.approx(evaluated.qualities[1].groups["FaceSwap"].auc)
    assert "tpr_at_fpr_1pct/overall" not in result
    assert all(np.isfinite(value) for value in result.values())
    assert {"threshold", "baseline_auc/face_px", "sbi_test_auc/V7.3"} <= set(result)


def test_files_are_the_same_bytes_and_carry_no_version_or_time(evaluated, tmp_path):
    first, second = Outputs.beside(tmp_path / "1" / "e.json"), Outputs.beside(tmp_path / "2" / "e.json")
    for a, b in zip(
        write_report(evaluated, first, "a", "f00"),
        write_report(evaluated, second, "a", "f00"),
        strict=True,
    ):
        assert a.read_bytes() == b.read_bytes()
    for plot in (first.roc_plot, first.scores_plot):
        with Image.open(plot) as image:
            assert set(image.info) <= {"dpi"}
            assert min(image.size) >= 600


def test_the_csv_holds_every_video_with_its_score(evaluated, tmp_path):
    outputs = Outputs.beside(tmp_path / "e.json")
    write_report(evaluated, outputs, "a", "f00")
    table = pd.read_csv(outputs.scores, dtype={"video_id": str, "target_id": str})
    assert len(table) == 36
    assert table["score"].tolist() == pytest.approx(evaluated.table["score"].tolist(), abs=1e-6)
    assert table["video_id"].tolist() == evaluated.table["video_id"].tolist()


def test_the_gate_is_written_once_all_groups_have_figures(evaluated, tmp_path):
    outputs = Outputs.beside(tmp_path / "e.json", gate=tmp_path / "gate.json")
    table = evaluated.table.copy()
    table.loc[(table["method"] == "FaceSwap") & (table["quality"] == "raw"), "score"] = np.nan
    with pytest.raises(DataError, match="raw/FaceSwap"):
        write_gate(dataclasses.replace(evaluated, table=table), outputs)
    assert not outputs.gate.exists()
    write_gate(evaluated, Outputs.beside(tmp_path / "e.json"))
    assert not outputs.gate.exists()
    write_gate(evaluated, outputs)
    assert set(json.loads(outputs.gate.read_text())) == {"passed", "threshold"}


def test_only_the_command_without_options_writes_the_pipelines_outputs():
    plain = choose_outputs("a", None, ())
    paths = [plain.metrics, plain.details, plain.scores, plain.roc_plot, plain.scores_plot, plain.gate]
    assert [path.as_posix() for path in paths] == [
        "metrics/eval_a.json",
        "metrics/eval_a_details.json",
        "metrics/eval_a_scores.csv",
        "metrics/plots/eval_a_roc.png",
        "metrics/plots/eval_a_scores.png",
        "metrics/gate_a.json",
    ]
    assert choose_outputs("a", "./metrics/eval_a.json", ()) == plain
    partial = choose_outputs("a", None, ("--methods",))
    assert (partial.metrics.as_posix(), partial.gate) == ("tmp/eval_a/eval_a.json", None)
    own = choose_outputs("a", "x/mine.json", ())
    assert (own.scores.as_posix(), own.roc_plot.as_posix(), own.gate) == (
        "x/mine_scores.csv",
        "x/plots/mine_roc.png",
        None,
    )
    later = choose_outputs("b", None, ())
    assert (later.metrics.as_posix(), later.gate) == ("metrics/eval_b.json", None)
    with pytest.raises(UsageError, match=r"--sbi-test would change it"):
        choose_outputs("a", "metrics/eval_a.json", ("--sbi-test",))
    with pytest.raises(UsageError, match=r"\.json"):
        choose_outputs("a", "metrics", ())


def test_what_an_evaluation_wrote_is_read_back(evaluated, tmp_path):
    outputs = Outputs.beside(tmp_path / "eval_a.json")
    write_report(evaluated, outputs, "a", "f00")
    result = read_evaluation(outputs.metrics)
    assert read_evaluation(outputs.details).table.equals(result.table)
    assert (result.variant, result.epoch) == (evaluated.variant, evaluated.epoch)
    assert result.quality == evaluated.headline.quality
    assert result.clips["num_frames"] == evaluated.num_frames
    assert result.is_synthetic == evaluated.synthetic
    assert result.table["video_id"].tolist() == evaluated.table["video_id"].tolist()
    assert result.table["score"].to_numpy() == pytest.approx(
        evaluated.table["score"].to_numpy(float), nan_ok=True
    )


def test_the_csv_has_enough_digits_for_its_auc(tmp_path):
    """Scores that differ in the eighth digit, as an untrained network's do."""
    table = score_table(1.0)
    table["score"] = 0.5 + 1e-7 * table["score"]
    result = read_evaluation(write_files(tmp_path / "e.json", table))
    assert roc_auc_score(result.table["label"], result.table["score"]) == roc_auc_score(
        table["label"], table["score"]
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "e_details.json does not exist"),
        (lambda path: path.write_text("{"), "e_details.json cannot be read as JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "e_details.json cannot be read as JSON"),
        (lambda path: path.write_text("[1]"), "e_details.json holds no evaluation"),
        (lambda path: path.write_text(json.dumps({"checkpoint": {}})), "it lacks 'variant'"),
        (lambda path: path.write_text(json.dumps({"checkpoint": 3})), "e_details.json holds no evaluation"),
        (lambda path: path.with_name("e_scores.csv").unlink(), "e_scores.csv does not exist"),
        (lambda path: path.with_name("e_scores.csv").write_text(""), "e_scores.csv cannot be read"),
        (lambda path: path.with_name("e_scores.csv").write_text("a,b\n1,2\n"), "e_scores.csv cannot be read"),
        (lambda path: _append(path, "000,real,c23,0,000,000+001,0.5,2,"), "c23/real/000 twice"),
        (lambda path: _append(path, "900,real,c23,2,900,900+901,0.5,2,"), "neither 0 nor 1"),
        (lambda path: _append(path, "900,real,c23,0,900,900+901,high,2,"), "e_scores.csv cannot be read"),
        (lambda path: _append(path, "900,real,c23,0.5,900,900+901,0.5,2,"), "e_scores.csv cannot be read"),
        (lambda path: _append(path, "900,real,c23,0,900,900+901,inf,2,"), "a score that is no probability"),
        (lambda path: _append(path, "900,real,c23,0,900,900+901,-0.1,2,"), "a score that is no probability"),
        (lambda path: _append(path, ",real,c23,0,900,900+901,0.5,2,"), "a video without id"),
        (lambda path: _change(path, quality=["c23"]), r"\['c23'\] stands where a short text belongs"),
        (lambda path: _change(path, quality="\x1b[31m"), "stands where a short text belongs"),
        (lambda path: _change(path, clips={"per_video": "two"}), "'two' stands where a number"),
        (lambda path: _change(path, clips={"per_video": 1e999}), "inf stands where a number"),
        (lambda path: _change(path, clips=None), "holds no evaluation"),
        (
            lambda path: path.write_text("[" * 99_999),
            "e_details.json cannot be read as JSON: it nests too deep",
        ),
        (lambda path: path.write_text('{"quality": "raw", "quality": "c23"}'), "'quality' stands twice"),
    ],
)
def test_files_that_are_not_an_evaluation_are_reported(tmp_path, damage, message):
    path = write_files(tmp_path / "e.json", score_table(1.0))
    damage(path)
    with pytest.raises(DataError, match=message):
        read_evaluation(path)


def _change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _append(path, line):
    scores = path.with_name("e_scores.csv")
    scores.write_text(scores.read_text() + line + "\n")
