"""The exact probability that each arm's draw is the largest: the propensity of Thompson sampling.

With independent utilities u_i ~ N(m_i, s_i^2), P_i = integral of phi_i(x) prod_{j != i} Phi_j(x) dx.
Arms that are provably out of the race are dropped first; two contenders have a closed form; more are
integrated by the trapezoidal rule, which converges geometrically for integrands as smooth as this one (Trefethen and
Weideman 2014). Where the deviations differ too much for even steps, it is Gauss-Legendre on panels whose edges lie at
m_j +- {1, 3, 7} s_j of every arm, which follows the kinks of every Phi_j (Gauss-Hermite is off by up to 0.08). See
Jeunen, arXiv 2504.08773.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Numbers = Sequence[float] | NDArray[np.float64]

NEGLIGIBLE = 4e-10
"""An arm whose chance to beat the leader alone is below this is given probability 0 (before floors)."""

SUM_TOLERANCE = 1e-7
_MIN_STDDEV = 1e-9
_MIN_VARIANCE = _MIN_STDDEV**2
_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_REACH = 7.0
"""Standard deviations beyond which a normal is as good as over: 1.3e-12 of it."""
_STEP = 0.9
"""Of 1 / sqrt(sum 1 / s_j^2): the product's spectrum falls at least like a normal's of that deviation, and its first alias is
below 1e-10. From 1 on, errors grow tenfold with every 0.05."""
_MOST_STEPS = 32
"""Even steps for each arm: panels need fewer nodes where there would be more."""
_EDGES = (-_REACH, -3.0, -1.0, 1.0, 3.0, _REACH)
_MOST = (4, 20)
_RULES = tuple(np.polynomial.legendre.leggauss(nodes) for nodes in (8, 12, 20))
"""Nodes and weights, for up to so many contenders and for more: the more of them, the sharper the largest draw's distribution.
Against adaptive quadrature: below 1e-9; with 8 nodes ten equal arms would already sum to 1 + 1e-7."""
_SAME_EDGE = 0.3
"""Edges nearer to one another than so many of the smallest standard deviations are one edge."""
_UNTHREADED = 499
_CHUNKED = 2000
"""NumPy gives up the interpreter lock around 500 elements and more; in a busy server each time costs a
wait for its return. Small integrals are therefore done in pieces below that size."""
_NEGLIGIBLE_Z2 = float(ndtri(NEGLIGIBLE)) ** 2


def beats(gap: float, stddev: float) -> float:
    """P(N(gap, stddev^2) > 0)."""
    return 0.5 * math.erfc(-gap / stddev * _SQRT_HALF)


def thompson(means: Sequence[float], stddevs: Sequence[float]) -> list[float]:
    """P(arm i has the largest draw), for independent normal draws.

    Args:
        means: shape (K,), in utility points, K >= 1.
        stddevs: shape (K,), same unit; values below 1e-9 count as 1e-9.

    Returns:
        Shape (K,), sums to 1; exact to 1e-8 for K <= 20, to K * NEGLIGIBLE beyond.

    Raises:
        ArithmeticError: the integral does not sum to 1 within 1e-7; never seen, checked always.
    """
    count = len(means)
    if count == 1:
        return [1.0]
    top = max(means)
    best = means.index(top)
    spread = stddevs[best] * stddevs[best] + _MIN_VARIANCE
    contenders = []
    for i, mean in enumerate(means):
        gap, deviation = top - mean, stddevs[i]
        if gap * gap <= _NEGLIGIBLE_Z2 * (deviation * deviation + spread):
            contenders.append(i)
    shares = [0.0] * count
    if len(contenders) == 1:
        shares[best] = 1.0
    elif len(contenders) == 2:
        other = contenders[0] if contenders[1] == best else contenders[1]
        shares[other] = beats(means[other] - top, math.sqrt(stddevs[other] * stddevs[other] + spread))
        shares[best] = 1.0 - shares[other]
    else:
        # From the leader's mean: far from 0 a small deviation would drown in rounding.
        exact = integrate([means[i] - top for i in contenders], [max(stddevs[i], _MIN_STDDEV) for i in contenders]).tolist()
        total = sum(exact)
        if not abs(total - 1.0) < SUM_TOLERANCE:
            raise ArithmeticError(f"propensities sum to {total!r}")
        for i, share in zip(contenders, exact, strict=True):
            shares[i] = share / total
    return shares


def integrate(means: Numbers, stddevs: Numbers) -> NDArray[np.float64]:
    """The integrals themselves, not normalised.

    Args:
        means: shape (K,), K >= 2.
        stddevs: shape (K,), above 0.

    Returns:
        Shape (K,); the sum differs from 1 by the error of the quadrature.
    """
    points, weights = _nodes(means, stddevs)
    count, size = len(means), len(points)
    slope, offset = np.array(([1.0 / s for s in stddevs], [m / s for m, s in zip(means, stddevs, strict=True)]))[:, :, None]
    if not _UNTHREADED < count * size <= _CHUNKED:
        return _piece(points, weights, offset, slope)
    step = _UNTHREADED // count
    result = np.zeros(count)
    for start in range(0, size, step):
        some = weights if isinstance(weights, float) else weights[start : start + step]
        result += _piece(points[start : start + step], some, offset, slope)
    return result


def _nodes(means: Numbers, stddevs: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64] | float]:
    """Points of the quadrature, shape (n,), and their weights over sqrt(2 pi), one for each or the same for all."""
    # Below every arm's least some factor vanishes; above every arm's most all densities do.
    lowest = max([m - _REACH * s for m, s in zip(means, stddevs, strict=True)])
    highest = max([m + _REACH * s for m, s in zip(means, stddevs, strict=True)])
    step = _STEP / math.sqrt(sum([1.0 / (s * s) for s in stddevs]))
    steps = (highest - lowest) / step
    if steps <= _MOST_STEPS * len(means):
        return np.arange(lowest, highest + step, step), step * _INV_SQRT_2PI
    nodes, rule = _RULES[bisect.bisect_left(_MOST, len(means))]
    edges = _panels(means, stddevs, lowest, highest)
    half = (edges[1:] - edges[:-1])[:, None] * 0.5
    points = half * nodes
    points += edges[:-1, None] + half
    return points.reshape(-1), (half * (_INV_SQRT_2PI * rule)).reshape(-1)


def _panels(means: Numbers, stddevs: Numbers, lowest: float, highest: float) -> NDArray[np.float64]:
    """The panels' edges, ascending; at least two."""
    gap = _SAME_EDGE * min(stddevs)
    kept = [lowest]
    for edge in sorted([m + k * s for m, s in zip(means, stddevs, strict=True) for k in _EDGES]):
        if kept[-1] + gap < edge < highest - gap:
            kept.append(edge)
    kept.append(highest)
    return np.array(kept)


def _piece(
    points: NDArray[np.float64], weights: NDArray[np.float64] | float, offset: NDArray[np.float64], slope: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The integrals over some of the nodes. Shapes: points (n,), weights (n,) or one for all, offset = mean / sd and
    slope = 1 / sd (K, 1)."""
    z = points * slope
    z -= offset
    below = ndtr(z)
    # prod_{j != i} = prod / own factor: no node is below any arm's -7 sd, so every factor is above 1e-12.
    product = np.multiply.reduce(below)  # over the arms
    product *= weights
    z *= z
    z *= -0.5
    np.exp(z, out=z)
    z /= below
    result: NDArray[np.float64] = slope[:, 0] * (z @ product)
    return result


def with_floor(shares: Sequence[float], floor: float) -> list[float]:
    """The shares with none below `floor`; what that takes comes from the others in proportion.

    Args:
        shares: shape (K,), sums to 1.
        floor: probability in [0, 0.2]; at most half of it all goes to floors (K * floor <= 1/2).
    """
    count = len(shares)
    floor = min(floor, 0.5 / count)
    if floor <= 0.0 or count == 1:
        return list(shares)
    low, rest = 0, 0.0
    for share in shares:
        if share < floor:
            low += 1
        else:
            rest += share
    if not low:
        return list(shares)
    scale = (1.0 - floor * low) / rest
    lifted = [floor if share < floor else share * scale for share in shares]
    # What was just above the floor may have been scaled below it: those join the floor, with at least one left above.
    return lifted if min(lifted) >= floor else _with_floor_again(lifted, floor)


def _with_floor_again(shares: Sequence[float], floor: float) -> list[float]:
    """`with_floor` where its first pass took some shares below the floor."""
    low = [share <= floor for share in shares]
    while True:
        rest = sum(share for share, is_low in zip(shares, low, strict=True) if not is_low)
        scale = (1.0 - floor * sum(low)) / rest
        fallen = [is_low or share * scale < floor for share, is_low in zip(shares, low, strict=True)]
        if fallen == low:
            return [floor if is_low else share * scale for share, is_low in zip(shares, low, strict=True)]
        low = fallen
