"""Whether a log can carry a conclusion: how much of it speaks for the target policy, and whether feedback is even-handed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from banditroute.lab.ope.estimators import weights_of
from banditroute.lab.ope.logged import Logged
from banditroute.lab.results import defined
from banditroute.lab.source import FloatArray, IntArray

LEAST_SAMPLE_SIZE, MOST_SHARE, LEAST_CARRIERS, MOST_UNSUPPORTED, MOST_RATE_GAP = 200.0, 0.05, 20.0, 0.002, 0.03
"""A verdict needs this effective sample size, no weight above this share of their sum, this many draws that carry the variance,
no more of the target's choices than this where the log has none, and feedback rates no further apart than this."""
NEGLIGIBLE = 0.1
"""Share of the variance that may rest on any few draws: without it an interval of 95 % still covers 93.7 %."""
_ROUNDS = 50


class Rates(NamedTuple):
    """Share of each model's decisions that get an outcome, and its standard error, for models that were chosen at all."""

    rates: Mapping[str, float]
    gap: float
    gap_stderr: float
    is_uneven: bool

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {"by_model": dict(self.rates), "gap": self.gap, "gap_stderr": self.gap_stderr, "uneven": self.is_uneven}


def feedback_rates(models: tuple[str, ...], chosen: IntArray, propensities: FloatArray, *, overall: float) -> Rates:
    """How often each model's decisions get an outcome, told from those that did.

    Among them, models are over-represented, compared to the propensities, as far as their rates f are higher:
    P(a | outcome) = b(a) f(a) / sum_k b(k) f(k). The likelihood of f is maximised by fixed-point steps, with `overall` as the
    mean rate. That conditions on each decision's own propensities, so rates may differ between categories and in time.
    The gap between the largest and the smallest is uneven where it exceeds MOST_RATE_GAP, and chance at 95 % (Bonferroni over all
    pairs).

    Args:
        chosen: shape (n,), of decisions with an outcome.
        propensities: shape (n, K).
        overall: share of all decisions that have one, in (0, 1].
    """
    counts = np.bincount(chosen, minlength=len(models)).astype(np.float64)
    told = np.flatnonzero((counts > 0.0) & ((propensities > 0.0) & (propensities < 1.0)).any(axis=0))
    if len(told) < 2:
        return Rates({models[k]: overall for k in np.flatnonzero(counts)}, 0.0, math.nan, is_uneven=False)
    f = np.ones(len(models))
    for _ in range(_ROUNDS):
        among = (propensities / (propensities @ f)[:, None]).sum(axis=0)
        f = np.where(counts > 0.0, counts / np.maximum(among, 1e-300), 1.0)
    # The mean over decisions, answered or not, of sum_a b(a) f(a) is the overall rate.
    f *= overall * float((1.0 / (propensities @ f)).mean())
    # Of log f the likelihood's information is sum_t diag(s) - s s^T, with s the shares among decisions with an outcome.
    shares = (propensities * f / (propensities @ f)[:, None])[:, told]
    covariance = np.linalg.pinv(np.diag(shares.sum(axis=0)) - shares.T @ shares, hermitian=True)
    high, low = int(f[told].argmax()), int(f[told].argmin())
    gap = float(f[told][high] - f[told][low])
    variance = float(covariance[high, high] + covariance[low, low] - 2.0 * covariance[high, low])
    stderr = float(f[told].mean()) * math.sqrt(max(0.0, variance))
    pairs = len(told) * (len(told) - 1) / 2.0
    beyond_chance = gap > float(ndtri(1.0 - 0.025 / pairs)) * stderr
    rates = {models[k]: float(f[k]) for k in told}
    return Rates(rates, gap, stderr, is_uneven=gap > MOST_RATE_GAP and beyond_chance)


class Support(NamedTuple):
    """What an evaluation rests on.

    `carriers` is how many draws were expected to carry the variance of the estimates (see `carrying_draws`). Where they are few,
    whether any of them happened is luck, and so is the interval's width; the weights that did happen would not tell.
    `unsupported_share` is the share of the target's choices that the log never makes; `sampling_rate` of the decisions with an
    outcome that the decision sink holds. Rates are None where they are not known.
    """

    decisions: int
    effective_sample_size: float
    largest_weight: float
    largest_weight_share: float
    carriers: float
    unsupported_share: float
    sampling_rate: float | None = None
    feedback_rates: Rates | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why nothing can be concluded, and what to do about it; empty where a verdict is given."""
        found = []
        if self.unsupported_share > MOST_UNSUPPORTED:
            found.append(
                f"{100 * self.unsupported_share:.3g} % of the new policy's choices could not happen when the log was made: allow "
                "these models there first, or evaluate from when they were there (--since)"
            )
        if self.effective_sample_size < LEAST_SAMPLE_SIZE:
            times = LEAST_SAMPLE_SIZE / max(self.effective_sample_size, 1.0)
            found.append(
                f"the {self.decisions} decisions are worth {self.effective_sample_size:.0f} of the new policy's own, and "
                f"{LEAST_SAMPLE_SIZE:.0f} are needed: log about {times:.2g} times as many, or raise `propensity_floor` as much"
            )
        if self.largest_weight_share > MOST_SHARE:
            found.append(
                f"one decision alone carries {100 * self.largest_weight_share:.0f} % of the weight, and {100 * MOST_SHARE:.0f} % "
                "is the most: log more decisions, or raise `propensity_floor`"
            )
        if self.carriers < LEAST_CARRIERS:
            found.append(
                f"what differs most between the two policies was expected to be drawn {self.carriers:.2g} times, and "
                f"{LEAST_CARRIERS:.0f} are needed: log more decisions, or raise `propensity_floor`"
            )
        rates = self.feedback_rates
        if rates is not None and rates.is_uneven:
            best, worst = max(rates.rates, key=rates.rates.__getitem__), min(rates.rates, key=rates.rates.__getitem__)
            found.append(
                f"feedback comes for {100 * rates.rates[best]:.0f} % of {best}'s decisions and {100 * rates.rates[worst]:.0f} % "
                f"of {worst}'s: what is missing may be what differs; report every model's outcomes alike, failures too"
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """JSON data; null stands for what is not known."""
        told = {**self._asdict(), "effective_sample_size": defined(self.effective_sample_size), "reasons": list(self.reasons)}
        told["feedback_rates"] = None if self.feedback_rates is None else self.feedback_rates.to_json()
        return told


def carrying_draws(logged: Logged, target: FloatArray) -> float:
    """(sum E w^2)^2 / sum E w^4, where E w^k = sum_a pi^k / b^(k-1) is exact, as every decision's probabilities are known.

    Largest weights that together make no more than NEGLIGIBLE of sum E w^2 are left out of both sums: a target that hardly
    differs from what was logged must not be refused for them.
    """
    ratios = np.divide(target, logged.propensities, out=np.zeros_like(target), where=logged.propensities > 0.0).ravel()
    largest_first = np.argsort(-ratios, kind="stable")
    ratios, masses = ratios[largest_first], target.ravel()[largest_first]
    squares, fourths = masses * ratios, masses * ratios**3
    kept = squares.cumsum() > NEGLIGIBLE * squares.sum()
    return float(squares[kept].sum() ** 2 / fourths[kept].sum()) if kept.any() else 0.0


def support_of(logged: Logged, target: FloatArray, *, sampling_rate: float | None = None, rates: Rates | None = None) -> Support:
    """What the log says of a target policy of shape (n, K).

    The effective sample size is (sum w)^2 / sum w^2 (Kish 1965).
    """
    weights = weights_of(logged, target)
    total = float(weights.sum())
    return Support(
        decisions=len(logged),
        effective_sample_size=total * total / float((weights**2).sum()) if total > 0.0 else 0.0,
        largest_weight=float(weights.max()),
        largest_weight_share=float(weights.max()) / total if total > 0.0 else 1.0,
        carriers=carrying_draws(logged, target),
        unsupported_share=float(np.where(logged.propensities > 0.0, 0.0, target).sum(axis=1).mean()),
        sampling_rate=sampling_rate,
        feedback_rates=rates,
    )
