"""DeLong's test against its definition, a published example, the bootstrap, and its own promise under the null."""

import math

import numpy as np
import pytest
from scipy.stats import kstest, norm
from sklearn.metrics import roc_auc_score

from stf.evaluation.delong import delong, placements
from tests.reference.evaluation_delong_plain import aucs_and_covariance, surgery


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
    found = delong(labels, a, b)
    assert (found.auc_a, found.auc_b) == pytest.approx((auc_a, auc_b), abs=1e-14)
    assert (found.auc_a, found.auc_b) == pytest.approx((roc_auc_score(labels, a), roc_auc_score(labels, b)))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert found.difference == pytest.approx(auc_b - auc_a, abs=1e-14)
    assert found.p_value == pytest.approx(math.erfc(abs(auc_b - auc_a) / math.sqrt(2 * variance)), abs=1e-9)
    assert (found.low, found.high) == pytest.approx(
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


def test_swapping_the_detectors_or_the_classes_turns_the_sign_alone():
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
    found = [delong(*two_detectors(seed, 60, 60)) for seed in range(400)]
    assert kstest([f.p_value for f in found], "uniform").pvalue > 0.01
    assert 0.92 <= np.mean([f.low <= 0 <= f.high for f in found]) <= 0.98


def test_pairing_tells_what_two_separate_intervals_would_not():
    """Detectors that err on the same videos: a small difference is certain."""
    alike, apart = (delong(*two_detectors(5, 100, 100, 1.0, 1.3, common)) for common in (0.98, 0.0))
    assert alike.standard_error < 0.4 * apart.standard_error


def test_equal_scores_differ_in_nothing():
    labels, a, _ = two_detectors(6)
    found = delong(labels, a, a)
    assert (found.difference, found.standard_error, found.low, found.high, found.p_value) == (0, 0, 0, 0, 1)
    assert delong(labels, a, 2 * a - 7) == found


def test_two_perfect_detectors_leave_the_test_without_a_variance():
    labels = np.repeat([0, 1], [4, 5])
    a = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9.0])
    b = np.array([4, 3, 2, 1, 9, 8, 7, 6, 5.0])
    found = delong(labels, a, b)
    assert (found.auc_a, found.auc_b, found.difference) == (1, 1, 0)
    assert (found.standard_error, found.low, found.high, found.p_value) == (None, None, None, None)
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
