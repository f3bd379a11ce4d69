"""From what is believed to a choice. Read top to bottom to follow one decision:

a `View` holds one category's arms as they are believed to be at one state; `View.plan` finds who
may serve a request, what each is worth, and with which exact probability each is chosen; `draw`
draws from those probabilities, so that the logged propensity is exact by construction.

Expected utility = quality - cost_weight * c - latency_weight * latency / latency_reference, where c is
cost / cost_reference, or its logarithmic counterpart (`scaled_cost`). The policy draws utilities from
independent normals N(utility, quality variance): cost and latency enter by their expectation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from banditroute.core.eligibility import exclusion
from banditroute.core.errors import NoEligibleModel
from banditroute.core.evidence import standardised
from banditroute.core.posterior import Consumption, Posterior
from banditroute.core.propensity import thompson, with_floor
from banditroute.core.settings import CategorySettings, ModelSettings
from banditroute.core.types import Candidate, Plan, Reason, RouteQuery

LOG_COST_STEEPNESS = 99.0
PLAN_CACHE_SIZE = 16


class Weights(NamedTuple):
    """The weights in force: an operator's, else the configuration's."""

    cost: float
    latency: float


class Arm(NamedTuple):
    """One arm at one state. `quality_mean` and `quality_stddev` are at the mean context."""

    model: ModelSettings
    posterior: Posterior
    consumption: Consumption
    quality_mean: float
    quality_stddev: float


def scaled_cost(settings: CategorySettings, cost_usd: float) -> float:
    """Cost in references: linear, or log(1 + 99 c) / log(100), which is 0 at 0 and 1 at the reference too."""
    relative = cost_usd / settings.cost_reference_usd
    if settings.cost_scale == "linear":
        return relative
    return math.log1p(LOG_COST_STEEPNESS * relative) / math.log1p(LOG_COST_STEEPNESS)


class View:
    """One category at one state: immutable but for a cache of plans, which a race can only fill twice."""

    __slots__ = ("_delays", "_plans", "arms", "schema", "settings", "weights")

    def __init__(self, settings: CategorySettings, weights: Weights, arms: Sequence[Arm]) -> None:
        self.settings = settings
        self.schema = settings.schema
        self.weights = weights
        self.arms = tuple(arms)
        self._delays = tuple([self._delay(arm.consumption.latency_s) for arm in arms])
        self._plans: dict[tuple[object, ...], Plan] = {}

    def plan(self, query: RouteQuery) -> Plan:
        """Everything about the answer to `query` but the draw.

        Raises:
            NoEligibleModel: no arm may serve; says why for each.
        """
        features = query.features
        if features:
            return self._plan(query)
        key = query[2:8]  # what can differ between two requests without features
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(query)
            if len(self._plans) >= PLAN_CACHE_SIZE:
                self._plans = {}
            self._plans[key] = plan
        return plan

    def _delay(self, latency_s: float | None) -> float:
        """What an arm's latency takes from its utility, in quality points; nothing while it is unknown."""
        return self.weights.latency * latency_s / self.settings.latency_reference_s if latency_s is not None else 0.0

    def _plan(self, query: RouteQuery) -> Plan:
        settings, cost_weight = self.settings, self.weights.cost
        linear = settings.cost_scale == "linear"
        rate = cost_weight / settings.cost_reference_usd
        free = query[4:8] == _UNCONSTRAINED
        asked_in, asked_out = query.input_tokens, query.output_tokens
        z = standardised(query.features, settings.features) if settings.features else ()
        ranked = []
        excluded: dict[int, Candidate] = {}
        for place, arm in enumerate(self.arms):
            model, belief, use, mean, stddev = arm
            if z:
                mean, stddev = quality(belief, z)
            into = use.input_tokens if asked_in is None else asked_in
            out = use.output_tokens if asked_out is None else asked_out
            computed = into * model.input_usd_per_token + out * model.output_usd_per_token
            cost = computed * use.cost_ratio if computed > 0.0 else use.unpriced_usd
            worth = mean - (rate * cost if linear else cost_weight * scaled_cost(settings, cost)) - self._delays[place]
            if not free or model.context_token_limit is not None:
                why = exclusion(model, query, input_tokens=into, output_tokens=out, expected_cost_usd=cost)
                if why is not None:
                    excluded[place] = Candidate(model.name, why, mean, stddev, cost, worth, 0.0)
                    continue
            ranked.append((-worth, place, model.name, mean, stddev, cost, computed))
        if not ranked:
            raise NoEligibleModel(
                settings.name, {row.model: str(row.exclusion and row.exclusion.name) for row in excluded.values()}
            )
        ranked.sort()
        pure = thompson([-entry[0] for entry in ranked], [entry[4] for entry in ranked])
        shares = with_floor(pure, settings.propensity_floor)
        eligible = tuple(
            [
                Candidate(name, None, mean, stddev, cost, -loss, share)
                for (loss, _, name, mean, stddev, cost, _), share in zip(ranked, shares, strict=True)
            ]
        )
        rows = excluded | {entry[1]: candidate for entry, candidate in zip(ranked, eligible, strict=True)}
        return Plan(
            models=tuple([entry[2] for entry in ranked]),
            propensities=tuple(shares),
            eligible=eligible,
            candidates=tuple([rows[place] for place in range(len(self.arms))]),
            computed_costs_usd=tuple([entry[6] for entry in ranked]),
            unfloored=tuple(pure),
        )


_UNCONSTRAINED = RouteQuery(category="")[4:8]


def quality(belief: Posterior, z: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of an arm's quality at context z, shape (d,)."""
    value = variance = 0.0
    for z_i, mean_i, row in zip(z, belief.mean, belief.covariance, strict=True):
        value += z_i * mean_i
        inner = 0.0
        for z_j, covariance in zip(z, row, strict=True):
            inner += z_j * covariance
        variance += z_i * inner
    return value, math.sqrt(max(variance, 0.0))


def draw(plan: Plan, uniform: float) -> int:
    """The index of the drawn model in the plan's order, by inversion of `uniform` in [0, 1)."""
    total = 0.0
    for i, share in enumerate(plan.propensities):
        total += share
        if uniform < total:
            return i
    return max(range(len(plan.propensities)), key=plan.propensities.__getitem__)


def keyed_draw(plan: Plan, key: bytes) -> int:
    """A draw from the same probabilities that `key` decides.

    An exponential race: arm i wins with -log(u_i) / p_i smallest, which has probability p_i. Each u_i is
    a hash of key and model, so a small change of the probabilities seldom changes the winner.
    """
    best, winner = math.inf, 0
    for i, (model, share) in enumerate(zip(plan.models, plan.propensities, strict=True)):
        digest = hashlib.blake2b(model.encode(), key=key, digest_size=8).digest()
        uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
        clock = -math.log(uniform) / share if share > 0.0 else math.inf
        if clock < best:
            best, winner = clock, i
    return winner


def reason(plan: Plan, choice: int) -> Reason:
    """Why that model: see `Reason`."""
    if len(plan.models) == 1:
        return Reason.ONLY_ELIGIBLE
    if choice == 0:
        return Reason.BEST
    return Reason.FLOOR if plan.unfloored[choice] < plan.propensities[choice] else Reason.EXPLORATION


def share_at_mean(view: View) -> Mapping[str, Candidate]:
    """Each arm at the mean context, with the learned tokens and no constraint: what people are shown."""
    plan = view.plan(RouteQuery(category=view.settings.name))
    return {candidate.model: candidate for candidate in plan.candidates}
