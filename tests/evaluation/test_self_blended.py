"""The threshold sees validation clips alone; --sbi-test scores the two recipes it names, the same for every run."""

import dataclasses
import shutil

import numpy as np
import pytest

from stf.data.ffpp import video_folder
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.evaluation.metrics import choose_threshold
from stf.evaluation.self_blended import (
    SBI_TEST_FLAGS,
    score_self_blended,
    self_blended_test,
    validation_threshold,
)
from tests.reference.evaluation_plain import auc_by_counting
from tests.reference.evaluation_sets import METHODS_ON_DISK, params_for, scorer_for, write_three_pairs


def test_every_clip_is_scored_once_in_order(three_pairs):
    scorer, params = scorer_for(three_pairs), params_for(three_pairs)
    dataset = VideoSBIDataset("val", scorer.config, data=params.data)
    found = score_self_blended(scorer, dataset, "clips")
    assert found.labels_N.tolist() == [0, 1] * 4
    assert found.video_ids == ("004",) * 4 + ("005",) * 4
    one_by_one = [scorer.p_fake(dataset[i]["video"][None])[0] for i in range(8)]
    np.testing.assert_allclose(found.scores_N, one_by_one, atol=1e-6)


def test_the_threshold_is_the_best_on_those_clips(three_pairs):
    scorer, params = scorer_for(three_pairs), params_for(three_pairs)
    dataset = VideoSBIDataset("val", scorer.config, data=params.data, sbi=params.sbi, seed=params.seed)
    found = score_self_blended(scorer, dataset, "clips")
    assert validation_threshold(scorer, params) == choose_threshold(found.labels_N, found.scores_N)


def test_the_threshold_needs_no_test_video_and_no_fake(tmp_path):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",))
    before = validation_threshold(scorer_for(root), params_for(root))
    for video_id in ("006", "007", "008", "009", "010", "011"):
        shutil.rmtree(video_folder(root, None, "c23", "frames", video_id))
    for method in METHODS_ON_DISK:
        shutil.rmtree(video_folder(root, method, "c23", "frames", "006_007").parents[2])
    assert validation_threshold(scorer_for(root), params_for(root)) == before


def test_both_recipes_are_scored_and_do_not_hang_on_flags_or_seed_of_the_run(three_pairs):
    params = params_for(three_pairs)
    scorer = scorer_for(three_pairs)
    config = dataclasses.replace(scorer.config, use_compression_aug=True, use_multiscale_drift=True)
    other_run = dataclasses.replace(scorer, config=config)
    found = self_blended_test(scorer, params)
    again = self_blended_test(other_run, dataclasses.replace(params, seed=5))
    assert [r.recipe for r in found] == list(SBI_TEST_FLAGS)
    assert [r.auc for r in found] == [r.auc for r in again]
    assert {(r.n_real, r.n_fake) for r in found} == {(12, 12)}


def test_the_recipes_clips_are_v73s_and_v80s(three_pairs):
    scorer, params = scorer_for(three_pairs), params_for(three_pairs)
    results = {r.recipe: r for r in self_blended_test(scorer, params)}
    for recipe, flags in {"V7.3 recipe": (False, False), "V8.0 recipe": (True, True)}.items():
        config = dataclasses.replace(
            scorer.config, use_compression_aug=flags[0], use_multiscale_drift=flags[1]
        )
        dataset = VideoSBIDataset("test", config, data=params.data, sbi=params.sbi, seed=8)
        qps = [dataset[2 * pair]["provenance"].qp for pair in range(dataset.n_pairs)]
        assert any(qp is not None for qp in qps) == flags[0]
        scores = score_self_blended(scorer, dataset, "clips")
        expected = auc_by_counting(scores.labels_N, scores.scores_N)
        assert results[recipe].auc == pytest.approx(expected, abs=1e-12)
