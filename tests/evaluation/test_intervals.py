"""Intervals resample people, not videos, and cover the truth at their nominal rate; DeLong's test is as defined."""

import math

import numpy as np
import pytest
from scipy.stats import kstest, norm
from sklearn.metrics import roc_auc_score

from stf.evaluation.intervals import (
    auc_interval,
    delong,
    identity_clusters,
    paired_bootstrap,
    placements,
    wins_by_cluster,
)
from tests.reference import evaluation_plain as plain
from tests.reference.evaluation_delong_plain import aucs_and_covariance, surgery
from tests.reference.evaluation_plain import bootstrap_aucs


def clustered(seed, n_clusters=12, per_class=3, gap=1.0, people=1.0):
    """Videos of `n_clusters` pairs of people; a person's own level shifts all of his videos, real and fake."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_clusters), 2 * per_class).astype(str)
    labels = np.tile(np.repeat([0, 1], per_class), n_clusters)
    level = np.repeat(rng.normal(0, people, n_clusters), 2 * per_class)
    return labels, gap * labels + level + rng.normal(0, 1, len(labels)), clusters


@pytest.mark.parametrize("decimals", [6, 0])
def test_the_weighted_formula_equals_an_explicit_resample(decimals):
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


def test_more_videos_of_the_same_people_do_not_narrow_the_interval():
    labels, scores, clusters = clustered(2)
    once = auc_interval(labels, scores, clusters, 500, seed=3)
    often = auc_interval(*(np.repeat(values, 5) for values in (labels, scores, clusters)), 500, seed=3)
    as_if_unrelated = auc_interval(labels, scores, np.arange(len(labels)).astype(str), 500, seed=3)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert (once.n_clusters, once.n_resamples) == (12, 500)
    assert as_if_unrelated.n_clusters == len(labels)


def test_the_interval_covers_the_truth_at_about_its_nominal_rate():
    # AUC of the population: a real and a fake of different people, whose levels differ independently
    everyone = clustered(99, n_clusters=1500, per_class=1)
    truth = roc_auc_score(*everyone[:2])
    covered = 0
    for seed in range(150):
        result = auc_interval(*clustered(seed, n_clusters=30), 300, seed=seed)
        covered += result.low <= truth <= result.high
    assert 0.88 <= covered / 150 <= 0.99


def test_resampling_single_videos_is_too_narrow_where_people_share_a_level():
    """The fakes of one pair have similar scores, and so do the reals of another; hence the cluster bootstrap."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(16), 8).astype(str)
    labels = np.repeat(np.tile([0, 1], 8), 8)  # every cluster holds one class
    scores = labels + np.repeat(rng.normal(0, 1, 16), 8) + rng.normal(0, 0.1, 128)
    people = auc_interval(labels, scores, clusters, 500, 0)
    unrelated = auc_interval(labels, scores, np.arange(128).astype(str), 500, 0)
    assert people.high - people.low > 1.5 * (unrelated.high - unrelated.low)


def test_draws_without_a_class_are_drawn_again():
    # one cluster holds every real: a third of the draws have none
    labels = np.array([0, 0, 1, 1, 1])
    scores = np.array([0.1, 0.4, 0.3, 0.5, 0.9])
    result = auc_interval(labels, scores, np.array(["a", "a", "b", "c", "c"]), 4000, seed=0)
    assert result.n_resamples == 4000
    assert 0 <= result.low <= result.high <= 1
    # the fakes drawn are b alone (AUC 1/2), c alone (AUC 1) or both: the ends of the interval
    assert (result.low, result.high) == (0.5, 1.0)


def test_one_class_or_one_cluster_has_no_interval():
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


def two_on_clusters(seed, n_clusters=12, per_class=3, people=1.0, gap_a=1.0, gap_b=1.0):
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
    labels, a, b, clusters = two_on_clusters(0, n_clusters=5)
    result = paired_bootstrap(labels, a, b, clusters, 300, seed=1)
    rng = np.random.default_rng(1)
    weights = rng.multinomial(5, np.full(5, 0.2), size=2048)[:300]  # the draws, written out
    plain = [bootstrap_aucs(labels, b, clusters, w) - bootstrap_aucs(labels, a, clusters, w) for w in weights]
    assert (result.low, result.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=1e-12)
    tail = min(np.mean(np.array(plain) <= 1e-12), np.mean(np.array(plain) >= -1e-12))
    assert result.p_value == pytest.approx(min(1, 2 * (300 * tail + 1) / 301))
    assert result.difference == pytest.approx(roc_auc_score(labels, b) - roc_auc_score(labels, a))


def test_detectors_with_the_same_ranking_do_not_differ():
    labels, a, _, clusters = two_on_clusters(1)
    result = paired_bootstrap(labels, a, 3 * a + 1, clusters, 500, seed=0)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_a_clear_gain_has_a_small_p_and_swapping_flips_the_sign():
    labels, a, b, clusters = two_on_clusters(2, n_clusters=30, gap_b=4)
    there, back = (paired_bootstrap(labels, *pair, clusters, 999, seed=0) for pair in ((a, b), (b, a)))
    assert there.low > 0
    assert there.p_value == pytest.approx(2 / 1000)  # no resample at or below 0: the smallest there is
    assert (back.low, back.high, back.p_value) == pytest.approx((-there.high, -there.low, there.p_value))


def test_the_paired_test_rejects_at_about_its_nominal_rate_under_the_null():
    p_values = [
        paired_bootstrap(*two_on_clusters(seed, n_clusters=40), 300, seed).p_value for seed in range(200)
    ]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.10


def test_delong_is_too_narrow_where_people_share_a_level_and_the_bootstrap_is_not():
    """Every cluster one class: nothing but 2 x 10 independent people, each filmed four times."""
    ratios = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        clusters = np.repeat(np.arange(20), 4).astype(str)
        labels = np.repeat(np.tile([0, 1], 10), 4)
        a, b = (np.repeat(rng.normal(0, 1, 20), 4) + rng.normal(0, 0.2, 80) + labels for _ in range(2))
        people = paired_bootstrap(labels, a, b, clusters, 300, seed)
        ratios.append((people.high - people.low) / (delong(labels, a, b).high - delong(labels, a, b).low))
    assert np.mean(ratios) > 1.5


def test_pairing_narrows_the_interval_where_both_err_on_the_same_people():
    labels, a, _, clusters = two_on_clusters(3, n_clusters=30, people=2.0)
    b = a + np.random.default_rng(0).normal(0, 0.3, len(a))
    paired = paired_bootstrap(labels, a, b, clusters, 500, seed=0)
    alone = auc_interval(labels, a, clusters, 500, seed=0)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_one_class_or_one_cluster_has_no_paired_interval():
    labels, scores = np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3])
    assert paired_bootstrap(labels, scores, scores, np.array(["a"] * 3), 200, 0) is None
    assert paired_bootstrap(np.ones(3, int), scores, scores, np.array(["a", "b", "c"]), 200, 0) is None


def two_detectors(seed, n_real=20, n_fake=30, gap_a=0.8, gap_b=0.8, common=0.7):
    """Normal scores; `common` is the part of the variance that both detectors share."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [n_real, n_fake])
    shared = rng.normal(0, math.sqrt(common), len(labels))
    own = rng.normal(0, math.sqrt(1 - common), (2, len(labels)))
    return labels, gap_a * labels + shared + own[0], gap_b * labels + shared + own[1]


@pytest.mark.parametrize("decimals", [9, 1, 0])
@pytest.mark.parametrize("sizes", [(20, 30), (6, 9), (2, 17)])
def test_it_equals_the_definition_over_all_pairs(decimals, sizes):
    labels, a, b = two_detectors(sum(sizes), *sizes, gap_b=1.5)
    a, b = np.round(a, decimals), np.round(b, decimals)
    auc_a, auc_b, covariance = aucs_and_covariance(labels, a, b)
    result = delong(labels, a, b)
    assert (result.auc_a, result.auc_b) == pytest.approx((auc_a, auc_b), abs=1e-14)
    assert (result.auc_a, result.auc_b) == pytest.approx((roc_auc_score(labels, a), roc_auc_score(labels, b)))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert result.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert result.difference == pytest.approx(auc_b - auc_a, abs=1e-14)
    assert result.p_value == pytest.approx(math.erfc(abs(auc_b - auc_a) / math.sqrt(2 * variance)), abs=1e-9)
    assert (result.low, result.high) == pytest.approx(
        (auc_b - auc_a - 1.959964 * math.sqrt(variance), auc_b - auc_a + 1.959964 * math.sqrt(variance)),
        abs=1e-6,
    )


def test_the_example_of_delong_et_al():
    """AUC 0.7366, 0.6478 and 0.7258 for albumin, total protein and K-G; χ² of protein against K-G 0.555, p 0.456."""
    labels, tests = surgery()
    assert (labels.sum(), len(labels)) == (31, 43)
    albumin = delong(labels, tests["K-G"], tests["albumin"])
    protein = delong(labels, tests["K-G"], tests["protein"])
    assert [round(x, 4) for x in (protein.auc_a, protein.auc_b, albumin.auc_b)] == [0.7258, 0.6478, 0.7366]
    assert [round(x, 4) for x in (protein.difference, protein.standard_error)] == [-0.0780, 0.1046]
    assert [round(x, 4) for x in (protein.low, protein.high, protein.p_value)] == [-0.2830, 0.1271, 0.4561]
    assert round((protein.difference / protein.standard_error) ** 2, 4) == 0.5554
    assert [round(x, 4) for x in (albumin.difference, albumin.standard_error)] == [0.0108, 0.0953]


def test_swapping_the_detectors_or_the_classes_flips_only_the_sign():
    labels, a, b = two_detectors(1, gap_b=1.4)
    there, back, mirrored = delong(labels, a, b), delong(labels, b, a), delong(1 - labels, a, b)
    for other in (back, mirrored):
        assert other.difference == pytest.approx(-there.difference, abs=1e-12)
        assert other.p_value == pytest.approx(there.p_value, abs=1e-12)
        assert (other.low, other.high) == pytest.approx((-there.high, -there.low))


def test_only_the_order_of_the_scores_counts():
    labels, a, b = two_detectors(2, gap_b=1.4)
    assert delong(labels, norm.cdf(a), np.exp(b) * 1e-7) == delong(labels, a, b)


def test_placements_sum_to_the_same_number_of_wins():
    labels, a, _ = two_detectors(3)
    wins_m, losses_n = placements(labels, np.round(a, 1))
    assert wins_m.sum() == losses_n.sum() == roc_auc_score(labels, np.round(a, 1)) * 20 * 30


def test_the_variance_is_the_bootstraps():
    labels, a, b = two_detectors(4, 150, 200, gap_b=1.3)
    rng = np.random.default_rng(0)
    beats = [(scores[labels == 1][None] > scores[labels == 0][:, None]).astype(float) for scores in (a, b)]
    reals, fakes = rng.integers(0, 150, (1500, 150)), rng.integers(0, 200, (1500, 200))
    gained = beats[1] - beats[0]
    differences = [gained[r][:, f].mean() for r, f in zip(reals, fakes, strict=True)]
    assert delong(labels, a, b).standard_error == pytest.approx(np.std(differences), rel=0.08)


def test_under_the_null_p_values_are_uniform_and_the_interval_holds_0():
    results = [delong(*two_detectors(seed, 60, 60)) for seed in range(400)]
    assert kstest([f.p_value for f in results], "uniform").pvalue > 0.01
    assert 0.92 <= np.mean([f.low <= 0 <= f.high for f in results]) <= 0.98


def test_pairing_detects_what_two_separate_intervals_would_miss():
    """Detectors that err on the same videos: a small difference is certain."""
    alike, apart = (delong(*two_detectors(5, 100, 100, 1.0, 1.3, common)) for common in (0.98, 0.0))
    assert alike.standard_error < 0.4 * apart.standard_error


def test_equal_scores_do_not_differ():
    labels, a, _ = two_detectors(6)
    result = delong(labels, a, a)
    assert (result.difference, result.p_value) == (0, 1)
    assert (result.standard_error, result.low, result.high) == (0, 0, 0)
    assert delong(labels, a, 2 * a - 7) == result


def test_two_perfect_detectors_have_no_variance_to_test_with():
    labels = np.repeat([0, 1], [4, 5])
    a = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9.0])
    b = np.array([4, 3, 2, 1, 9, 8, 7, 6, 5.0])
    result = delong(labels, a, b)
    assert (result.auc_a, result.auc_b, result.difference) == (1, 1, 0)
    assert (result.standard_error, result.low, result.high, result.p_value) == (None, None, None, None)
    worst = delong(labels, a, -a)
    assert (worst.difference, worst.p_value) == (-1, None)


def test_a_class_that_is_missing_or_single():
    assert delong(np.zeros(5, int), np.arange(5.0), np.arange(5.0)) is None
    assert delong(np.ones(5, int), np.arange(5.0), np.arange(5.0)) is None
    assert delong(np.zeros(0, int), np.zeros(0), np.zeros(0)) is None
    single = delong(np.array([0, 0, 1]), np.array([0.1, 0.5, 0.3]), np.array([0.1, 0.2, 0.3]))
    assert (single.auc_a, single.auc_b, single.p_value) == (0.5, 1, None)


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        delong(np.array([0, 1]), np.array([0.1, np.nan]), np.array([0.1, 0.2]))
