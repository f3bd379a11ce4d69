"""The value of a target policy from decisions that another one made. With w = pi(a | x) / b(a | x) for the model a that was
chosen, y its outcome and q what was expected of each model:

| name | mean of | source |
|---|---|---|
| IPS | w y | Horvitz and Thompson 1952 |
| SNIPS | w y, over the mean of w | Swaminathan and Joachims 2015 |
| DM | sum_a pi(a) q(a), q from all decisions | |
| DR | sum_a pi(a) q(a) + w (y - q), q predictable | Robins, Rotnitzky and Zhao 1994; Dudik et al. 2014 |
| DR-stabilised | the same, weighted by 1 / sqrt of its expected variance | Zhan et al. 2021 (StableVar); Hadad et al. 2021 |
| SWITCH-DR | DR with w where w <= tau, else 0 | Wang, Agarwal and Dudik 2017 |
| DRos | DR with lambda w / (w^2 + lambda) | Su et al. 2020, equation 9 |

The logging policy learned as it went, so the terms are not independent. Those of IPS and DR are martingale differences about the
target's conditional values: b is exact, and q and the target use earlier decisions only. Their mean, studentised, is
asymptotically normal where b keeps above a floor and settles (martingale central limit theorem). Intervals of the other
estimators leave out their bias, or rest on a ratio: they are marked approximate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from banditroute.lab.ope.logged import Logged
from banditroute.lab.ope.outcomes import Expected, block_edges, cells_of, with_intercept
from banditroute.lab.results import defined
from banditroute.lab.source import FloatArray

Z95 = 1.959963984540054
GRID = 24
"""Values of tau and of lambda that are tried."""


class Estimate(NamedTuple):
    """A value with its 95 % interval; NaN where there is none. `is_approximate`: the interval leaves out bias."""

    name: str
    value: float
    low: float
    high: float
    is_approximate: bool = False

    @property
    def width(self) -> float:
        return self.high - self.low

    def to_json(self) -> dict[str, Any]:
        """JSON data; null stands for what is not defined."""
        interval = None if math.isnan(self.low) else [self.low, self.high]
        return {"value": defined(self.value), "ci95": interval, "approximate": self.is_approximate}


class Sample(NamedTuple):
    """One target policy and one outcome, by decision: all of shape (n,).

    `fitted` is q of the chosen model, `direct` sum_a pi(a) q(a), `variances` sum_a pi(a)^2 / b(a), to which DR's conditional
    variance is proportional where outcomes are equally noisy.
    """

    weights: FloatArray
    outcome: FloatArray
    fitted: FloatArray
    direct: FloatArray
    variances: FloatArray


def weights_of(logged: Logged, target: FloatArray) -> FloatArray:
    """w, of shape (n,).

    Args:
        target: pi, of shape (n, K), rows summing to 1.
    """
    return np.asarray(target[np.arange(len(logged)), logged.chosen] / logged.chosen_propensities, dtype=np.float64)


def make_sample(logged: Logged, target: FloatArray, outcome: FloatArray, q: FloatArray) -> Sample:
    """Of a target policy pi and expected outcomes q, both of shape (n, K); `outcome` of shape (n,)."""
    possible = logged.propensities > 0.0
    ratios = np.divide(target, logged.propensities, out=np.zeros_like(target), where=possible)
    return Sample(
        weights=weights_of(logged, target),
        outcome=outcome,
        fitted=q[np.arange(len(logged)), logged.chosen],
        direct=(target * q).sum(axis=1),
        variances=(target * ratios).sum(axis=1),
    )


def mean_of(name: str, terms: FloatArray, *, is_approximate: bool = False) -> Estimate:
    """The mean of terms of shape (n,), studentised."""
    value = float(terms.mean())
    half = Z95 * float(terms.std(ddof=1)) / math.sqrt(len(terms)) if len(terms) > 1 else math.nan
    return Estimate(name, value, value - half, value + half, is_approximate)


def ratio_of(name: str, above: FloatArray, below: FloatArray) -> Estimate:
    """Mean of `above` over mean of `below`, both of shape (n,), by linearisation (Cochran 1977, section 6.4); NaN over 0."""
    under = float(below.mean())
    if under == 0.0:
        return Estimate(name, math.nan, math.nan, math.nan, is_approximate=True)
    value = float(above.mean()) / under
    spread = mean_of(name, (above - value * below) / under)
    half = spread.width / 2.0
    return Estimate(name, value, value - half, value + half, is_approximate=True)


def dr_terms(sample: Sample) -> FloatArray:
    """sum_a pi(a) q(a) + w (y - q), of shape (n,)."""
    return np.asarray(sample.direct + sample.weights * (sample.outcome - sample.fitted), dtype=np.float64)


def ips(sample: Sample) -> Estimate:
    """Unbiased; widest."""
    return mean_of("IPS", sample.weights * sample.outcome)


def snips(sample: Sample) -> Estimate:
    """Bias of order 1 / n."""
    return ratio_of("SNIPS", sample.weights * sample.outcome, sample.weights)


def dr(sample: Sample) -> Estimate:
    """Unbiased for the mean of the target's conditional values, whatever q is; the better q, the narrower."""
    return mean_of("DR", dr_terms(sample))


def stabilised_dr(sample: Sample) -> Estimate:
    """DR with more say for decisions whose terms vary less, as told by the block before; the first block only tells. Where the
    target's value changes in time this is another average of it than DR's."""
    terms, edges = dr_terms(sample), block_edges(len(sample.weights))
    says = np.zeros(len(terms)) if len(edges) > 2 else np.ones(len(terms))
    for before, start, stop in zip(edges, edges[1:], edges[2:], strict=False):
        says[start:stop] = 1.0 / math.sqrt(max(float(sample.variances[before:start].mean()), 1e-12))
    value = float((says * terms).sum() / says.sum())
    half = Z95 * math.sqrt(float((says**2 * (terms - value) ** 2).sum())) / float(says.sum())
    return Estimate("DR-stabilised", value, value - half, value + half)


def _least_error(name: str, sample: Sample, candidates: Sequence[FloatArray]) -> Estimate:
    """DR with those of some shrunk weights whose estimated squared error is least: variance, plus the square of a bound on
    the bias (its estimate and one standard error; Su et al. 2020, section 4, take a bound too)."""
    residual, root = sample.outcome - sample.fitted, math.sqrt(len(sample.weights))
    best, found = math.inf, None
    for shrunk in candidates:
        terms, lost = sample.direct + shrunk * residual, (sample.weights - shrunk) * residual
        bias = abs(float(lost.mean())) + float(lost.std()) / root
        error = float(terms.var()) / len(terms) + bias * bias
        if error < best:
            best, found = error, terms
    assert found is not None, "there is at least one candidate"
    return mean_of(name, found, is_approximate=True)


def switch_dr(sample: Sample) -> Estimate:
    """Large weights count as 0: biased where they were right."""
    w = sample.weights
    taus = np.geomspace(1.0, max(1.0, float(w.max())), GRID)
    return _least_error("SWITCH-DR", sample, [np.where(w <= tau * (1.0 + 1e-9), w, 0.0) for tau in taus])


def dros(sample: Sample) -> Estimate:
    """Large weights are shrunk: lambda from 1 to far beyond the largest squared weight, where it is DR."""
    w = sample.weights
    most = 100.0 * max(1.0, float(w.max())) ** 2
    return _least_error("DRos", sample, [lam * w / (w * w + lam) for lam in np.geomspace(1.0, most, GRID)])


def dm(logged: Logged, target: FloatArray, outcome: FloatArray, model: Expected) -> Estimate:
    """What the outcome model says alone, and as wrong as that. The interval covers the draw of requests and outcomes."""
    z, cells = with_intercept(logged), cells_of(logged)
    direct = (target * model.final).sum(axis=1)
    sums = np.zeros((len(logged.categories), len(logged.models), z.shape[1]))
    np.add.at(sums, logged.category, target[:, :, None] * z[:, None, :])
    says = np.einsum("nd,nde,ne->n", sums.reshape(-1, z.shape[1])[cells] / len(logged), model.inverses[cells], z)
    residual = outcome - model.final[np.arange(len(logged)), logged.chosen]
    variance = float(direct.var()) / len(logged) + float((says**2 * residual**2).sum())
    value, half = float(direct.mean()), Z95 * math.sqrt(variance)
    return Estimate("DM", value, value - half, value + half, is_approximate=True)


def all_estimates(logged: Logged, target: FloatArray, outcome: FloatArray, model: Expected) -> tuple[Estimate, ...]:
    """Every estimator's answer for one outcome, DR first.

    Args:
        target: pi, of shape (n, K), each row from earlier decisions only.
        outcome: shape (n,), the one that `model` was fitted to.
    """
    sample = make_sample(logged, target, outcome, model.predictable)
    found = [estimate(sample) for estimate in (dr, stabilised_dr, ips, snips, switch_dr, dros)]
    return (*found, dm(logged, target, outcome, model))
