"""Arithmetic that gives the same bits on every CPU: the sample's files must not depend on the machine.

NumPy's exp, sin, log and powers round differently with AVX-512, with AVX2 and without, and BLAS sums in a different
order on each CPU family. This module uses only operations that IEEE 754 defines to the last bit, + − × ÷ √, in a fixed
order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
# ln 2 and π/2 as sums whose first part has so few bits that its product with a small integer is exact.
_LN2 = (0.693147180369123816490, 1.90821492927058770002e-10)
_LN2_SINGLE = (0.693359375, -2.12194440e-4)
_HALF_PI = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
_EXP = [1 / math.factorial(n) for n in range(14)]
_SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(9)]
_COS = [(-1) ** n / math.factorial(2 * n) for n in range(10)]
_ARCTAN = [(-1) ** n / (2 * n + 1) for n in range(12)]
_LOG = [2 / (2 * n + 1) for n in range(13)]


def _polynomial(coefficients: Sequence[float], x: Values) -> Values:
    """Evaluates the sum of coefficients[n] * x**n by Horner's rule."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def exp(x: Any) -> Values:
    """e to the x."""
    x = np.asarray(x)
    single = x.dtype == np.float32
    (high, low), terms = (_LN2_SINGLE, _EXP[:8]) if single else (_LN2, _EXP)
    x = np.maximum(x, -103.0 if single else -745.0)
    k = np.rint(x * (1 / math.log(2)))
    return np.ldexp(_polynomial(terms, (x - k * high) - k * low), k.astype(np.int32))


def log(x: Any) -> Values:
    """Natural logarithm of positive numbers."""
    x = np.asarray(x)
    single = x.dtype == np.float32
    (high, low), terms = (_LN2_SINGLE, _LOG[:6]) if single else (_LN2, _LOG)
    mantissa, k = np.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa, k = np.where(small, 2 * mantissa, mantissa), (k - small).astype(x.dtype)
    s = (mantissa - 1) / (mantissa + 1)
    return k * high + (s * _polynomial(terms, s * s) + k * low)


def power(base: Any, exponent: Any) -> Values:
    """A base of 0 or more to a positive power."""
    base = np.asarray(base, np.result_type(base, exponent))
    raised = exp(exponent * log(np.maximum(base, np.finfo(base.dtype).tiny)))
    return np.where(base > 0, raised, base.dtype.type(0))


def _shifted_sine(x: Any, quarter: int) -> Values:
    """sin(x + quarter * π / 2) for |x| up to some thousands."""
    dtype, x = np.asarray(x).dtype, np.asarray(x, np.float64)
    k = np.rint(x * (2 / math.pi))
    r = ((x - k * _HALF_PI[0]) - k * _HALF_PI[1]) - k * _HALF_PI[2]
    square = r * r
    sine, cosine = r * _polynomial(_SIN, square), _polynomial(_COS, square)
    turn = (k.astype(np.int64) + quarter) & 3
    return (np.where(turn & 1, cosine, sine) * np.where(turn & 2, -1.0, 1.0)).astype(dtype)


def sin(x: Any) -> Values:
    """Sine of radians."""
    return _shifted_sine(x, 0)


def cos(x: Any) -> Values:
    """Cosine of radians."""
    return _shifted_sine(x, 1)


def arctan2(y: Any, x: Any) -> Values:
    """The angle of (x, y) in radians; 0 for the origin."""
    dtype = np.result_type(y, x)
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    across, up = np.abs(x), np.abs(y)
    steep = up > across
    tangent = np.minimum(up, across) / np.maximum(np.maximum(up, across), np.finfo(np.float64).tiny)
    for _ in range(2):  # halves the angle, so that the series converges faster
        tangent = tangent / (1 + np.sqrt(1 + tangent * tangent))
    angle = 4 * tangent * _polynomial(_ARCTAN, tangent * tangent)
    angle = np.where(steep, math.pi / 2 - angle, angle)
    angle = np.where(x < 0, math.pi - angle, angle)
    return np.where(y < 0, -angle, angle).astype(dtype)


def convolve(values: Values, kernel: Values) -> Values:
    """np.convolve(values, kernel, "valid") of vectors, without its use of BLAS."""
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
    """Solves matrix @ x = right, (N, N) and (N, K), by Gaussian elimination with row pivots."""
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
