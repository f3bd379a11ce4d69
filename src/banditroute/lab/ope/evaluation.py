"""One target policy held against a log: every estimate, what it rests on, and the verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from banditroute.lab.ope.estimators import Estimate, all_estimates, dr_terms, make_sample, mean_of, ratio_of
from banditroute.lab.ope.logged import Logged
from banditroute.lab.ope.outcomes import Expected, expected
from banditroute.lab.ope.sequences import Sequence, asymptotic, difference_terms, quality_terms
from banditroute.lab.ope.support import Rates, Support, support_of
from banditroute.lab.source import FloatArray

MOST_WEIGHT = 500.0
"""Where weights of confidence sequences are truncated at the latest: one over the default floor."""


class Outcomes(NamedTuple):
    """What was fitted to a log once, for all target policies."""

    quality: Expected
    cost: Expected


def fitted(logged: Logged) -> Outcomes:
    """Models of both outcomes."""
    return Outcomes(expected(logged, logged.quality), expected(logged, logged.cost_usd))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a policy would have been worth. Quality in points of [0, 1], cost in USD per decision.

    `quality` and `cost` have every estimator's answer, DR first; `logged_quality` and `logged_cost` are the log's own means;
    `quality_difference` and `cost_change` compare by DR: new less logged, and new over logged, less 1. The sequences hold at all
    times at once.
    """

    policy: str
    cost_weight: float | None
    support: Support
    quality: tuple[Estimate, ...]
    cost: tuple[Estimate, ...]
    logged_quality: Estimate
    logged_cost: Estimate
    quality_difference: Estimate
    cost_change: Estimate
    quality_sequence: Sequence
    difference_sequence: Sequence
    cost_sequence: Sequence

    @property
    def is_supported(self) -> bool:
        return not self.support.reasons

    @property
    def verdict(self) -> str:
        """In plain words."""
        if not self.is_supported:
            return f"no support for the policy {self.policy}: " + "; ".join(self.support.reasons)
        return f"{quality_words(self.quality_difference)} and {cost_words(self.cost_change)} {self.policy}"

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything in it."""
        return {
            "policy": self.policy,
            "cost_weight": self.cost_weight,
            "supported": self.is_supported,
            "verdict": self.verdict,
            "quality_difference": self.quality_difference.to_json(),
            "cost_change": self.cost_change.to_json(),
            "logged": {"quality": self.logged_quality.to_json(), "cost_usd": self.logged_cost.to_json()},
            "quality": by_name(self.quality),
            "cost_usd": by_name(self.cost),
            "anytime": {
                "quality": self.quality_sequence.to_json(),
                "quality_difference": self.difference_sequence.to_json(),
                "cost_usd": self.cost_sequence.to_json(),
            },
            "support": self.support.to_json(),
        }


def by_name(estimates: tuple[Estimate, ...]) -> dict[str, Any]:
    """As JSON data."""
    return {estimate.name: estimate.to_json() for estimate in estimates}


def quality_words(difference: Estimate) -> str:
    """Such as "quality -0.01 [-0.02, 0.00]"."""
    digits = 2 if difference.width >= 0.02 else 3
    value, low, high = (_plain(f"{each:.{digits}f}") for each in (difference.value, difference.low, difference.high))
    return f"quality {value} [{low}, {high}]"


def cost_words(change: Estimate) -> str:
    """Such as "cost -41 % [-44, -38]"."""
    if math.isnan(change.value):
        return "no cost on either side"
    digits = 0 if change.width >= 0.02 else 1
    value, low, high = (_plain(f"{100 * each:.{digits}f}") for each in (change.value, change.low, change.high))
    return f"cost {value} % [{low}, {high}]"


def _plain(number: str) -> str:
    """With a true minus, and none before a zero."""
    return number.removeprefix("-") if not number.strip("-0.") else number.replace("-", "\N{MINUS SIGN}")


def evaluate(
    logged: Logged,
    target: FloatArray,
    *,
    policy: str,
    outcomes: Outcomes,
    floor: float,
    cost_weight: float | None = None,
    sampling_rate: float | None = None,
    rates: Rates | None = None,
) -> Evaluation:
    """The value of a target policy.

    Args:
        target: pi, of shape (n, K), rows summing to 1; each row from what was known before its decision.
        policy: what to call it after the figures, such as "at cost weight 0.5".
        outcomes: of `fitted`.
        floor: the least propensity that the logging policy was configured to give; sequences truncate weights at one over it.
        rates: see `support.feedback_rates`.
    """
    quality = make_sample(logged, target, logged.quality, outcomes.quality.predictable)
    cost = make_sample(logged, target, logged.cost_usd, outcomes.cost.predictable)
    own_quality = dr_terms(make_sample(logged, logged.propensities, logged.quality, outcomes.quality.predictable))
    own_cost = dr_terms(make_sample(logged, logged.propensities, logged.cost_usd, outcomes.cost.predictable))
    change = ratio_of("DR", dr_terms(cost), own_cost)
    most = min(MOST_WEIGHT, 1.0 / floor) if floor > 0.0 else MOST_WEIGHT
    return Evaluation(
        policy=policy,
        cost_weight=cost_weight,
        support=support_of(logged, target, sampling_rate=sampling_rate, rates=rates),
        quality=all_estimates(logged, target, logged.quality, outcomes.quality),
        cost=all_estimates(logged, target, logged.cost_usd, outcomes.cost),
        logged_quality=mean_of("logged", logged.quality),
        logged_cost=mean_of("logged", logged.cost_usd),
        quality_difference=mean_of("DR", dr_terms(quality) - own_quality),
        cost_change=change._replace(value=change.value - 1.0, low=change.low - 1.0, high=change.high - 1.0),
        quality_sequence=quality_terms(logged, target, outcomes.quality.predictable, most=most).at_end(),
        difference_sequence=difference_terms(logged, target, outcomes.quality.predictable, most=most).at_end(),
        cost_sequence=asymptotic(dr_terms(cost)),
    )
