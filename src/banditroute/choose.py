"""The choice itself: a plan, a draw from it, and what its feedback will have to say. Servers and simulations share it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import NamedTuple

from banditroute.core.policy import View, draw, keyed_draw
from banditroute.core.types import Plan, RouteQuery
from banditroute.snapshot import Snapshot
from banditroute.tokens import DecisionToken, uuid7


class Choice(NamedTuple):
    """A draw, not signed yet: the plan, the drawn model's place in it, and the decision for its id."""

    plan: Plan
    place: int
    token: DecisionToken


def chosen(
    query: RouteQuery,
    snapshot: Snapshot,
    view: View,
    *,
    in_flight: Mapping[str, int],
    now: float,
    rng: random.Random,
    log_id: str,
) -> Choice:
    """A choice for a checked query from its category's `view` in `snapshot`.

    Args:
        in_flight: see `View.plan`.
        now: Unix seconds.

    Raises:
        NoEligibleModel
    """
    broken = snapshot.broken(int(now * 1e6)) if snapshot.tripped else None
    plan = view.plan(query, in_flight, broken)
    if query.request_key:
        key = f"{log_id}\0{query.category}\0{query.request_key}"
        place = keyed_draw(plan, hashlib.sha256(key.encode()).digest())
    else:
        place = draw(plan, rng.random())
    decision = uuid7(int(now * 1000.0), rng.getrandbits(74))
    drawn, features, declared = plan.eligible[place], query.features, view.settings.features
    token = DecisionToken(
        decision,
        query.category,
        drawn.model,
        drawn.propensity,
        drawn.quality_mean,
        drawn.expected_cost_usd,
        plan.computed_costs_usd[place],
        query.input_tokens,
        snapshot.state.position,
        view.schema,
        tuple([features.get(f.name, f.mean) for f in declared]) if declared else (),
    )
    return Choice(plan, place, token)
