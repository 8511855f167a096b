"""Metrics equal scikit-learn's and their definitions; what cannot be known is None, never 0 or 0.5."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sk

from stf.evaluation.metrics import GroupMetrics, choose_threshold, equal_error_rate, group_metrics, tpr_at_fpr
from tests.reference import evaluation_plain as plain


def drawn(seed, n=60, gap=0.8, decimals=None):
    """Labels and scores of two overlapping classes; few decimals make ties."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.integers(0, 2, n - 2)])
    scores = rng.normal(gap * labels, 1)
    return labels, scores if decimals is None else np.round(scores, decimals)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_group_metrics_equal_scikit_learn_and_counting(seed, decimals):
    labels, scores = drawn(seed, decimals=decimals)
    result = group_metrics(labels, scores, threshold=0.4)
    called = (scores >= 0.4).astype(int)
    assert result.auc == pytest.approx(plain.auc_by_counting(labels, scores), abs=1e-12)
    assert result.auc == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert result.accuracy == pytest.approx(sk.accuracy_score(labels, called))
    assert result.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, called))
    assert result.precision == pytest.approx(sk.precision_score(labels, called))
    assert result.recall == pytest.approx(sk.recall_score(labels, called))
    assert result.f1 == pytest.approx(sk.f1_score(labels, called))
    assert result.ap == pytest.approx(sk.average_precision_score(labels, scores))
    assert (result.n_real, result.n_fake) == (int((labels == 0).sum()), int(labels.sum()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [None, 1])
def test_eer_equals_the_crossing_in_a_dense_sweep(seed, decimals):
    labels, scores = drawn(seed, n=80, decimals=decimals)
    low, high = plain.eer_bounds_by_sweep(labels, scores)
    assert low - 1e-9 <= equal_error_rate(labels, scores) <= high + 1e-9
    if decimals is None:
        assert high - low <= 1 / min(labels.sum(), (1 - labels).sum())


def test_eer_of_extremes_and_of_a_line_between_two_vertices():
    labels = np.array([0, 0, 1, 1])
    assert equal_error_rate(labels, np.array([0.1, 0.2, 0.8, 0.9])) == 0
    assert equal_error_rate(labels, np.array([0.8, 0.9, 0.1, 0.2])) == 1
    assert equal_error_rate(labels, np.full(4, 0.5)) == pytest.approx(0.5)
    # vertices (0, 0), (0, 1/2), (1/2, 1), (1, 1): FPR = FNR half way along the slope, at 1/4
    assert equal_error_rate(labels, np.array([0.1, 0.5, 0.5, 0.9])) == pytest.approx(0.25)


def test_tpr_at_fpr_is_not_available_below_100_reals():
    rng = np.random.default_rng(0)
    fakes = rng.normal(2, 1, 50)
    for n_real, is_there in ((99, False), (100, True)):
        labels = np.repeat([0, 1], [n_real, 50])
        scores = np.concatenate([rng.normal(0, 1, n_real), fakes])
        assert (group_metrics(labels, scores, 0.5).tpr_at_fpr_1pct is not None) == is_there


def test_tpr_at_fpr_allows_the_share_and_no_more():
    labels = np.repeat([0, 1], [100, 4])
    scores = np.concatenate([np.arange(100) / 100, [0.985, 0.995, 0.5, 2.0]])
    # one real of 100 may stand above the threshold: it lies above the second highest, 0.98
    assert tpr_at_fpr(labels, scores, 0.01) == 0.75
    assert tpr_at_fpr(labels, scores, 0.0) == 0.5
    assert tpr_at_fpr(labels, np.zeros(104), 0.01) == 0.0


def test_with_one_class_only_the_counts_are_available():
    result = group_metrics(np.zeros(3, int), np.array([0.1, 0.2, 0.3]), 0.5)
    assert result == GroupMetrics(n_real=3, n_fake=0)
    values = dataclasses.asdict(result)
    assert all(value is None for key, value in values.items() if key not in ("n_real", "n_fake"))
    assert group_metrics(np.zeros(0, int), np.zeros(0), 0.5) == GroupMetrics(0, 0)


def test_precision_is_not_available_when_nothing_is_called_fake():
    result = group_metrics(np.array([0, 1]), np.array([0.1, 0.2]), threshold=0.9)
    assert result.precision is None
    assert (result.recall, result.f1, result.accuracy) == (0, 0, 0.5)


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        group_metrics(np.array([0, 1]), np.array([0.5, np.nan]), 0.5)
    with pytest.raises(ValueError, match="finite"):
        choose_threshold(np.array([0, 1]), np.array([0.5, np.inf]))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("decimals", [None, 1])
def test_the_threshold_has_the_highest_balanced_accuracy_there_is(seed, decimals):
    labels, scores = drawn(seed, n=40, decimals=decimals)
    result = choose_threshold(labels, scores)
    called = (scores >= result.value).astype(int)
    assert sk.balanced_accuracy_score(labels, called) == pytest.approx(result.balanced_accuracy)
    assert result.balanced_accuracy == pytest.approx(plain.best_balanced_accuracy(labels, scores), abs=1e-9)
    assert result.auc == pytest.approx(plain.auc_by_counting(labels, scores))
    assert (result.n_real, result.n_fake) == (int((labels == 0).sum()), int(labels.sum()))
    assert result.value not in scores


def test_of_equally_good_thresholds_the_one_nearest_to_a_half_wins():
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.0, 0.4, 0.6, 1.0])
    # below 0.4 and above 0.6 both give 3 of 4; 0.5 gives 2 of 4
    assert choose_threshold(labels, scores).value in (0.2, 0.8)
    assert choose_threshold(labels, np.array([0.3, 0.4, 0.6, 1.0])).value == pytest.approx(0.35)
    assert choose_threshold(labels, np.full(4, 0.7)).value == 0.5


def test_a_threshold_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        choose_threshold(np.ones(3, int), np.array([0.1, 0.2, 0.3]))
