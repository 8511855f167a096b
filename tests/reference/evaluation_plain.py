"""Metrics by their definitions, one pair or one threshold at a time."""

import numpy as np


def auc_by_counting(labels, scores):
    """Share of (real, fake) pairs in which the fake scores higher, ties one half."""
    reals = [s for label, s in zip(labels, scores, strict=True) if label == 0]
    fakes = [s for label, s in zip(labels, scores, strict=True) if label == 1]
    wins = sum(1.0 if f > r else 0.5 if f == r else 0.0 for f in fakes for r in reals)
    return wins / (len(reals) * len(fakes))


def eer_bounds_by_sweep(labels, scores, steps=20001):
    """(low, high) around the crossing of FPR and FNR: the best of min(FPR, FNR) and of max over a dense sweep."""
    low, high = 0.0, 1.0
    for threshold in np.linspace(min(scores) - 1e-3, max(scores) + 1e-3, steps):
        called = scores >= threshold
        fpr = called[labels == 0].mean()
        fnr = 1 - called[labels == 1].mean()
        low, high = max(low, min(fpr, fnr)), min(high, max(fpr, fnr))
    return low, high


def bootstrap_aucs(labels, scores, clusters, weights):
    """AUC of one resample that takes cluster k `weights[k]` times, by writing its rows out."""
    names = np.unique(clusters)
    rows = [
        i
        for name, weight in zip(names, weights, strict=True)
        for _ in range(int(weight))
        for i in np.flatnonzero(clusters == name)
    ]
    return auc_by_counting(labels[rows], scores[rows])


def best_balanced_accuracy(labels, scores, steps=4001):
    """The highest balanced accuracy of any threshold of a dense sweep."""
    best = 0.0
    for threshold in np.linspace(scores.min() - 1e-3, scores.max() + 1e-3, steps):
        called = scores >= threshold
        best = max(best, ((~called[labels == 0]).mean() + called[labels == 1].mean()) / 2)
    return best
