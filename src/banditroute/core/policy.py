"""From what is believed to a choice. Read top to bottom to follow one decision:

a `View` holds one category's arms as they are believed to be at one state; `View.plan` finds who
may serve a request, what each is worth, and with which exact probability each is chosen; `draw`
draws from those probabilities, so that the logged propensity is exact by construction.

Expected utility = quality - cost_weight * c - latency_weight * latency / latency_reference, where c is
cost / cost_reference, or its logarithmic counterpart (`scaled_cost`). Among the arms whose exploration still
pays (`pays`), the policy draws utilities from independent normals N(utility, d), with the variances d of
`mixed.contrasts`; the others get the floor. Cost and latency enter by their expectation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from banditroute.core.consumption import Consumption
from banditroute.core.eligibility import exclusion
from banditroute.core.errors import NoEligibleModel
from banditroute.core.evidence import standardised
from banditroute.core.mixed import Belief, contrasts
from banditroute.core.posterior import Arms, stddevs
from banditroute.core.propensity import thompson, with_floor
from banditroute.core.settings import CategorySettings, ModelSettings
from banditroute.core.types import Candidate, Plan, Reason, RouteQuery

LOG_COST_STEEPNESS = 99.0
EXPLORATION, EXPLORATION_LOOKS = 0.5, 30
"""Draws of an arm that was judged so often are narrowed by this factor; none before that, so that no arm is
given up unseen."""
_HOPELESS = 64.0  # z^2: beyond it no horizon is long enough
_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
PLAN_CACHE_SIZE = 16


class Weights(NamedTuple):
    """The weights in force: an operator's, else the configuration's."""

    cost: float
    latency: float


class Arm(NamedTuple):
    """One arm at one state: what it can do and uses, and how often its model was looked at in any category."""

    model: ModelSettings
    consumption: Consumption
    looks: float


class Outline(NamedTuple):
    """The arms' qualities at one context, as the policy needs them: shapes (K,), (K,), (K,), (K, K).

    `mean` and `stddev` are the posterior's; `spread` the independent sds of the draws, `gaps` D_ij, the variances
    of the differences.
    """

    mean: Sequence[float]
    stddev: Sequence[float]
    spread: Sequence[float]
    gaps: Sequence[Sequence[float]]


def outline(belief: Belief, looks: Sequence[float]) -> Outline:
    """The belief as the policy needs it."""
    variances, gaps = contrasts(belief.covariance)
    spread = [
        math.sqrt(variance) * (EXPLORATION if seen >= EXPLORATION_LOOKS else 1.0)
        for variance, seen in zip(variances.tolist(), looks, strict=True)
    ]
    return Outline(belief.mean.tolist(), stddevs(belief), spread, gaps.tolist())


def scaled_cost(settings: CategorySettings, cost_usd: float) -> float:
    """Cost in references: linear, or log(1 + 99 c) / log(100), which is 0 at 0 and 1 at the reference too."""
    relative = cost_usd / settings.cost_reference_usd
    if settings.cost_scale == "linear":
        return relative
    return math.log1p(LOG_COST_STEEPNESS * relative) / math.log1p(LOG_COST_STEEPNESS)


class View:
    """One category at one state: immutable but for a cache of plans, which a race can only fill twice."""

    __slots__ = ("_mean_outline", "_plans", "_terms", "arms", "beliefs", "noises", "schema", "settings", "weights")

    def __init__(self, settings: CategorySettings, weights: Weights, arms: Sequence[Arm], beliefs: Arms) -> None:
        self.settings = settings
        self.schema = settings.schema
        self.weights = weights
        self.arms = tuple(arms)
        self.beliefs = beliefs
        self._mean_outline = outline(beliefs.belief, [arm.looks for arm in arms])
        self.noises: list[float] = beliefs.noises.tolist()
        self._terms = tuple([self._terms_of(place, arm) for place, arm in enumerate(arms)])
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

    def _terms_of(self, place: int, arm: Arm) -> tuple[int, ModelSettings, str, float, float, float, float, float, float, float]:
        """What `_plan` needs of an arm, looked up once: the last is what its latency takes from its utility, in
        quality points; nothing while it is unknown."""
        model, use, _ = arm
        delay = self.weights.latency * use.latency_s / self.settings.latency_reference_s if use.latency_s is not None else 0.0
        prices = model.input_usd_per_token, model.output_usd_per_token
        return place, model, model.name, use.input_tokens, use.output_tokens, *prices, use.cost_ratio, use.unpriced_usd, delay

    def outline(self, query: RouteQuery) -> Outline:
        """The arms' qualities at the query's context."""
        features = self.settings.features
        if not features or not query.features:
            return self._mean_outline
        return outline(self.beliefs.at(standardised(query.features, features)), [arm.looks for arm in self.arms])

    def _plan(self, query: RouteQuery) -> Plan:
        settings, cost_weight = self.settings, self.weights.cost
        linear = settings.cost_scale == "linear"
        rate = cost_weight / settings.cost_reference_usd
        free = query[4:8] == _UNCONSTRAINED
        asked_in, asked_out = query.input_tokens, query.output_tokens
        seen = self.outline(query)
        ranked = []
        excluded: dict[int, Candidate] = {}
        means, deviations = seen.mean, seen.stddev
        for place, model, name, into, out, in_price, out_price, ratio, unpriced, delay in self._terms:
            if asked_in is not None:
                into = asked_in
            if asked_out is not None:
                out = asked_out
            mean, stddev = means[place], deviations[place]
            computed = into * in_price + out * out_price
            cost = computed * ratio if computed > 0.0 else unpriced
            worth = mean - (rate * cost if linear else cost_weight * scaled_cost(settings, cost)) - delay
            if not free or model.context_token_limit is not None:
                why = exclusion(model, query, input_tokens=into, output_tokens=out, expected_cost_usd=cost)
                if why is not None:
                    excluded[place] = Candidate(name, why, mean, stddev, cost, worth, 0.0)
                    continue
            ranked.append((-worth, place, name, mean, stddev, cost, computed))
        if not ranked:
            raise NoEligibleModel(
                settings.name, {row.model: str(row.exclusion and row.exclusion.name) for row in excluded.values()}
            )
        ranked.sort()
        pure = self._shares([-entry[0] for entry in ranked], [entry[1] for entry in ranked], seen)
        shares = with_floor(pure, settings.propensity_floor)
        eligible = tuple(
            [
                Candidate(name, None, mean, stddev, cost, -loss, share)
                for (loss, _, name, mean, stddev, cost, _), share in zip(ranked, shares, strict=True)
            ]
        )
        rows = dict(excluded)
        for entry, candidate in zip(ranked, eligible, strict=True):
            rows[entry[1]] = candidate
        return Plan(
            models=tuple([entry[2] for entry in ranked]),
            propensities=tuple(shares),
            eligible=eligible,
            candidates=tuple([rows[place] for place in range(len(self.arms))]),
            computed_costs_usd=tuple([entry[6] for entry in ranked]),
            unfloored=tuple(pure),
        )

    def _shares(self, worths: Sequence[float], places: Sequence[int], seen: Outline) -> list[float]:
        """Thompson's shares among the arms whose exploration still pays; best first, as `places` are."""
        best, noises = places[0], self.noises
        horizon = self.settings.planning_horizon_count
        top, differences = worths[0], seen.gaps[best]
        open_arms = [0]
        for i in range(1, len(places)):
            place = places[i]
            gap, difference = top - worths[i], max(differences[place], 1e-14)
            if gap * gap <= _HOPELESS * difference and pays(gap, difference, noise=noises[place], horizon=horizon):
                open_arms.append(i)
        if len(open_arms) == 1:
            return [1.0, *[0.0] * (len(places) - 1)]
        shares = [0.0] * len(places)
        drawn = thompson([worths[i] for i in open_arms], [seen.spread[places[i]] for i in open_arms])
        for i, share in zip(open_arms, drawn, strict=True):
            shares[i] = share
        return shares


_UNCONSTRAINED = RouteQuery(category="")[4:8]


def pays(gap: float, difference: float, *, noise: float, horizon: float) -> bool:
    """Whether trying an arm once more can still pay within the horizon: psi(z) / z >= n / horizon.

    With z = gap / sqrt(D) and psi(z) = phi(z) - z Phi(-z), the expected gain of learning the difference is
    sqrt(D) psi(z) for each request still to come; looking costs `gap`, and n = noise / D looks are what the belief
    about the difference already amounts to.

    Args:
        gap: expected utility of the best arm less this one's, >= 0.
        difference: D, the variance of the difference between the two, > 0.
        noise: variance of one observation.
        horizon: requests of the category that remain to be served with what is learned.
    """
    z = gap / math.sqrt(difference)
    psi = math.exp(-0.5 * z * z) * _INV_SQRT_2PI - z * 0.5 * math.erfc(z * _SQRT_HALF)
    return psi * horizon * difference >= noise * z


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
