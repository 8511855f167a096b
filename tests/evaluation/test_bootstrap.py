"""The interval resamples people, not videos, and covers the truth as often as it says."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stf.evaluation.bootstrap import auc_interval, identity_clusters, wins_by_cluster
from tests.reference import evaluation_plain as plain


def clustered(seed, n_clusters=12, per_class=3, gap=1.0, people=1.0):
    """Videos of `n_clusters` pairs of people; a person's own level shifts all of his videos, real and fake."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_clusters), 2 * per_class).astype(str)
    labels = np.tile(np.repeat([0, 1], per_class), n_clusters)
    level = np.repeat(rng.normal(0, people, n_clusters), 2 * per_class)
    return labels, gap * labels + level + rng.normal(0, 1, len(labels)), clusters


@pytest.mark.parametrize("decimals", [6, 0])
def test_the_weighted_formula_equals_writing_the_resample_out(decimals):
    labels, scores, clusters = clustered(0, n_clusters=5)
    scores = np.round(scores, decimals)
    keep = ~((clusters == "2") & (labels == 0))  # a cluster of fakes alone
    labels, scores, clusters = labels[keep], scores[keep], clusters[keep]
    wins_KK, reals_K, fakes_K = wins_by_cluster(labels, scores, clusters)
    rng = np.random.default_rng(1)
    for _ in range(20):
        w = rng.multinomial(5, np.full(5, 0.2))
        n_pairs = (w @ reals_K) * (w @ fakes_K)
        if n_pairs:
            expected = plain.bootstrap_aucs(labels, scores, clusters, w)
            assert w @ wins_KK @ w / n_pairs == pytest.approx(expected, abs=1e-12)
    ones = np.ones(5)
    assert ones @ wins_KK @ ones / (reals_K.sum() * fakes_K.sum()) == pytest.approx(
        roc_auc_score(labels, scores)
    )


def test_more_videos_of_the_same_people_narrow_nothing():
    labels, scores, clusters = clustered(2)
    once = auc_interval(labels, scores, clusters, 500, seed=3)
    often = auc_interval(*(np.repeat(values, 5) for values in (labels, scores, clusters)), 500, seed=3)
    as_if_strangers = auc_interval(labels, scores, np.arange(len(labels)).astype(str), 500, seed=3)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert (once.n_clusters, once.n_resamples) == (12, 500)
    assert as_if_strangers.n_clusters == len(labels)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # AUC of the population: a real and a fake of different people, whose levels differ independently
    everyone = clustered(99, n_clusters=1500, per_class=1)
    truth = roc_auc_score(*everyone[:2])
    covered = 0
    for seed in range(150):
        found = auc_interval(*clustered(seed, n_clusters=30), 300, seed=seed)
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 150 <= 0.99


def test_strangers_resampling_would_be_too_sure_where_people_share_a_level():
    """Fakes of one pair alike, reals of another: what the cluster bootstrap is for."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(16), 8).astype(str)
    labels = np.repeat(np.tile([0, 1], 8), 8)  # every cluster holds one class
    scores = labels + np.repeat(rng.normal(0, 1, 16), 8) + rng.normal(0, 0.1, 128)
    people = auc_interval(labels, scores, clusters, 500, 0)
    strangers = auc_interval(labels, scores, np.arange(128).astype(str), 500, 0)
    assert people.high - people.low > 1.5 * (strangers.high - strangers.low)


def test_draws_without_a_class_are_drawn_again():
    # one cluster holds every real: a third of the draws have none
    labels = np.array([0, 0, 1, 1, 1])
    scores = np.array([0.1, 0.4, 0.3, 0.5, 0.9])
    found = auc_interval(labels, scores, np.array(["a", "a", "b", "c", "c"]), 4000, seed=0)
    assert found.n_resamples == 4000
    assert 0 <= found.low <= found.high <= 1
    # the fakes drawn are b alone (AUC 1/2), c alone (AUC 1) or both: the ends of the interval
    assert (found.low, found.high) == (0.5, 1.0)


def test_no_interval_where_there_is_none():
    labels, scores = np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3])
    assert auc_interval(labels, scores, np.array(["a", "a", "a"]), 200, 0) is None
    assert auc_interval(np.ones(3, int), scores, np.array(["a", "b", "c"]), 200, 0) is None
    assert auc_interval(np.zeros(0, int), np.zeros(0), np.zeros(0, str), 200, 0) is None


def test_the_seed_alone_decides():
    data = clustered(4)
    assert auc_interval(*data, 300, seed=1) == auc_interval(*data, 300, seed=1)
    assert auc_interval(*data, 300, seed=1) != auc_interval(*data, 300, seed=2)


def test_clusters_are_the_split_files_pairs_and_merge_over_a_shared_identity():
    assert identity_clusters([("000", "003"), ("001", "002")]) == {
        "000": "000+003",
        "003": "000+003",
        "001": "001+002",
        "002": "001+002",
    }
    merged = identity_clusters([("a", "b"), ("c", "d"), ("e", "f"), ("d", "a"), ("g", "g")])
    assert {merged[i] for i in "abcd"} == {"a+b+c+d"}
    assert merged["e"] == merged["f"] == "e+f"
    assert merged["g"] == "g"
