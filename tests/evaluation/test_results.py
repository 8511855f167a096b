"""The figures of a report are those of the score table, group by group; the gate file contains only the verdict."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from stf.config import FLAGS, STFV8Config
from stf.evaluation.predict import ClipScorer
from stf.evaluation.results import OVERALL, Evaluation, evaluate, gate_for, group_rows
from stf.io.distributed import World
from stf.models.network import build_network
from tests.reference.evaluation_sets import METHODS_ON_DISK, params_for, scorer_for, write_three_pairs
from tests.reference.worlds import play


def test_each_method_is_compared_with_all_reals_and_overall_pools_all_fakes(evaluated):
    table = evaluated.table
    assert [r.quality for r in evaluated.qualities] == ["c23", "raw"]
    for result in evaluated.qualities:
        mine = table[table["quality"] == result.quality]
        assert list(result.groups) == [*METHODS_ON_DISK, OVERALL]
        for name, metrics in result.groups.items():
            rows = mine[mine["method"].isin(["real", name])] if name != OVERALL else mine
            assert metrics.auc == pytest.approx(roc_auc_score(rows["label"], rows["score"]))
            assert (metrics.n_real, metrics.n_fake) == (6, 12 if name == OVERALL else 6)
            called = rows["score"] >= evaluated.threshold.value
            assert metrics.accuracy == pytest.approx((called == rows["label"]).mean())
            assert metrics.auc_interval.low <= metrics.auc <= metrics.auc_interval.high
            assert metrics.auc_interval.n_clusters == 3


def test_the_gate_uses_the_headlines_overall_auc(evaluated):
    assert evaluated.gate.passed == (evaluated.headline.overall.auc > 0.70)
    assert evaluated.gate.threshold == 0.70


def test_scalar_baselines_cover_the_headlines_videos_only(evaluated):
    table = evaluated.table
    is_headline = table["quality"] == "c23"
    assert table.loc[is_headline, "face_px"].notna().all()
    assert table.loc[~is_headline, "face_px"].isna().all()
    rows = group_rows(table, "c23", "FaceSwap")
    result = evaluated.baselines["sharpness"]["FaceSwap"]
    assert result.auc == pytest.approx(roc_auc_score(rows["label"], rows["sharpness"]))


def test_a_group_without_readable_videos_is_not_available(tmp_path):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",), n_frames=8)
    for path in (root / "FaceForensics++/manipulated_sequences/FaceSwap").rglob("000.png"):
        path.write_bytes(b"")
    params = params_for(root, clips_per_video=1)
    result = evaluate(scorer_for(root), 1, params, METHODS_ON_DISK)
    assert result.failed_groups() == ("c23/FaceSwap",)
    assert result.headline.groups["FaceSwap"].auc is None
    assert result.headline.groups["FaceSwap"].n_fake == 0
    assert result.headline.overall.n_fake == 6
    assert result.headline.overall.auc == result.headline.groups["Deepfakes"].auc


def test_evaluating_twice_gives_the_same(evaluated, three_pairs):
    params = params_for(three_pairs)
    scorer = dataclasses.replace(scorer_for(three_pairs), num_workers=2)
    again = evaluate(scorer, 7, params, params.evaluation.methods)
    assert again.gate is None  # nobody asked
    assert evaluated.gate == gate_for(evaluated.headline.overall.auc, 0.7)
    for a, b in itertools.zip_longest(again.qualities, evaluated.qualities):
        assert a == b
    np.testing.assert_array_equal(again.table["score"], evaluated.table["score"])
    assert again.baselines == evaluated.baselines


def test_an_evaluation_by_several_processes_is_that_of_one(three_pairs: Path) -> None:
    config = dataclasses.replace(
        STFV8Config.debug(), data_root=str(three_pairs), **dict.fromkeys(FLAGS, True)
    )
    torch.manual_seed(0)
    network = build_network(config)
    params, methods = params_for(three_pairs, bootstrap_samples=100), ("Deepfakes", "FaceSwap")

    def part(world: World) -> Evaluation:
        torch.set_num_threads(1)  # of this thread: the number of threads is a matter of rounding
        scorer = ClipScorer(network, config, world=world)
        return evaluate(scorer, 1, params, methods, sbi_test=True)

    expected = part(World())
    assert expected.open_shares
    assert len(expected.self_blended) == 2
    for evaluation in play(2, part):
        pd.testing.assert_frame_equal(evaluation.table, expected.table, check_exact=True)
        for name in ("threshold", "qualities", "baselines", "self_blended", "open_shares"):
            assert getattr(evaluation, name) == getattr(expected, name), name


def test_the_auc_must_be_above_the_threshold():
    assert gate_for(0.7001, 0.70).passed
    assert not gate_for(0.70, 0.70).passed
    assert not gate_for(0.5, 0.70).passed


def test_the_file_is_the_same_for_every_auc_on_one_side(tmp_path):
    gate_for(0.71, 0.70).write(tmp_path / "new" / "a.json")
    gate_for(0.99, 0.70).write(tmp_path / "b.json")
    assert (tmp_path / "new" / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "b.json").read_text()) == {"passed": True, "threshold": 0.70}
