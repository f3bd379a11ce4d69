"""What a simulation found, and the statistics of it. Intervals are Student's t over the seeds.

They cover the draw of the requests (and of the worlds) and the policies' own randomness, not the choice of the data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

ROUTER = "banditroute"
WARM, INVERTED = "banditroute-with-priors", "banditroute-with-inverted-priors"
ORACLE = "category-oracle"


class Estimate(NamedTuple):
    """A mean over seeds with half the width of its 95 % interval, which is NaN with one seed."""

    mean: float
    half: float

    def to_json(self) -> dict[str, Any]:
        """Mean and bounds; null stands for what is not defined."""
        return {"mean": defined(self.mean), "ci95": bounds(self)}


def bounds(estimate: Estimate) -> list[float] | None:
    """The interval as [low, high]; None where there is none."""
    mean, half = estimate
    return None if math.isnan(half) else [mean - half, mean + half]


def defined(value: float) -> float | None:
    """The value, or None for NaN."""
    return None if math.isnan(value) else value


def estimate(values: Sequence[float]) -> Estimate:
    """Of the mean of independent values."""
    return ratio([(value, 1.0) for value in values])


def ratio(pairs: Sequence[tuple[float, float]]) -> Estimate:
    """Of sum a / sum b over independent pairs (a, b), by linearisation (Cochran 1977, section 6.4).

    With all b = 1 it is the mean and its interval. NaN where sum b is 0.
    """
    a, b = np.array(pairs, dtype=np.float64).T
    n, total = len(pairs), float(b.sum())
    if total == 0.0:
        return Estimate(math.nan, math.nan)
    share = float(a.sum()) / total
    if n < 2:
        return Estimate(share, math.nan)
    spread = float(np.std(a - share * b, ddof=1)) / (total / n)
    return Estimate(share, float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n))


class Covered(NamedTuple):
    """Cells of one run, and those whose true quality lies in the router's 90 % interval; of all, and of those that have
    at least one observation."""

    cells: int
    covered: int
    seen: int
    seen_covered: int


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """One policy at one cost weight. Tuples run over the seeds; regret in utility summed over all requests.

    `regrets_at` has the regret after so many requests; `coverages` is empty where a policy states no beliefs.
    """

    policy: str
    regrets: tuple[float, ...]
    random_regrets: tuple[float, ...]
    mean_scores: tuple[float, ...]
    mean_costs_usd: tuple[float, ...]
    regrets_at: tuple[tuple[int, tuple[float, ...]], ...] = ()
    coverages: tuple[Covered, ...] = ()

    @property
    def regret(self) -> float:
        return float(np.mean(self.regrets))

    @property
    def regret_ci95(self) -> float:
        """Half the width of the 95 % interval; NaN with one seed."""
        return estimate(self.regrets).half

    @property
    def regret_p90(self) -> float:
        return float(np.quantile(self.regrets, 0.9))

    @property
    def share_of_random(self) -> float:
        """Regret over that of uniform random picks, in expectation on the same requests; NaN where random loses nothing."""
        expected = sum(self.random_regrets)
        return sum(self.regrets) / expected if expected > 0.0 else math.nan

    @property
    def regret_at(self) -> dict[int, float]:
        """Mean regret after so many requests, at each checkpoint."""
        return {requests: float(np.mean(regrets)) for requests, regrets in self.regrets_at}

    @property
    def coverage(self) -> Estimate:
        """Share of all cells whose true quality lies in the router's 90 % interval at the end."""
        return ratio([(run.covered, run.cells) for run in self.coverages])

    @property
    def coverage_seen(self) -> Estimate:
        """The same of the cells that have at least one observation."""
        return ratio([(run.seen_covered, run.seen) for run in self.coverages])

    def excess_over(self, other: PolicyResult) -> Estimate:
        """Regret in excess of the other's, paired by seed."""
        return estimate([mine - theirs for mine, theirs in zip(self.regrets, other.regrets, strict=True)])

    def to_json(self) -> dict[str, Any]:
        """JSON data; null stands for what is not defined."""
        told: dict[str, Any] = {
            "policy": self.policy,
            "regret_mean": self.regret,
            "regret_ci95": bounds(estimate(self.regrets)),
            "regret_p90": self.regret_p90,
            "regret_per_seed": list(self.regrets),
            "regret_at": {str(requests): regret for requests, regret in self.regret_at.items()},
            "share_of_random_regret": defined(self.share_of_random),
            "score_mean": float(np.mean(self.mean_scores)),
            "cost_mean_usd": float(np.mean(self.mean_costs_usd)),
            "coverage90": None,
        }
        if self.coverages:
            told["coverage90"] = {
                "all": self.coverage.to_json() | {"cells": sum(run.cells for run in self.coverages)},
                "observed": self.coverage_seen.to_json() | {"cells": sum(run.seen for run in self.coverages)},
            }
        return told


class PriorsEffect(NamedTuple):
    """What priors did after so many requests: mean regrets with them, and with them inverted, against without."""

    requests: int
    warm_over_cold: float
    inverted_over_cold: float
    inverted_minus_cold: float

    def to_json(self) -> dict[str, Any]:
        """JSON data; a ratio is null where the cold start lost nothing."""
        return {
            "warm_over_cold": defined(self.warm_over_cold),
            "inverted_over_cold": defined(self.inverted_over_cold),
            "inverted_minus_cold": self.inverted_minus_cold,
        }


@dataclass(frozen=True, kw_only=True)
class WeightResult:
    """All policies at one cost weight, in the order asked for."""

    cost_weight: float
    policies: tuple[PolicyResult, ...]

    def __getitem__(self, policy: str) -> PolicyResult:
        return next(result for result in self.policies if result.policy == policy)

    def __contains__(self, policy: str) -> bool:
        return any(result.policy == policy for result in self.policies)

    def excess(self, policy: PolicyResult) -> Estimate | None:
        """What the policy lost in excess of the router, paired by seed; None for the router, the oracle, and where the
        router did not run."""
        if policy.policy in (ROUTER, ORACLE) or ROUTER not in self:
            return None
        return policy.excess_over(self[ROUTER])

    @property
    def priors_effects(self) -> tuple[PriorsEffect, ...]:
        """At each checkpoint and at the end; empty where the router did not also run with priors."""
        if WARM not in self:
            return ()
        cold, warm, inverted = (self[name] for name in (ROUTER, WARM, INVERTED))
        effects = []
        for requests, base in cold.regret_at.items():
            with_them, mirrored = warm.regret_at[requests], inverted.regret_at[requests]
            over = base if base > 0.0 else math.nan
            effects.append(PriorsEffect(requests, with_them / over, mirrored / over, mirrored - base))
        return tuple(effects)

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        policies = []
        for policy in self.policies:
            excess = self.excess(policy)
            policies.append(policy.to_json() | {"vs_banditroute": None if excess is None else excess.to_json()})
        effects = {str(effect.requests): effect.to_json() for effect in self.priors_effects}
        return {"cost_weight": self.cost_weight, "policies": policies, "priors_effect": effects or None}


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What `simulate` found. Cost in USD per request; over a family of worlds the reference is their mean."""

    source: str
    models: tuple[str, ...]
    categories: tuple[str, ...]
    cost_reference_usd: float
    requests: int
    seeds: int
    with_priors: bool
    weights: tuple[WeightResult, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything in it."""
        return {
            "source": self.source,
            "models": list(self.models),
            "categories": list(self.categories),
            "cost_reference_usd": self.cost_reference_usd,
            "requests": self.requests,
            "seeds": self.seeds,
            "with_priors": self.with_priors,
            "results": [weight.to_json() for weight in self.weights],
        }
