"""How exact the propensities are: against adaptive quadrature, and against the draws made from them.

Every case is checked before anything is normalised. The reference is `scipy.integrate.quad` on each
arm's own integral, with breakpoints at every arm's mean and flanks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import quad

from banditroute.core.policy import draw
from banditroute.core.propensity import integrate, thompson
from banditroute.core.types import Plan

MOST_ARMS = 20
_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_REACH = 8.0
_BREAKS = (-2.5, 2.5)


class Case(NamedTuple):
    """Utilities u_i ~ N(means[i], stddevs[i]^2)."""

    means: list[float]
    stddevs: list[float]


def random_case(rng: random.Random, index: int) -> Case:
    """K from 2 to 20, largest to smallest deviation from 1 to 100; every fourth case has equal ones."""
    count = 2 + index % (MOST_ARMS - 1)
    smallest = 10.0 ** rng.uniform(-4.0, -1.0)
    ratio = 1.0 if index % 4 == 0 else 10.0 ** rng.uniform(0.0, 2.0)
    stddevs = [smallest * ratio ** rng.random() for _ in range(count)]
    width = rng.choice((0.0, 0.3, 1.0, 3.0)) * rng.choice(stddevs)
    centre = rng.choice((0.0, 0.5, -3.0))
    return Case([centre + rng.gauss(0.0, 1.0) * width for _ in stddevs], stddevs)


def reference(case: Case) -> list[float]:
    """Each arm's probability by adaptive quadrature, to about 1e-11; the sum is not forced to 1."""
    lowest = max(m - _REACH * s for m, s in zip(case.means, case.stddevs, strict=True))
    return [_integral(i, case, lowest) for i in range(len(case.means))]


def _integral(own: int, case: Case, lowest: float) -> float:
    mean, stddev = case.means[own], case.stddevs[own]
    low, high = max(lowest, mean - _REACH * stddev), mean + _REACH * stddev
    if high <= low:
        return 0.0
    others = [(m, _SQRT_HALF / s) for j, (m, s) in enumerate(zip(case.means, case.stddevs, strict=True)) if j != own]
    others.sort(reverse=True)

    def integrand(x: float) -> float:
        z = (x - mean) / stddev
        value = math.exp(-0.5 * z * z) * _INV_SQRT_2PI / stddev
        for m, scale in others:
            value *= 0.5 * math.erfc((m - x) * scale)
            if value < 1e-18:
                return 0.0
        return value

    edges = {m + k * s for m, s in zip(case.means, case.stddevs, strict=True) for k in _BREAKS}
    points = sorted(edge for edge in edges if low < edge < high)
    value, _ = quad(integrand, low, high, points=points or None, epsabs=1e-11, epsrel=1e-10, limit=400 + len(points))
    return float(value)


def quadrature_errors(cases: int, seed: int) -> tuple[float, float]:
    """The largest error of a probability, and of a sum before it is normalised, over random cases."""
    rng = random.Random(seed)
    worst = worst_sum = 0.0
    for index in range(cases):
        case = random_case(rng, index)
        truth = reference(case)
        exact = integrate(np.array(case.means), np.array(case.stddevs))
        worst_sum = max(worst_sum, abs(float(exact.sum()) - 1.0))
        shares = thompson(case.means, case.stddevs)
        for want, raw, used in zip(truth, exact.tolist(), shares, strict=True):
            worst = max(worst, abs(raw - want), abs(used - want))
    return worst, worst_sum


def plan_of(shares: Sequence[float]) -> Plan:
    """A plan with these propensities and nothing else of note."""
    names = tuple(f"model-{i}" for i in range(len(shares)))
    none = (0.0,) * len(shares)
    return Plan(names, tuple(shares), (), (), none, tuple(shares), none)


def draw_z(draws: int, seed: int) -> float:
    """The largest |observed - expected| frequency of `draws` draws, in standard deviations."""
    rng = random.Random(seed)
    shares = thompson([0.8, 0.78, 0.75, 0.7, 0.5], [0.02, 0.03, 0.05, 0.04, 0.2])
    plan = plan_of(shares)
    counts = [0] * len(shares)
    for _ in range(draws):
        counts[draw(plan, rng.random())] += 1
    return max(
        abs(count - draws * share) / math.sqrt(draws * share * (1.0 - share))
        for count, share in zip(counts, shares, strict=True)
        if share > 0.0
    )


def run(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Errors in probability, unnormalised; deviations of the draws in standard deviations (4 is the limit)."""
    cases, draws = (100, 100_000) if quick else (1000, 1_000_000)
    worst, worst_sum = quadrature_errors(cases, seed)
    return {
        "cases": cases,
        "draws": draws,
        "max_abs_error": worst,
        "max_sum_error": worst_sum,
        "max_draw_z": draw_z(draws, seed),
    }
