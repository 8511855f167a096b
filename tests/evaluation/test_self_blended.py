"""The threshold sees validation clips alone, and so does the open share of an adaptive state; --sbi-test scores the two
recipes it names, the same for every run.
"""

import dataclasses
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from stf.config import FLAGS, DataParams, Params, STFV8Config
from stf.data.ffpp import video_folder
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.evaluation.metrics import choose_threshold
from stf.evaluation.predict import ClipScorer
from stf.evaluation.self_blended import (
    QPS,
    SBI_TEST_FLAGS,
    open_shares,
    score_self_blended,
    self_blended_test,
    validation_threshold,
)
from stf.models.network import build_network
from tests.reference.evaluation_plain import auc_by_counting
from tests.reference.evaluation_sets import METHODS_ON_DISK, params_for, scorer_for, write_three_pairs


def test_every_clip_is_scored_once_in_order(three_pairs):
    scorer, params = scorer_for(three_pairs), params_for(three_pairs)
    dataset = VideoSBIDataset("val", scorer.config, data=params.data)
    result = score_self_blended(scorer, dataset, "clips")
    assert result.labels_N.tolist() == [0, 1] * 4
    assert result.video_ids == ("004",) * 4 + ("005",) * 4
    one_by_one = [scorer.p_fake(dataset[i]["video"][None])[0] for i in range(8)]
    np.testing.assert_allclose(result.scores_N, one_by_one, atol=1e-6)


def test_the_threshold_is_the_best_on_those_clips(three_pairs):
    scorer, params = scorer_for(three_pairs), params_for(three_pairs)
    dataset = VideoSBIDataset("val", scorer.config, data=params.data, sbi=params.sbi, seed=params.seed)
    result = score_self_blended(scorer, dataset, "clips")
    assert validation_threshold(scorer, params) == choose_threshold(result.labels_N, result.scores_N)


def test_the_threshold_needs_no_test_video_and_no_fake(tmp_path):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",))
    before = validation_threshold(scorer_for(root), params_for(root))
    for video_id in ("006", "007", "008", "009", "010", "011"):
        shutil.rmtree(video_folder(root, None, "c23", "frames", video_id))
    for method in METHODS_ON_DISK:
        shutil.rmtree(video_folder(root, method, "c23", "frames", "006_007").parents[2])
    assert validation_threshold(scorer_for(root), params_for(root)) == before


def test_both_recipes_are_scored_and_do_not_depend_on_flags_or_seed_of_the_run(three_pairs):
    params = params_for(three_pairs)
    scorer = scorer_for(three_pairs)
    config = dataclasses.replace(scorer.config, use_compression_aug=True, use_multiscale_drift=True)
    other_run = dataclasses.replace(scorer, config=config)
    result = self_blended_test(scorer, params)
    again = self_blended_test(other_run, dataclasses.replace(params, seed=5))
    assert [r.recipe for r in result] == list(SBI_TEST_FLAGS)
    assert [r.auc for r in result] == [r.auc for r in again]
    assert {(r.n_real, r.n_fake) for r in result} == {(12, 12)}


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


@pytest.fixture
def adaptive(shared_tree) -> tuple[ClipScorer, Params]:
    torch.manual_seed(0)
    config = replace(STFV8Config.debug(), data_root=str(shared_tree), **dict.fromkeys(FLAGS, True))
    model = build_network(config).eval()
    with torch.no_grad():  # as if trained: the share of HLL decides
        model.state_gate.choice.weight.normal_(std=1.0)
    data = DataParams(root=str(shared_tree), num_frames=config.num_frames, img_size=config.img_size)
    return ClipScorer(model, config), Params(data=data)


def test_shares_are_those_of_the_compressed_clips(adaptive):
    shares = open_shares(*adaptive)
    assert tuple(share.qp for share in shares) == QPS
    assert all(share.n_clips == 2 for share in shares)  # one of each validation video
    assert all(0 < share.mean <= 1 for share in shares)
    assert shares[0].mean != shares[1].mean
    assert shares == open_shares(*adaptive)


def test_only_real_validation_videos_are_read(adaptive, monkeypatch):
    from stf.evaluation import self_blended

    splits = []

    class Watched(self_blended.VideoSBIDataset):
        def __init__(self, phase, *arguments, **options):
            splits.append(phase)
            super().__init__(phase, *arguments, **options)

    monkeypatch.setattr(self_blended, "VideoSBIDataset", Watched)
    open_shares(*adaptive)
    assert splits == ["val"]


def test_a_network_without_adaptive_state_has_none(adaptive):
    _, params = adaptive
    for flags in ((), ("use_hydra",)):
        config = replace(STFV8Config.debug(), **dict.fromkeys(flags, True))
        assert open_shares(ClipScorer(build_network(config), config), params) == ()
