"""Arithmetic that gives the same bits on every run of one build: no BLAS, no libm transcendentals.

IEEE 754 fixes +, -, *, / and sqrt to the last bit; scaling by a power of two is exact. The fold uses
nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_LN2 = 0.6931471805599453
_TERMS = 14  # |f| <= 1/2: the next term is below 2e-17


def _exp2_coefficients() -> tuple[float, ...]:
    coefficients = [1.0]
    for k in range(1, _TERMS + 1):
        coefficients.append(coefficients[-1] * _LN2 / k)
    return tuple(reversed(coefficients))


_EXP2 = _exp2_coefficients()
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
    total = 0.0
    for coefficient in _EXP2:
        total = total * fraction + coefficient
    return math.ldexp(total, whole)


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


def solve_spd(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> tuple[list[float], list[list[float]]]:
    """Solves A x = b for a symmetric positive definite A by Cholesky; returns x and A's inverse.

    Args:
        matrix: A, shape (d, d).
        right: b, shape (d,).

    Raises:
        ValueError: A is not positive definite, or not to working precision.
    """
    d = len(matrix)
    low = [[0.0] * d for _ in range(d)]
    for i in range(d):
        for j in range(i + 1):
            total = matrix[i][j]
            row_i, row_j = low[i], low[j]
            for k in range(j):
                total -= row_i[k] * row_j[k]
            if i == j:
                if not total > _LOST * matrix[i][i]:
                    raise ValueError("matrix is not positive definite")
                low[i][i] = math.sqrt(total)
            else:
                low[i][j] = total / low[j][j]
    # L^-1, then A^-1 = L^-T L^-1.
    inv_low = [[0.0] * d for _ in range(d)]
    for j in range(d):
        inv_low[j][j] = 1.0 / low[j][j]
        for i in range(j + 1, d):
            total = 0.0
            for k in range(j, i):
                total -= low[i][k] * inv_low[k][j]
            inv_low[i][j] = total / low[i][i]
    inverse = [[0.0] * d for _ in range(d)]
    for i in range(d):
        for j in range(i, d):
            total = 0.0
            for k in range(j, d):
                total += inv_low[k][i] * inv_low[k][j]
            inverse[i][j] = inverse[j][i] = total
    solution = []
    for i in range(d):
        total = 0.0
        for j in range(d):
            total += inverse[i][j] * right[j]
        solution.append(total)
    return solution, inverse
