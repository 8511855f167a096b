"""Arithmetic that gives the same bits on every CPU, for float64; the sample's bytes must not depend on the machine.

NumPy's exp, sin, log and powers round differently with AVX-512 than without, and BLAS adds in an order of its own on
each family of CPUs. Here is only what IEEE 754 fixes to the last bit: + − × ÷ √, number by number, in a set order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
# Of ln 2 and π/2, the first part has so few bits that its product with a small integer is exact.
_LN2 = (0.693147180369123816490, 1.90821492927058770002e-10)
_HALF_PI = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
_EXP = [1 / math.factorial(n) for n in range(14)]
_SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(9)]
_COS = [(-1) ** n / math.factorial(2 * n) for n in range(10)]
_LOG = [2 / (2 * n + 1) for n in range(13)]


def _polynomial(coefficients: Sequence[float], x: Values) -> Values:
    """Sum of coefficients[n] * x**n, by Horner's rule."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def exp(x: Any) -> Values:
    """e to the x."""
    x = np.asarray(x)
    if x.dtype == np.float32:
        return np.exp(x)
    x = np.maximum(x, -745.0)
    k = np.rint(x * (1 / math.log(2)))
    return np.ldexp(_polynomial(_EXP, (x - k * _LN2[0]) - k * _LN2[1]), k.astype(np.int32))


def log(x: Any) -> Values:
    """Natural logarithm of positive numbers."""
    x = np.asarray(x)
    if x.dtype == np.float32:
        return np.log(x)
    mantissa, k = np.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa, k = np.where(low, 2 * mantissa, mantissa), k - low
    s = (mantissa - 1) / (mantissa + 1)
    return k * _LN2[0] + (s * _polynomial(_LOG, s * s) + k * _LN2[1])


def power(base: Any, exponent: Any) -> Values:
    """A base of 0 or more to a positive power."""
    if np.result_type(base, exponent) == np.float32:
        return np.asarray(base**exponent)
    base = np.asarray(base, np.float64)
    return np.where(base > 0, exp(exponent * log(np.maximum(base, 1e-300))), 0.0)


def _turned(x: Any, quarter: int) -> Values:
    """sin(x + quarter * π / 2) for |x| up to some thousands."""
    x = np.asarray(x, np.float64)
    k = np.rint(x * (2 / math.pi))
    r = ((x - k * _HALF_PI[0]) - k * _HALF_PI[1]) - k * _HALF_PI[2]
    square = r * r
    sine, cosine = r * _polynomial(_SIN, square), _polynomial(_COS, square)
    turn = (k.astype(np.int64) + quarter) & 3
    return np.where(turn & 1, cosine, sine) * np.where(turn & 2, -1.0, 1.0)


def sin(x: Any) -> Values:
    """Sine of radians."""
    x = np.asarray(x)
    return np.sin(x) if x.dtype == np.float32 else _turned(x, 0)


def cos(x: Any) -> Values:
    """Cosine of radians."""
    x = np.asarray(x)
    return np.cos(x) if x.dtype == np.float32 else _turned(x, 1)


def convolve(values: Values, kernel: Values) -> Values:
    """np.convolve(values, kernel, "valid") of vectors, which goes through BLAS."""
    n = len(values) - len(kernel) + 1
    total = np.zeros(n)
    for k, weight in enumerate(kernel[::-1]):
        total += weight * values[k : k + n]
    return total


def product(matrix: Values, other: Values) -> Values:
    """`matrix @ other`, a matrix or a vector."""
    total = np.multiply.outer(matrix[:, 0], other[0])
    for k in range(1, len(other)):
        total += np.multiply.outer(matrix[:, k], other[k])
    return total


def inverse_22(matrix: Values) -> Values:
    """The inverse of a 2 × 2 matrix."""
    (a, b), (c, d) = matrix
    return np.array([[d, -b], [-c, a]]) / (a * d - b * c)


def solve(matrix: Values, right: Values) -> Values:
    """x of matrix @ x = right, (N, N) and (N, K): Gaussian elimination with row pivots."""
    rows = np.concatenate([matrix, right], axis=1)
    n = len(matrix)
    for k in range(n):
        pivot = k + int(np.argmax(np.abs(rows[k:, k])))
        rows[[k, pivot]] = rows[[pivot, k]]
        rows[k + 1 :, k:] -= np.multiply.outer(rows[k + 1 :, k] / rows[k, k], rows[k, k:])
    x = rows[:, n:].copy()
    for k in reversed(range(n)):
        x[k] /= rows[k, k]
        x[:k] -= np.multiply.outer(rows[:k, k], x[k])
    return x
