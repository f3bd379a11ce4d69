"""From what is believed to a choice. Read top to bottom to follow one decision:

a `View` holds one category's arms as they are believed to be at one state; `View.plan` finds who
may serve a request, what each is worth, and with which exact probability each is chosen; `draw`
draws from those probabilities, so that the logged propensity is exact by construction.

Expected utility = quality - cost_weight * c - latency_weight * latency / latency_reference, where c is
cost / cost_reference, or its logarithmic counterpart (`scaled_cost`). Among the arms whose exploration still
pays (`looks_left`), the policy draws utilities from independent normals around them, as wide as what the next looks can tell
(`outline`); the others get the floor. Cost and latency enter by their expectation.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from banditroute.core.breaker import Broken
from banditroute.core.consumption import Consumption
from banditroute.core.eligibility import exclusion
from banditroute.core.errors import NoEligibleModel
from banditroute.core.evidence import standardised
from banditroute.core.mixed import Belief, Matrix, contrasts
from banditroute.core.posterior import Arms, stddevs
from banditroute.core.propensity import thompson, with_floor
from banditroute.core.settings import LOG_COST_STEEPNESS, CategorySettings, ModelSettings, Onboarding
from banditroute.core.types import Candidate, Exclusion, Lifecycle, Plan, Reason, RouteQuery

IN_FLIGHT_LOOK = 0.5
"""What a decision in flight counts of a look: its feedback may be late, or never come."""
_HOPELESS = 64.0  # z^2: beyond it no horizon is long enough
_EQUAL, _LEAST_DIFFERENCE = 1e-9, 1e-14
_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
PLAN_CACHE_SIZE = 16
RECOVERIES, LEAST_PROBES, MOST_PROBES, MOST_ALL_PROBES = 1.0 / 2000.0, 0.02, 0.3, 0.5
"""How likely a demoted arm is to recover at a request; its least and most share of probes, and the most of all together."""
LEAST_PROOF, PROOF_ERRORS = 8.0, 3.0
"""Probes that tell a recovery: so many, or as many as make the shift so many standard errors of their mean."""
MOST_ALL_TRIALS = 0.4
"""The most share of all models together whose breaker is half open."""
_NONE: Mapping[str, int] = {}


class Weights(NamedTuple):
    """The weights in force: an operator's, else the configuration's."""

    cost: float
    latency: float


class Arm(NamedTuple):
    """One arm at one state: what it can do and what it uses."""

    model: ModelSettings
    consumption: Consumption
    lifecycle: Lifecycle = Lifecycle.LIVE
    recovery: float = 1.0
    """Evidence (e-value) that a demoted arm is again what it was; 0 for one that is below its floor."""
    shift: float = 0.0
    """By how much it is better than it was."""


class Outline(NamedTuple):
    """The arms' qualities at one context, as the policy needs them: shapes (K,), (K,), (K,), (K, K).

    `mean`, `stddev` and `covariance` are the posterior's; `spread` the independent sds of the draws.
    """

    mean: Sequence[float]
    stddev: Sequence[float]
    spread: Sequence[float]
    covariance: Matrix


def outline(belief: Belief, later: Matrix) -> Outline:
    """The belief as the policy needs it.

    Draws vary by what the next looks can tell, not by all that is unknown: by the variance that the posterior mean would
    have after `LOOKAHEAD` more looks at every arm of every category, V - V' (preposterior analysis, Raiffa and
    Schlaifer 1961, chapter 5). An arm that is hardly known gets nearly all of its variance, so none is given up unseen;
    one whose noise hides what is left to learn gets little.
    """
    spread = [math.sqrt(told) for told in contrasts(belief.covariance - later)]
    return Outline(belief.mean.tolist(), stddevs(belief), spread, belief.covariance)


def scaled_cost(settings: CategorySettings, cost_usd: float) -> float:
    """Cost in references: linear, or log(1 + 99 c) / log(100), which is 0 at 0 and 1 at the reference too."""
    relative = cost_usd / settings.cost_reference_usd
    if settings.cost_scale == "linear":
        return relative
    return math.log1p(LOG_COST_STEEPNESS * relative) / math.log1p(LOG_COST_STEEPNESS)


class View:
    """One category at one state: immutable but for what is worked out when first asked for, which a race can only do twice."""

    __slots__ = (
        "_mean_outline",
        "_onboarding",
        "_plans",
        "_unheld",
        "arms",
        "beliefs",
        "noises",
        "schema",
        "settings",
        "weights",
    )

    def __init__(
        self,
        settings: CategorySettings,
        weights: Weights,
        arms: Sequence[Arm],
        beliefs: Arms,
        onboarding: Onboarding = Onboarding(),  # noqa: B008 - a constant
    ) -> None:
        self.settings = settings
        self.schema = settings.schema
        self.weights = weights
        self.arms = tuple(arms)
        self.beliefs = beliefs
        self._onboarding = onboarding
        self._mean_outline: Outline | None = None
        self._unheld = all(arm.lifecycle is Lifecycle.LIVE for arm in self.arms)
        self.noises: list[float] = beliefs.noises.tolist()
        self._plans: dict[tuple[object, ...], tuple[Plan, dict[tuple[str, ...], Plan]]] = {}

    def plan(self, query: RouteQuery, in_flight: Mapping[str, int] = _NONE, broken: Broken | None = None) -> Plan:
        """Everything about the answer to `query` but the draw.

        Args:
            in_flight: by model, decisions of this category whose quality is not known yet.
            broken: the models whose breakers are not closed now; None: there are none.

        Raises:
            NoEligibleModel: no arm may serve; says why for each.
        """
        if query.features:
            return self._plan(query, in_flight, broken)
        key: tuple[object, ...] = query[2:8]  # what can differ between two requests without features
        if broken is not None:
            key += (broken,)
        known = self._plans.get(key)
        if known is not None:
            found = known[1].get(_awaited(known[0], in_flight))
            if found is not None:
                return found
        plan = self._plan(query, in_flight, broken)
        if known is None:
            if len(self._plans) >= PLAN_CACHE_SIZE:
                self._plans = {}
            known = self._plans[key] = plan, {}
        if len(known[1]) >= PLAN_CACHE_SIZE:
            known[1].clear()
        known[1][_awaited(plan, in_flight)] = plan
        return plan

    def outline(self, query: RouteQuery) -> Outline:
        """The arms' qualities at the query's context."""
        features = self.settings.features
        if features and query.features:
            return outline(*self.beliefs.at(standardised(query.features, features)))
        if self._mean_outline is None:
            self._mean_outline = outline(*self.beliefs.at(standardised({}, features)))
        return self._mean_outline

    def _plan(self, query: RouteQuery, in_flight: Mapping[str, int], broken: Broken | None) -> Plan:
        settings, cost_weight = self.settings, self.weights.cost
        linear = settings.cost_scale == "linear"
        rate = cost_weight / settings.cost_reference_usd
        free = query[4:8] == _UNCONSTRAINED
        asked_in, asked_out = query.input_tokens, query.output_tokens
        seen = self.outline(query)
        delay_weight = self.weights.latency / settings.latency_reference_s
        ranked: list[_Ranked] = []
        excluded: dict[int, Candidate] = {}
        for place, ((model, use, life, _, _), mean, stddev) in enumerate(zip(self.arms, seen.mean, seen.stddev, strict=True)):
            name, in_price, out_price, _, token_limit, _ = model
            into, out, ratio, unpriced, latency = use
            if asked_in is not None:
                into = asked_in
            if asked_out is not None:
                out = asked_out
            computed = into * in_price + out * out_price
            cost = computed * ratio if computed > 0.0 else unpriced
            worth = mean - (rate * cost if linear else cost_weight * scaled_cost(settings, cost))
            if latency is not None:
                worth -= delay_weight * latency
            if not free or token_limit is not None or life is Lifecycle.DISABLED:
                why = exclusion(model, query, life, input_tokens=into, output_tokens=out, expected_cost_usd=cost)
                if why is not None:
                    excluded[place] = Candidate(name, why, mean, stddev, cost, worth, 0.0, life)
                    continue
            ranked.append((-worth, place, name, mean, stddev, cost, computed, life))
        if not ranked:
            raise NoEligibleModel(
                settings.name, {row.model: str(row.exclusion and row.exclusion.name) for row in excluded.values()}
            )
        ranked.sort()
        if not self._unheld:  # what is below its floor is the last resort
            ranked.sort(key=lambda row: row[-1] is Lifecycle.DEMOTED and self.arms[row[1]].recovery == 0.0)
        trials: list[float] = []
        if broken is not None:
            ranked, trials = _set_apart(ranked, broken, excluded)
        losses, places, names, means, deviations, costs, computed_costs, lives = zip(*ranked, strict=True)
        worths = [-loss for loss in losses]
        patience = self._patience(worths, places, seen)
        sound = len(ranked) - len(trials)
        probes = {} if self._unheld else self._probes(worths[:sound], places[:sound])
        if trials:
            probes = probes | dict(enumerate(trials, start=sound))
        waiting = in_flight.get
        tried = [i for i, most in enumerate(patience) if most >= waiting(names[i], 0) and i not in probes]
        pure = [0.0] * len(ranked)
        if len(tried) == 1:
            pure[tried[0]] = 1.0
        else:
            spread = seen.spread
            for i, share in zip(tried, thompson([worths[i] for i in tried], [spread[places[i]] for i in tried]), strict=True):
                pure[i] = share
        floor = settings.propensity_floor
        shares = with_probes(pure, floor, probes) if probes else with_floor(pure, floor)
        if not self._unheld:
            looks = self._first_looks(shares, lives, probes)
            if looks:
                shares = with_probes(pure, floor, probes | looks)
        columns = names, itertools.repeat(None), means, deviations, costs, worths, shares, lives
        eligible = tuple(map(Candidate._make, zip(*columns, strict=False)))
        rows = excluded | dict(zip(places, eligible, strict=True))
        return Plan(
            models=names,
            propensities=tuple(shares),
            eligible=eligible,
            candidates=tuple([rows[place] for place in range(len(rows))]),
            computed_costs_usd=computed_costs,
            unfloored=tuple(pure),
            patience=tuple([most if most >= 0.0 and i not in probes else math.inf for i, most in enumerate(patience)]),
            trial_count=len(trials),
        )

    def _probes(self, worths: Sequence[float], places: Sequence[int]) -> dict[int, float]:
        """The shares of demoted arms that a live one beats, by rank (`probe_share`), times the evidence of recovery. That is
        at most 1 in expectation while nothing recovers, so what probes cost stays. Where none is live all serve, but those
        below their floor only if there are no others."""
        held = [self.arms[place] for place in places]
        if all(arm.recovery == 0.0 for arm in held):
            return {}
        best = next((worth for worth, arm in zip(worths, held, strict=True) if arm.lifecycle not in _PROBED), -math.inf)
        found = {}
        for i, (worth, arm) in enumerate(zip(worths, held, strict=True)):
            if arm.lifecycle in _PROBED and (worth < best or arm.recovery == 0.0):
                usual = probe_share(best - worth, shift=arm.shift, noise=self.noises[places[i]])
                found[i] = min(MOST_PROBES, max(LEAST_PROBES, usual * arm.recovery))
        total = sum(found.values())
        return {i: share * min(1.0, MOST_ALL_PROBES / total) for i, share in found.items()}

    def _first_looks(self, shares: Sequence[float], lives: Sequence[Lifecycle], probes: Mapping[int, float]) -> dict[int, float]:
        """The shares of new models, by rank, where some would have less or more than new models get."""
        new = [i for i, life in enumerate(lives) if life is Lifecycle.ONBOARDING and i not in probes]
        known = len(shares) - len(new) - len(probes)
        if not new or known < 1:
            return {}
        left = 1.0 - sum(probes.values())
        _, least, most = self._onboarding
        least, most = [min(bound, MOST_ALL_PROBES * left / len(new)) for bound in (least, most)]
        bounded = {i: min(most, max(least, shares[i])) for i in new}
        return bounded if any(shares[i] != share for i, share in bounded.items()) else {}

    def _patience(self, worths: Sequence[float], places: Sequence[int], seen: Outline) -> list[float]:
        """How many looks in flight each arm bears, best first, as `places` are; below 0: exploring it does not pay at all."""
        noises, horizon = self.noises, self.settings.planning_horizon_count
        best = places[0]
        own: list[float] = seen.covariance.diagonal().tolist()
        shared: list[float] = seen.covariance[best].tolist()
        patience = [math.inf]
        top, known = worths[0], own[best]
        for worth, place in zip(worths[1:], places[1:], strict=True):
            gap = top - worth
            # What comparing the two is unsure of.
            difference = max(known + own[place] - 2.0 * shared[place], _LEAST_DIFFERENCE)
            left = -1.0
            if gap * gap <= _HOPELESS * difference:
                left = looks_left(gap, difference, noise=noises[place], horizon=horizon)
            patience.append(left / IN_FLIGHT_LOOK)
        return patience


_Ranked = tuple[float, int, str, float, float, float, float, Lifecycle]
"""An arm that may serve: utility less than none, place, name, quality's mean and deviation, cost, computed cost, lifecycle."""


def _set_apart(ranked: list[_Ranked], broken: Broken, excluded: dict[int, Candidate]) -> tuple[list[_Ranked], list[float]]:
    """The arms without those whose breaker is open, which join `excluded`, and those on trial last; the shares of the latter.

    Where nothing else is left, what is broken serves as if it were not.
    """
    left = [row for row in ranked if row[2] not in broken.open]
    if not left:
        return ranked, []
    for loss, place, name, mean, stddev, cost, _, life in ranked:
        if name in broken.open:
            excluded[place] = Candidate(name, Exclusion.BREAKER_OPEN, mean, stddev, cost, -loss, 0.0, life)
    shares = dict(broken.trials)
    trials = [row for row in left if row[2] in shares]
    if not trials or len(trials) == len(left):
        return left, []
    scale = min(1.0, MOST_ALL_TRIALS / sum([shares[row[2]] for row in trials]))
    return [row for row in left if row[2] not in shares] + trials, [shares[row[2]] * scale for row in trials]


def probe_share(gap: float, *, shift: float, noise: float) -> float:
    """The share of requests to probe a demoted arm with: sqrt(h n G / D) within limits.

    At a share p probes cost p D a request, and a recovery, which comes with probability h, is found n / p requests late,
    at a loss of G each: p D + h G n / p is least there.

    Args:
        gap: D, utility of the best arm less this one's now.
        shift: by how much it is worse than it was, below 0; were it back, it would be ahead by G = -shift - gap.
        noise: variance of one value.
    """
    gap, lead = max(gap, _EQUAL), -shift - gap
    proof = max(LEAST_PROOF, PROOF_ERRORS * PROOF_ERRORS * noise / max(shift * shift, _EQUAL))
    return min(MOST_PROBES, max(LEAST_PROBES, math.sqrt(max(0.0, RECOVERIES * proof * lead / gap))))


def with_probes(pure: Sequence[float], floor: float, probes: Mapping[int, float]) -> list[float]:
    """Shares of which those in `probes`, by index, are fixed; the others' are `pure` above the floor, and share the rest."""
    live = [i for i in range(len(pure)) if i not in probes]
    wanted = [pure[i] for i in live]
    total = sum(wanted)
    wanted = [share / total for share in wanted] if total > 0.0 else [1.0] + [0.0] * (len(live) - 1)  # the best of them
    rest = 1.0 - sum(probes.values())
    shares = [probes.get(i, 0.0) for i in range(len(pure))]
    for i, share in zip(live, with_floor(wanted, floor), strict=True):
        shares[i] = share * rest
    return shares


_PROBED = (Lifecycle.DEMOTED, Lifecycle.PROBING)
_UNCONSTRAINED = RouteQuery(category="")[4:8]


def _awaited(plan: Plan, in_flight: Mapping[str, int]) -> tuple[str, ...]:
    """The models of which enough is in flight."""
    if not in_flight:
        return ()
    return tuple([name for name, most in zip(plan.models, plan.patience, strict=True) if in_flight.get(name, 0) > most])


def looks_left(gap: float, difference: float, *, noise: float, horizon: float) -> float:
    """How many more looks at an arm can pay within the horizon, H psi(z) / z - n; below 0: not one.

    With z = gap / sqrt(D) and psi(z) = phi(z) - z Phi(-z), the expected gain of learning the difference is
    sqrt(D) psi(z) for each request still to come; looking costs `gap`, and n = noise / D looks are what the belief
    about the difference already amounts to (the knowledge gradient's trade, Frazier, Powell and Dayanik 2008).

    Args:
        gap: expected utility of the best arm less this one's, >= 0.
        difference: D, the variance of the difference between the two, > 0.
        noise: variance of one observation.
        horizon: requests of the category that remain to be served with what is learned.
    """
    z = gap / math.sqrt(difference)
    if z < _EQUAL:
        return math.inf
    psi = math.exp(-0.5 * z * z) * _INV_SQRT_2PI - z * 0.5 * math.erfc(z * _SQRT_HALF)
    return psi * horizon / z - noise / difference


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
    if choice >= len(plan.models) - plan.trial_count:
        return Reason.PROBE
    if plan.unfloored[choice] == 0.0 and plan.eligible[choice].lifecycle is not Lifecycle.LIVE:
        return Reason.PROBE if plan.eligible[choice].lifecycle in _PROBED else Reason.EXPLORATION
    return Reason.FLOOR if plan.unfloored[choice] < plan.propensities[choice] else Reason.EXPLORATION


def share_at_mean(view: View, broken: Broken | None = None) -> Mapping[str, Candidate]:
    """Each arm at the mean context, with the learned tokens and no constraint: what people are shown."""
    plan = view.plan(RouteQuery(category=view.settings.name), broken=broken)
    return {candidate.model: candidate for candidate in plan.candidates}
