"""Guard rails beside the tests of change: the quality floor, and what a model gets while it is new."""

from __future__ import annotations

import math
from collections.abc import Mapping

from banditroute.core.drift import LEAST_OF_ARM, source_of
from banditroute.core.lifecycle import Note, utilities
from banditroute.core.pool import standing
from banditroute.core.settings import CategorySettings, SharedSettings
from banditroute.core.state import State, open_change

BELOW_AT, ABOVE_AT = 1.6448536269514722, 0.0
"""Standard errors below the floor at which an arm is held back (P = .95), and at which it is let go (P = .5)."""


def floored(state: State) -> tuple[State, list[Note]]:
    """After a refit of the pool: arms whose quality is below their category's floor with probability .95 are held back, but never
    the last one."""
    notes: list[Note] = []
    for _, settings in sorted(state.settings.categories.items()):
        if settings.quality_floor is not None:
            state = _floored(state, settings, settings.quality_floor, notes)
    return state, notes


def _floored(state: State, settings: CategorySettings, floor: float, notes: list[Note]) -> State:
    name = settings.name
    known = {model: _quality(state, name, model) for model in settings.models}
    for model in sorted(known, key=lambda model: (known[model], model)):  # where all are below, the best is left
        mean, variance = known[model]
        error = math.sqrt(variance)
        is_below = (name, model) in state.below
        about = {"model": model, "category": name, "floor": floor, "estimate": mean, "stddev": error}
        if is_below and floor - mean <= ABOVE_AT * error:
            state = state._replace(below=state.below - {(name, model)})
            notes.append(Note("above_floor", about))
        elif not is_below and floor - mean >= BELOW_AT * error and _seen(state, settings, model, floor):
            others = [each for each in settings.models if each != model]
            if any((name, each) not in state.below and (name, each) not in state.paused for each in others):
                state = state._replace(below=state.below | {(name, model)})
                notes.append(Note("below_floor", about))
    return state


def _quality(state: State, category: str, model: str) -> tuple[float, float]:
    """Mean and variance of an arm's quality, with what is known of an open change."""
    return _with_change(state, category, model, *standing(state.pool, category, model))


def _with_change(state: State, category: str, model: str, mean: float, variance: float) -> tuple[float, float]:
    key = open_change(state, category, model)
    if key is None:
        return mean, variance
    shift = state.shifts[key]
    return mean + shift.mean, variance + shift.variance_at(state.position)


def _seen(state: State, settings: CategorySettings, model: str, floor: float) -> bool:
    """Whether the arm was itself seen below the floor, as surely, and by as many sources as the category asks for: that most
    models are worse than a high floor says nothing of one that is new."""
    name = settings.name
    precision, mean = state.pool.cells.get(name, {}).get(model, (0.0, 0.0))
    if precision <= 0.0:
        return False
    mean, variance = _with_change(state, name, model, mean, 1.0 / precision)
    if floor - mean < BELOW_AT * math.sqrt(variance):
        return False
    if settings.min_sources <= 1:
        return True
    references = state.categories[name].references.get(model, {})
    low = {source_of(key) for key, each in references.items() if each.size >= LEAST_OF_ARM and each.mean < floor}
    return len(low) >= settings.min_sources


# --- new models ------------------------------------------------------------------------------------


def welcomed(state: State, former: SharedSettings) -> tuple[State, list[Note]]:
    """After a configuration: models of which nothing is known, in a log that knows others, are new for a number of looks."""
    limits = state.settings.onboarding
    newcomers = {model: looks for model, looks in state.newcomers.items() if model in state.settings.models}
    notes = []
    if state.feedback_count and limits.looks:
        for model in sorted(state.settings.models.keys() - former.models.keys()):
            if not any(model in each.cells and each.cells[model].feedback_count for each in state.categories.values()):
                newcomers[model] = 0
                about = {"model": model, "least_share": limits.min_share, "max_share": limits.max_share, "looks": limits.looks}
                notes.append(Note("onboarding", about))
    return state._replace(newcomers=newcomers), notes


def looked_at(state: State, model: str) -> tuple[State, list[Note]]:
    """One feedback on a new model later."""
    looks = state.newcomers[model] + 1
    newcomers = dict(state.newcomers)
    if looks < state.settings.onboarding.looks:
        newcomers[model] = looks
        return state._replace(newcomers=newcomers), []
    del newcomers[model]
    state = state._replace(newcomers=newcomers)
    best = [
        name for name, each in sorted(state.settings.categories.items()) if model in each.models and _best(state, each) == model
    ]
    where = f"in {len(best)} categories" if len(best) != 1 else f"in {best[0]}"
    return state, [Note("onboarded", {"model": model, "feedback_count": looks, "best_in": best, "best_where": where})]


def _best(state: State, settings: CategorySettings) -> str:
    found: Mapping[str, float] = utilities(state, settings)
    return max(sorted(found), key=found.__getitem__)
