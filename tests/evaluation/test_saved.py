"""An evaluation comes back from its files as it was, and what is none is named."""

import json

import pytest
from sklearn.metrics import roc_auc_score

from stf.errors import DataError
from stf.evaluation.outputs import Outputs
from stf.evaluation.report import write_report
from stf.evaluation.saved import read_evaluation
from tests.reference.comparison_sets import score_table, write_files


def test_what_an_evaluation_wrote_is_read_back(evaluated, tmp_path):
    (tmp_path / "some.pt").write_bytes(b"weights")
    outputs = Outputs.beside(tmp_path / "eval_a.json")
    write_report(evaluated, outputs, "a", tmp_path / "some.pt")
    found = read_evaluation(outputs.document)
    assert (found.variant, found.epoch) == (evaluated.variant, evaluated.epoch)
    assert found.quality == evaluated.headline.quality
    assert found.clips["num_frames"] == evaluated.num_frames
    assert found.is_synthetic == evaluated.synthetic
    assert found.table["video_id"].tolist() == evaluated.table["video_id"].tolist()
    assert found.table["score"].to_numpy() == pytest.approx(
        evaluated.table["score"].to_numpy(float), nan_ok=True
    )


def test_the_csv_holds_the_digits_that_its_auc_needs(tmp_path):
    """Scores that differ in the eighth digit, as an untrained network's do."""
    table = score_table(1.0)
    table["score"] = 0.5 + 1e-7 * table["score"]
    found = read_evaluation(write_files(tmp_path / "e.json", table))
    assert roc_auc_score(found.table["label"], found.table["score"]) == roc_auc_score(
        table["label"], table["score"]
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "e.json does not exist"),
        (lambda path: path.write_text("{"), "e.json cannot be read as JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "e.json cannot be read as JSON"),
        (lambda path: path.write_text("[1]"), "e.json is no evaluation's document"),
        (lambda path: path.write_text(json.dumps({"checkpoint": {}})), "it lacks 'variant'"),
        (lambda path: path.write_text(json.dumps({"checkpoint": 3})), "e.json is no evaluation's document"),
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
        (lambda path: _change(path, clips=None), "is no evaluation's document"),
        (lambda path: path.write_text("[" * 99_999), "e.json cannot be read as JSON: it nests too deep"),
        (lambda path: path.write_text('{"quality": "raw", "quality": "c23"}'), "'quality' stands twice"),
    ],
)
def test_files_that_are_no_evaluation_are_named(tmp_path, damage, message):
    path = write_files(tmp_path / "e.json", score_table(1.0))
    damage(path)
    with pytest.raises(DataError, match=message):
        read_evaluation(path)


def _change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _append(path, line):
    scores = path.with_name("e_scores.csv")
    scores.write_text(scores.read_text() + line + "\n")
