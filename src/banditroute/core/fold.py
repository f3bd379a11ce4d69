"""The fold: `learn(state, event) -> state, transitions`. All that banditroute knows is the fold of its log.

Pure and deterministic: the same events give the same state bit for bit, whatever the batching and
wherever it is restarted. Total: an event of a known kind that cannot be applied is counted, listed in
the journal and skipped, identically everywhere; it never raises. `append_time_us` is the only clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from banditroute.core.change import Told, cleaned, ended_with, forgotten, reviewed, rewarded, watched
from banditroute.core.errors import FoldHalted
from banditroute.core.evidence import (
    REBASE_HALF_LIVES,
    USAGE_AGEING_COUNT,
    Ageing,
    Cell,
    add_usage,
    empty_cell,
    finite,
    remapped,
    scaled,
    standardised,
    usage_of,
)
from banditroute.core.guards import floored, looked_at, welcomed
from banditroute.core.health import heard
from banditroute.core.lifecycle import Note
from banditroute.core.numerics import exp2, exp2s
from banditroute.core.pool import Pool, refresh_means, refresh_variances
from banditroute.core.reward import SEPARATOR, fuse
from banditroute.core.settings import number, parse_shared
from banditroute.core.sights import Columns
from banditroute.core.state import CategoryState, State, half_lives, present_factor, usage_half_lives
from banditroute.core.types import Event, EventKind, Transition

FOLD_VERSION = 5
"""Raised whenever the same events would give another state. An event is folded by the rules of the version that it is stamped
with, or of the oldest that this build still has: on a shared log all replicas change at the same event."""
OLDEST_FOLD_VERSION = 5
"""Checkpoints of an older version are not used: the log is folded again from its start."""

MEANS_EVERY, VARIANCES_EVERY = 64, 1024
YOUNG, MEANS_EVERY_YOUNG = 1024, 8
"""Up to this position everything is news: means are refreshed more often, variances at 8, 16, 32 ... 512. A configuration
refreshes both, since it may bring priors."""
ARM_ACTIONS = ("pause_arm", "resume_arm", "reset_arm")
"""What operators do to arms; all that is compared with them is compared anew at once."""
OVERRIDABLE = ("cost_weight", "latency_weight")
MAX_WEIGHT = 100.0
_BAD_EVENT = (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError)


Folded = tuple[State, Sequence[Note]]

_NEVER_FED = CategoryState({}, {}, 0, 0, (), Ageing(None, None), 0)


def learn(state: State, event: Event, columns: Columns | None = None) -> tuple[State, tuple[Transition, ...]]:
    """The state after `event`, and what the journal should keep of it.

    Args:
        columns: the caller's, used for one event after the other, so that refits read only what changed since the
            last one. The result is the same without.

    Raises:
        FoldHalted: the event is of a kind, or of a fold version, that this version does not know; the
            reader must stop there, since skipping it would make replicas differ.
    """
    apply = _KINDS.get(event.kind)
    if apply is None or event.fold_version > FOLD_VERSION:
        raise FoldHalted(
            f"event {event.position} (kind {event.kind!r}, fold version {event.fold_version}) is from a newer banditroute "
            f"(this one folds up to version {FOLD_VERSION}): upgrade this process"
        )
    notes: Sequence[Note] = ()
    now = max(state.append_time_us, event.append_time_us)
    base = State(event.position, event.chain, now, *state[3:])
    try:
        after, notes = apply(base, event)
    except _BAD_EVENT as error:
        after = base._replace(skipped_count=base.skipped_count + 1)
        body = {"event_kind": event.kind, "reason": f"{type(error).__name__}: {str(error)[:200]}"}
        notes = (Note("event_skipped", body),)
    configured = event.kind == EventKind.CONFIG
    due = event.position % (MEANS_EVERY if event.position > YOUNG else MEANS_EVERY_YOUNG) == 0
    if configured or notes or due or (event.kind == EventKind.OPERATOR and event.body["action"] in ARM_ACTIONS):
        after = after._replace(pool=_refreshed(after, columns or Columns(), configured=configured))
        after, notes = reviewed(after, notes)
        after, more = floored(after)
        notes = [*notes, *more]
    if not notes:
        return after, ()
    return after, tuple([Transition(event.position, i, now, *note) for i, note in enumerate(notes, start=1)])


def _refreshed(state: State, columns: Columns, *, configured: bool) -> Pool:
    live = {name: category for name, category in sorted(state.categories.items()) if name in state.settings.categories}
    ages = [half_lives(state, category) for category in live.values()]
    usage_ages = [usage_half_lives(category) for category in live.values()]
    with np.errstate(all="ignore"):  # as Python's own arithmetic
        factors, used = exp2s(np.array([ages, usage_ages]))
        sights = columns.look(state.settings, {name: category.cells for name, category in live.items()}, factors, used)
        pool = refresh_means(state.pool, sights)
        # Variances: at powers of two while young (8, 16 ... 512), then every 1,024.
        young = state.position < VARIANCES_EVERY and state.position & (state.position - 1) == 0
        due = configured or young or state.position % VARIANCES_EVERY == 0
        return refresh_variances(pool, sights) if due else pool


# --- configuration ---------------------------------------------------------------------------------


def _configure(state: State, event: Event) -> Folded:
    document = event.body["document"]
    settings = parse_shared(document)
    categories = dict(state.categories)
    schemas = dict(state.schemas)
    for name, wanted in settings.categories.items():
        held = categories.get(name, _NEVER_FED)
        schemas[wanted.schema.hex()] = tuple(feature.name for feature in wanted.features)
        cells: Mapping[str, Cell] = held.cells
        if held.features != wanted.features:
            cells = {model: remapped(cell, held.features, wanted.features) for model, cell in cells.items()}
        landmark, ageing = held.landmark, held.ageing
        if (ageing.half_life_count, ageing.half_life_us) != (wanted.half_life_count, wanted.half_life_us):
            factor, now = present_factor(state, held), state.append_time_us
            ageing = Ageing(wanted.half_life_count, wanted.half_life_us, event.position, held.ordinal, now, *ageing[:2])
            cells = {model: scaled(cell, factor, usage=1.0) for model, cell in cells.items()}
            landmark = ageing.place(ordinal=held.ordinal, time_us=now)
        if not all(map(finite, cells.values())):
            raise ValueError(f"the evidence of {name!r} would not be finite under these features")
        missing = {model: empty_cell(1 + len(wanted.features)) for model in wanted.models if model not in cells}
        former = state.settings.categories.get(name)
        came = [model for model in wanted.models if former is None or model not in former.models]
        categories[name] = CategoryState(
            cells={**cells, **missing},
            entered={**held.entered, **dict.fromkeys(came, event.position)},
            ordinal=held.ordinal,
            landmark=landmark,
            features=wanted.features,
            ageing=ageing,
            revision=event.position,
            references=held.references,
            usage_landmark=held.usage_landmark,
        )
    configured = state._replace(
        config_position=event.position, document=document, settings=settings, categories=categories, schemas=schemas
    )
    return welcomed(cleaned(configured, state.settings), state.settings)


# --- operator --------------------------------------------------------------------------------------


def _operate(state: State, event: Event) -> Folded:
    body = event.body
    action = body["action"]
    if action in ARM_ACTIONS:
        return _operate_arm(state, event, action, body["model"], body["category"]), ()
    if action != "set_weights":
        raise ValueError(f"unknown action {action!r}")
    name = body["category"]
    category = state.categories[name]
    layer = dict(state.overrides.get(name, {}))
    for field, value in body["changes"].items():
        if field not in OVERRIDABLE:
            raise ValueError(f"{field!r} cannot be set")
        if value is None:
            layer.pop(field, None)
        else:
            layer[field] = number(value, low=0.0, high=MAX_WEIGHT)
    overrides = {key: value for key, value in {**state.overrides, name: layer}.items() if value}
    categories = {**state.categories, name: category._replace(revision=event.position)}
    return state._replace(overrides=overrides, categories=categories), ()


def _operate_arm(state: State, event: Event, action: str, model: str, only: str) -> State:
    """`only` is the category that is meant, "" all that have the model."""
    known = state.settings.categories
    names = [only] if only else sorted(name for name, each in known.items() if model in each.models)
    if not names or any(model not in known[name].models for name in names):
        raise ValueError(f"no arm {model!r} in {only or 'any category'!r}")
    arms = frozenset((name, model) for name in names)
    categories = {name: state.categories[name]._replace(revision=event.position) for name in names}
    state = state._replace(categories={**state.categories, **categories})
    if action == "reset_arm":
        return forgotten(state, model, only or None, event.position)
    return state._replace(paused=state.paused | arms if action == "pause_arm" else state.paused - arms)


# --- feedback --------------------------------------------------------------------------------------


def _feedback(state: State, event: Event) -> Folded:
    body = event.body
    decision, before, after = body["decision"], body["before"] or {}, body["after"]
    name, drawn = decision["category"], decision["model"]
    settings = state.settings.categories.get(name)
    if settings is None:
        if name not in state.categories:
            raise ValueError(f"category {name!r} was never configured")
        return state._replace(recorded_count=state.recorded_count + 1), ()
    category = state.categories[name]
    ageing = category.ageing
    position, ordinal, time_us = int(after["position"]), int(after["ordinal"]), int(after["time_us"])
    if not (0 < position <= 2**53 and 0 < ordinal <= 2**53 and 0 <= time_us <= 2**53):
        raise ValueError("position, ordinal or time out of range")
    time_us = min(time_us, state.append_time_us)
    category = _rebased(category, ageing.place(ordinal=ordinal, time_us=time_us), ordinal)
    usage_weight = exp2((ordinal - category.usage_landmark) / USAGE_AGEING_COUNT)
    weight = ageing.forward_weight(position=position, ordinal=ordinal, time_us=time_us, landmark=category.landmark)
    names = state.schemas[decision["schema"]]
    context = decision["context"]
    if len(names) != len(context):
        raise ValueError("context does not fit its schema")
    raw = {feature: number(value, low=-1e9, high=1e9) for feature, value in zip(names, context, strict=True)} if names else {}
    z = standardised(raw, settings.features)
    told = Told(
        category=name,
        drawn=drawn,
        position=position,
        ordinal=ordinal,
        time_us=time_us,
        made=int(decision["state_position"]),
        event=event.position,
        z=z,
        weight=weight,
    )
    cells, models = dict(category.cells), dict(state.models)
    touched = set()
    outside = False
    old_signals, old_attempts = before.get("signals", {}), before.get("attempts", {})
    old_rewards = fuse(old_signals) if old_signals else {}
    known = {key.split(SEPARATOR)[0] for key in (*old_signals, *old_attempts)} if before else ()

    def learns(model: str) -> bool:
        """Not where the arm is gone, nor where it left after what is now corrected, which was then not learned."""
        return model in settings.models and not (model in known and position < category.entered[model])

    for model, reward in fuse(after["signals"]).items():
        old = old_rewards.get(model, (0.0, 0.0))
        if not learns(model) or ended_with(state, told, model):
            outside = True
        elif old != reward:
            state = rewarded(state, told, cells, models, model, old, reward)
            touched.add(model)
    for key, attempt in sorted(after["attempts"].items()):
        model, was = key.split(SEPARATOR)[0], old_attempts.get(key)
        if not learns(model):
            outside = True
        elif was != attempt:
            cells[model] = add_usage(cells[model], before=usage_of(was), after=usage_of(attempt), weight=usage_weight)
            touched.add(model)
    for model in touched:
        if not finite(cells[model]):
            raise ValueError("the evidence would not be finite")
    categories = {**state.categories, name: category._replace(cells=cells, ordinal=max(category.ordinal, ordinal))}
    breakers, turns = heard(state, made=told.made, before=before, after=after)
    state = state._replace(
        categories=categories,
        models=models,
        breakers=breakers,
        feedback_count=state.feedback_count + 1,
        recorded_count=state.recorded_count + outside,
    )
    if drawn not in settings.models:
        return state, turns
    values = _first_values(after["signals"], old_signals, drawn)
    state, notes = watched(state, told, values, categories, models)
    if values and drawn in state.newcomers:
        state, more = looked_at(state, drawn)
        notes += more
    return state, [*turns, *notes]


def _first_values(signals: Mapping[str, Sequence[Any]], before: Mapping[str, Any], drawn: str) -> list[tuple[str, str, float]]:
    """What sources say of the model that was drawn and had not said before: (source, kind, value)."""
    found = []
    for key, (value, weight, _) in sorted(signals.items()):
        if key not in before and weight > 0.0:
            model, kind, source = key.split(SEPARATOR)
            if model == drawn:
                found.append((source, kind, float(value)))
    return found


def _rebased(category: CategoryState, place: int, ordinal: int) -> CategoryState:
    """The category with its landmarks moved up by whole half-lives: exact, since those are powers of two."""
    half_life = category.ageing.half_life
    near = half_life is None or place - category.landmark < REBASE_HALF_LIVES * half_life
    if near and ordinal - category.usage_landmark < REBASE_HALF_LIVES * USAGE_AGEING_COUNT:
        return category
    steps = _steps(place - category.landmark, half_life)
    usage_steps = _steps(ordinal - category.usage_landmark, USAGE_AGEING_COUNT)
    factor, usage = (math.ldexp(1.0, -min(each, 1074)) for each in (steps, usage_steps))
    return category._replace(
        cells={model: scaled(cell, factor, usage=usage) for model, cell in category.cells.items()},
        landmark=category.landmark + steps * (half_life or 0),
        usage_landmark=category.usage_landmark + usage_steps * USAGE_AGEING_COUNT,
    )


def _steps(distance: int, half_life: int | None) -> int:
    """The half-lives by which a landmark follows: none until there are many."""
    return 0 if half_life is None or distance < REBASE_HALF_LIVES * half_life else distance // half_life


_KINDS: Mapping[str, Callable[[State, Event], Folded]] = {
    EventKind.CONFIG: _configure,
    EventKind.OPERATOR: _operate,
    EventKind.FEEDBACK: _feedback,
}
