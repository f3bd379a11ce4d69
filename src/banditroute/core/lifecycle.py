"""What may become of each arm's traffic, and why: read from the state, as people and the policy want it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from banditroute.core.consumption import consumptions, usuals
from banditroute.core.numerics import log
from banditroute.core.pool import standing
from banditroute.core.settings import LOG_COST_STEEPNESS, CategorySettings
from banditroute.core.state import State, open_change, scope, usage_factor
from banditroute.core.types import Lifecycle


class Note(NamedTuple):
    """A line for the journal."""

    kind: str
    body: Mapping[str, Any]


def lifecycle(state: State, category: str, model: str) -> Lifecycle:
    """Of one arm."""
    if (category, model) in state.paused:
        return Lifecycle.DISABLED
    if (category, model) in state.below:
        return Lifecycle.DEMOTED
    key = open_change(state, category, model)
    shift = state.shifts[key] if key else None
    if shift is None or category not in shift.demoted:
        return Lifecycle.ONBOARDING if model in state.newcomers else Lifecycle.LIVE
    return Lifecycle.PROBING if shift.probing else Lifecycle.DEMOTED


def lifecycle_reason(state: State, category: str, model: str) -> str:
    """Why an arm is not live, or what is known to have changed about it, in one sentence; empty where there is nothing."""
    if (category, model) in state.paused:
        return "paused by an operator"
    if (category, model) in state.below:
        return f"below the category's quality floor of {state.settings.categories[category].quality_floor:g}"
    key = open_change(state, category, model)
    if key is None:
        looks = state.newcomers.get(model)
        return "" if looks is None else f"new: {looks} of {state.settings.onboarding.looks} first looks"
    shift = state.shifts[key]
    where = "in this category" if scope(key)[1] else "in all categories"
    change = f"{'better' if shift.mean > 0.0 else 'worse'} than it was by {abs(shift.mean):.3f} ± {math.sqrt(shift.variance):.3f}"
    text = f"{change} {where} since position {shift.start + 1} ({shift.size} feedbacks)"
    if shift.up:
        return text
    if category not in shift.demoted:
        return f"{text}, but no rival is better"
    found = shift.recovery
    return f"{text}; evidence of recovery {found.evidence:.2g} of {found.needed:g}"


def utilities(state: State, settings: CategorySettings) -> dict[str, float]:
    """What the fold takes each arm of a category to be worth, by model, with open changes."""
    name = settings.name
    category = state.categories[name]
    layer = state.overrides.get(name, {})
    cost_weight = layer.get("cost_weight", settings.cost_weight)
    latency_weight = layer.get("latency_weight", settings.latency_weight)
    priors = [state.settings.prior(name, model) for model in settings.models]
    cells = [category.cells[model] for model in settings.models]
    used = consumptions(cells, factor=usage_factor(category), usuals=usuals(settings, state.pool, priors))
    found = {}
    for model, use in zip(settings.models, used, strict=True):
        computed = state.settings.models[model].list_cost_usd(use.input_tokens, use.output_tokens)
        relative = (computed * use.cost_ratio if computed > 0.0 else use.unpriced_usd) / settings.cost_reference_usd
        if settings.cost_scale == "log":
            relative = log(1.0 + LOG_COST_STEEPNESS * relative) / log(1.0 + LOG_COST_STEEPNESS)
        worth = standing(state.pool, name, model)[0] - cost_weight * relative
        if use.latency_s is not None:
            worth -= latency_weight * use.latency_s / settings.latency_reference_s
        key = open_change(state, name, model)
        found[model] = worth + (state.shifts[key].mean if key else 0.0)
    return found
