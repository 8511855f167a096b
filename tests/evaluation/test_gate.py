"""The gate file holds the verdict and nothing that changes without it."""

import json

from stf.evaluation.gate import judge


def test_the_auc_must_be_above_the_threshold():
    assert judge(0.7001, 0.70).passed
    assert not judge(0.70, 0.70).passed
    assert not judge(0.5, 0.70).passed


def test_the_file_is_the_same_for_every_auc_on_one_side(tmp_path):
    judge(0.71, 0.70).write(tmp_path / "new" / "a.json")
    judge(0.99, 0.70).write(tmp_path / "b.json")
    assert (tmp_path / "new" / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "b.json").read_text()) == {"passed": True, "threshold": 0.70}
