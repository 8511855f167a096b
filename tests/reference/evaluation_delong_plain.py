"""DeLong's variance by its definition: the kernel ψ of every pair of a fake and a real, one at a time."""

import numpy as np

# Albumin, total protein, K-G score and outcome (1: benefited from surgery) of patients with ovarian cancer: the data
# of DeLong et al. (1988) without the records that lack a test, as printed with PROC LOGISTIC's example "Comparing
# Receiver Operating Characteristic Curves" in the SAS/STAT user's guide.
SURGERY = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def surgery():
    """(labels, {test: scores}); a low K-G score speaks for benefit, so it counts from 10 down."""
    rows = np.array(SURGERY.split(), float).reshape(-1, 4)
    return rows[:, 3].astype(int), {"albumin": rows[:, 0], "protein": rows[:, 1], "K-G": 10 - rows[:, 2]}


def components(labels, scores):
    """(V10 of every fake, V01 of every real)."""
    fakes = [s for label, s in zip(labels, scores, strict=True) if label == 1]
    reals = [s for label, s in zip(labels, scores, strict=True) if label == 0]

    def kernel(fake, real):
        return 1.0 if fake > real else 0.5 if fake == real else 0.0

    v10 = [sum(kernel(f, r) for r in reals) / len(reals) for f in fakes]
    v01 = [sum(kernel(f, r) for f in fakes) / len(fakes) for r in reals]
    return v10, v01


def covariance(values_a, values_b):
    """Sample covariance, by its sum."""
    mean_a, mean_b = sum(values_a) / len(values_a), sum(values_b) / len(values_b)
    products = [(a - mean_a) * (b - mean_b) for a, b in zip(values_a, values_b, strict=True)]
    return sum(products) / (len(products) - 1)


def aucs_and_covariance(labels, scores_a, scores_b):
    """(AUC a, AUC b, 2×2 covariance matrix S = S10/m + S01/n), equations 4 to 6 of DeLong et al."""
    parts = [components(labels, scores) for scores in (scores_a, scores_b)]
    m, n = len(parts[0][0]), len(parts[0][1])
    matrix = [[covariance(p[0], q[0]) / m + covariance(p[1], q[1]) / n for q in parts] for p in parts]
    return sum(parts[0][0]) / m, sum(parts[1][0]) / m, np.array(matrix)
