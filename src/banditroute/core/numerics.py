"""Arithmetic that gives the same bits on every run of one build: no BLAS, no libm transcendentals.

IEEE 754 fixes +, -, *, / and sqrt to the last bit; scaling by a power of two is exact. The fold uses
nothing else. NumPy is used element by element only, which rounds as Python does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_LOG_TERMS = 10  # the next term is below 2e-17
_TERMS = 14  # |f| <= 1/2: the next term is below 2e-17


def _exp2_coefficients() -> tuple[float, ...]:
    coefficients = [1.0]
    for k in range(1, _TERMS + 1):
        coefficients.append(coefficients[-1] * _LN2 / k)
    return tuple(reversed(coefficients))


_EXP2 = _exp2_coefficients()
_FAR_BELOW, _FAR_ABOVE = -1081.0, 2000.0
_LOST = 1e-14  # of a diagonal element: a pivot as small is rounding, for d up to 17 and more


def exp2(x: float) -> float:
    """2 to the power x, relative error below 1e-15; 0.0 below the range of float, error above it.

    Raises:
        OverflowError: x is 1024 or more.
    """
    whole = math.floor(x + 0.5)
    if whole < -1080:
        return 0.0
    fraction = x - whole
    # Horner's rule, written out: a loop takes four times as long, and every feedback needs a few of these.
    c14, c13, c12, c11, c10, c9, c8, c7, c6, c5, c4, c3, c2, c1, c0 = _EXP2
    total = ((((c14 * fraction + c13) * fraction + c12) * fraction + c11) * fraction + c10) * fraction + c9
    total = ((((total * fraction + c8) * fraction + c7) * fraction + c6) * fraction + c5) * fraction + c4
    total = (((total * fraction + c3) * fraction + c2) * fraction + c1) * fraction + c0
    return math.ldexp(total, whole)


def log(x: float) -> float:
    """The natural logarithm of x > 0, relative error of log(x) below 1e-14 away from x = 1.

    Raises:
        ValueError: x is not above 0 and finite.
    """
    if not 0.0 < x < math.inf:
        raise ValueError(f"log of {x!r}")
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa, exponent = 2.0 * mantissa, exponent - 1
    # log m = 2 atanh((m - 1) / (m + 1)), the argument below 0.172.
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = ratio * ratio, 0.0
    for k in range(_LOG_TERMS, -1, -1):
        total = total * square + 1.0 / (2 * k + 1)
    return exponent * _LN2 + 2.0 * ratio * total


def exp2s(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """`exp2` of each element, to the same bits; infinite above the range of float."""
    whole = np.floor(x + 0.5)
    fraction = x - whole
    total = np.zeros_like(x)
    for coefficient in _EXP2:
        total = total * fraction + coefficient
    return np.ldexp(total, np.clip(whole, _FAR_BELOW, _FAR_ABOVE).astype(np.int32))


def logs(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """`log` of each element, to the same bits.

    Raises:
        ValueError: one is not above 0 and finite.
    """
    if not np.all((x > 0.0) & (x < np.inf)):
        raise ValueError("log of a number that is not above 0 and finite")
    mantissa, exponent = np.frexp(x)
    low = mantissa < _SQRT_HALF
    mantissa, exponent = np.where(low, 2.0 * mantissa, mantissa), exponent - low
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = ratio * ratio, np.zeros_like(x)
    for k in range(_LOG_TERMS, -1, -1):
        total = total * square + 1.0 / (2 * k + 1)
    result: NDArray[np.float64] = exponent * _LN2 + 2.0 * ratio * total
    return result


def packed_size(dimension: int) -> int:
    """How many numbers a symmetric `dimension` x `dimension` matrix has in packed form."""
    return dimension * (dimension + 1) // 2


def unpack(packed: Sequence[float], dimension: int) -> list[list[float]]:
    """The full symmetric matrix from its upper triangle, row by row."""
    full = [[0.0] * dimension for _ in range(dimension)]
    at = 0
    for i in range(dimension):
        for j in range(i, dimension):
            full[i][j] = full[j][i] = packed[at]
            at += 1
    return full


def pack(full: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The upper triangle, row by row."""
    return tuple(full[i][j] for i in range(len(full)) for j in range(i, len(full)))


def cholesky(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """L with A = L L^T, for a symmetric positive definite A.

    Raises:
        ValueError: A is not positive definite, or not to working precision.
    """
    d = len(matrix)
    low = [[0.0] * d for _ in range(d)]
    for i in range(d):
        row_i = low[i]
        for j in range(i + 1):
            total, row_j = matrix[i][j], low[j]
            for k in range(j):
                total -= row_i[k] * row_j[k]
            if i != j:
                row_i[j] = total / row_j[j]
            elif total > _LOST * matrix[i][i]:
                row_i[i] = math.sqrt(total)
            else:
                raise ValueError("matrix is not positive definite")
    return low


def whitened(low: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x with L x = b, so that x^T x = b^T A^-1 b."""
    solution: list[float] = []
    for row, value in zip(low, right, strict=True):
        total = value
        for a, b in zip(row, solution, strict=False):  # the row's part left of the diagonal
            total -= a * b
        solution.append(total / row[len(solution)])
    return solution
