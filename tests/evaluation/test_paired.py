"""Two score tables joined video by video, and the bootstrap over people that both share."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from stf.errors import DataError
from stf.evaluation.bootstrap import auc_interval
from stf.evaluation.delong import delong
from stf.evaluation.paired import compare_groups, pair_scores, paired_bootstrap
from tests.reference.comparison_sets import score_table
from tests.reference.evaluation_plain import bootstrap_aucs


def clustered(seed, n_clusters=12, per_class=3, people=1.0, gap_a=1.0, gap_b=1.0):
    """Videos of pairs of people; the pair's level shifts all its videos, for both detectors."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_clusters), 2 * per_class).astype(str)
    labels = np.tile(np.repeat([0, 1], per_class), n_clusters)
    a, b = (
        gap * labels
        + np.repeat(rng.normal(0, people, n_clusters), 2 * per_class)
        + rng.normal(0, 1, len(labels))
        for gap in (gap_a, gap_b)
    )
    return labels, a, b, clusters


def test_every_resample_takes_the_same_people_for_both():
    labels, a, b, clusters = clustered(0, n_clusters=5)
    found = paired_bootstrap(labels, a, b, clusters, 300, seed=1)
    rng = np.random.default_rng(1)
    weights = rng.multinomial(5, np.full(5, 0.2), size=2048)[:300]  # the draws, written out
    plain = [bootstrap_aucs(labels, b, clusters, w) - bootstrap_aucs(labels, a, clusters, w) for w in weights]
    assert (found.low, found.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=1e-12)
    tail = min(np.mean(np.array(plain) <= 1e-12), np.mean(np.array(plain) >= -1e-12))
    assert found.p_value == pytest.approx(min(1, 2 * (300 * tail + 1) / 301))
    assert found.difference == pytest.approx(roc_auc_score(labels, b) - roc_auc_score(labels, a))


def test_detectors_that_rank_alike_differ_in_nothing():
    labels, a, _, clusters = clustered(1)
    found = paired_bootstrap(labels, a, 3 * a + 1, clusters, 500, seed=0)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_clear_gain_has_a_small_p_and_swapping_turns_the_sign():
    labels, a, b, clusters = clustered(2, n_clusters=30, gap_b=4)
    there, back = (paired_bootstrap(labels, *pair, clusters, 999, seed=0) for pair in ((a, b), (b, a)))
    assert there.low > 0
    assert there.p_value == pytest.approx(2 / 1000)  # no resample at or below 0: the smallest there is
    assert (back.low, back.high, back.p_value) == pytest.approx((-there.high, -there.low, there.p_value))


def test_under_the_null_it_rejects_about_as_often_as_it_says():
    p_values = [paired_bootstrap(*clustered(seed, n_clusters=40), 300, seed).p_value for seed in range(200)]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.10


def test_delong_is_too_sure_where_people_share_a_level_and_the_bootstrap_is_not():
    """Every cluster one class: nothing but 2 x 10 independent people, each filmed four times."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        clusters = np.repeat(np.arange(20), 4).astype(str)
        labels = np.repeat(np.tile([0, 1], 10), 4)
        a, b = (np.repeat(rng.normal(0, 1, 20), 4) + rng.normal(0, 0.2, 80) + labels for _ in range(2))
        people = paired_bootstrap(labels, a, b, clusters, 300, seed)
        found.append((people.high - people.low) / (delong(labels, a, b).high - delong(labels, a, b).low))
    assert np.mean(found) > 1.5


def test_pairing_narrows_the_interval_where_both_err_on_the_same_people():
    labels, a, _, clusters = clustered(3, n_clusters=30, people=2.0)
    b = a + np.random.default_rng(0).normal(0, 0.3, len(a))
    paired = paired_bootstrap(labels, a, b, clusters, 500, seed=0)
    alone = auc_interval(labels, a, clusters, 500, seed=0)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_no_interval_where_there_is_none():
    labels, scores = np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3])
    assert paired_bootstrap(labels, scores, scores, np.array(["a"] * 3), 200, 0) is None
    assert paired_bootstrap(np.ones(3, int), scores, scores, np.array(["a", "b", "c"]), 200, 0) is None


def test_only_videos_that_both_scored_count_and_the_others_are_told():
    a, b = score_table(0.5, seed=1), score_table(0.5, seed=2)
    a = a[a["video_id"] != "000_001"]  # one fake of each method
    b = b[b["method"] != "FaceSwap"].copy()
    b.loc[b["video_id"] == "002", "score"] = np.nan
    pairing = pair_scores(a, b.sample(frac=1, random_state=0))  # the order in the file is nothing
    assert len(pairing.table) == 15 + 3 * 15
    assert pairing.left_out[("c23", "real")] == {"no score": 1}
    assert pairing.left_out[("c23", "FaceSwap")] == {"only in A": 15}
    assert pairing.left_out[("c23", "Deepfakes")] == {"only in B": 1}
    groups = compare_groups(pairing, "c23")
    assert list(groups) == ["Deepfakes", "Face2Face", "NeuralTextures", "overall"]
    assert (groups["overall"].n_real, groups["overall"].n_fake) == (15, 45)
    assert (groups["Deepfakes"].n_real, groups["Deepfakes"].n_fake) == (15, 15)


def test_groups_pool_a_methods_fakes_with_all_reals_and_agree_with_scikit_learn():
    a, b = score_table(0.2, seed=1), score_table(1.5, seed=2)
    groups = compare_groups(pair_scores(a, b), "c23")
    for name, group in groups.items():
        rows = [
            table if name == "overall" else table[table["method"].isin(["real", name])] for table in (a, b)
        ]
        aucs = [roc_auc_score(r["label"], r["score"]) for r in rows]
        assert (group.delong.auc_a, group.delong.auc_b) == pytest.approx(aucs)
        assert group.bootstrap.difference == pytest.approx(group.delong.difference)
        assert group.bootstrap.n_clusters == 8


def test_a_method_without_reals_beside_it_is_not_available():
    a, b = score_table(0.5, seed=1), score_table(0.5, seed=2)
    b.loc[b["method"] == "real", "score"] = np.nan
    groups = compare_groups(pair_scores(a, b), "c23")
    assert groups["Deepfakes"].delong is None
    assert groups["Deepfakes"].bootstrap is None
    assert groups["Deepfakes"].n_real == 0


@pytest.mark.parametrize("column", ["label", "identity_pair"])
def test_tables_that_disagree_about_a_video_are_refused(column):
    a, b = score_table(0.5, seed=1), score_table(0.5, seed=2)
    b.loc[b["video_id"] == "001", column] = 1 if column == "label" else "x+y"
    with pytest.raises(DataError, match=f"c23/real/001: another {column}"):
        pair_scores(a, b)


def test_tables_of_different_videos_are_refused():
    a, b = score_table(0.5), score_table(0.5)
    with pytest.raises(DataError, match="share no video"):
        pair_scores(a, b.assign(quality="raw"))
    with pytest.raises(DataError, match="share no video"):
        pair_scores(a, pd.DataFrame(b.iloc[:0]))
