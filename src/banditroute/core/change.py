"""What the fold does about a model that changed: alarm, demotion, probes, recovery. Derived from the log alone.

LIVE -> DEMOTED: the detector's alarm (`core/drift.py`) opens a shift (`core/shift.py`), and where a rival is better by
now the arm gets probes only. DEMOTED -> PROBING: probes speak for recovery, and the more they do the more there are.
PROBING -> LIVE: the test of recovery is passed; the shift goes, and all that was known returns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from banditroute.core.drift import (
    LAG,
    LEAST_OF_ARM,
    MAX_SOURCES,
    Pair,
    Reference,
    Stream,
    change_point,
    evidence,
    joined,
    observed,
    source_of,
    stream_key,
    threshold,
)
from banditroute.core.evidence import Cell, add_reward, empty_cell, shifted
from banditroute.core.lifecycle import Note, lifecycle, utilities
from banditroute.core.pool import standing
from banditroute.core.settings import SharedSettings
from banditroute.core.shift import KEPT, PAST, Row, Shift, Span
from banditroute.core.sights import SEEN
from banditroute.core.state import CategoryState, ModelState, State, change_key, open_change, present_factor, scope
from banditroute.core.types import Lifecycle

KNOWN_BY = 20.0
"""Values by which an arm must be known for probes of it to count half in the test of recovery."""
PROBING_AT = 3.0
"""E-value of recovery from which on a demoted arm counts as probing."""
SETTLED_AT = 400
"""Observations after which a change that demoted nothing is taken as the new normal."""
SETTLED_UP_AT = 100
CONTRASTS_AT = (30, 60, 120, 240)
"""Observations of rivals since a demotion at which it is asked whether they fell as much."""
_CHANGED = "changed"
"""The kind of an alarm's line until it is judged: improved, demoted or degraded."""
_ELSE = stream_key("", "*")
_NO_MODEL, _NO_STREAM, _NO_REFERENCE = ModelState(), Stream(), Reference()


class Told(NamedTuple):
    """Where a decision stands that feedback speaks of; `position` and the rest are those of its first feedback, `made` is the
    state that the decision was made from, `event` the position of this feedback."""

    category: str
    drawn: str
    position: int
    ordinal: int
    time_us: int
    made: int
    event: int
    z: tuple[float, ...]
    weight: float


# --- rewards ---------------------------------------------------------------------------------------


def ended_with(state: State, told: Told, model: str) -> bool:
    """Whether a decision belongs to a change that is over: what it tells of that time is of no use now."""
    past = state.past
    return bool(past) and any(
        span.covers(position=told.position, made=told.made)
        for key in (model, change_key(model, told.category))
        for span in past.get(key, ())
    )


def ended_since(state: State, *, category: str, model: str, made: int) -> bool:
    """Whether a decision made from state `made` came between a change's alarm and its end: `ended_with`, as far as it can be
    told before the log knows when the decision was first judged."""
    return bool(state.past) and any(
        span.detected <= made < span.end for key in (model, change_key(model, category)) for span in state.past.get(key, ())
    )


def shifts_with(state: State, told: Told, model: str) -> str | None:
    """The key of the open change that a decision belongs to."""
    key = open_change(state, told.category, model)
    return key if key is not None and told.position > state.shifts[key].start else None


def rewarded(
    state: State,
    told: Told,
    cells: dict[str, Cell],
    models: dict[str, ModelState],
    model: str,
    before: tuple[float, float],
    after: tuple[float, float],
) -> State:
    """The state after a decision's reward of `model` went from `before` to `after`, but for its cell and rows, which go into
    `cells` and `models`."""
    key = shifts_with(state, told, model)
    known, variance = standing(state.pool, told.category, model)
    first, off_policy = before[1] == 0.0, model != told.drawn
    if key is None:
        cells[model] = add_reward(cells[model], z=told.z, before=before, after=after, weight=told.weight, off_policy=off_policy)
        held = models.get(model, _NO_MODEL)
        row = Row(told.position, told.ordinal, told.time_us, told.category, after, told.z, after[0] - known)
        if first:
            if held.rows and row.position < held.rows[-1].position:  # first judged late
                rows = tuple(sorted((*held.rows, row), key=lambda each: each.position)[-KEPT:])
            else:
                rows = (*held.rows[1 - KEPT :], row)
        else:
            rows = tuple([row if (old.position, old.category) == (row.position, row.category) else old for old in held.rows])
        models[model] = ModelState(held.streams, rows)
        return state
    shift = state.shifts[key]
    known, variance = shift.known.get(told.category, (known, variance))
    noise = variance + state.pool.of(model).noise / max(after[1], 1e-3)
    if first:
        cell = cells[model]
        cells[model] = cell._replace(feedback_count=cell.feedback_count + 1, off_policy_count=cell.off_policy_count + off_policy)
        shift = shift.after(after[0] - known, noise=noise, position=told.event)
        if not off_policy and not shift.up and told.made >= shift.detected:
            own = state.pool.of(model).noise
            shift = shift.tested(after[0], known, noise=own + variance, trust=own / (own + KNOWN_BY * variance))
    else:
        shift = shift.corrected(after[0] - before[0], noise=noise / shift.kept(told.position))
    return state._replace(shifts={**state.shifts, key: shift})


# --- tests -----------------------------------------------------------------------------------------


def watched(
    state: State,
    told: Told,
    values: Sequence[tuple[str, str, float]],
    categories: dict[str, CategoryState],
    models: dict[str, ModelState],
) -> tuple[State, list[Note]]:
    """The state after the tests have seen first raw values of the model that was drawn: (source, kind, value in [0, 1]).

    Alarms, recoveries and what they lead to are carried out and noted. `categories` and `models` are the state's, made for
    this event and not published yet: the tests are written into them.
    """
    notes: list[Note] = []
    model, name = told.drawn, told.category
    key = open_change(state, name, model)
    if key is None:
        if told.made >= _last_reset(state, name, model):
            needed = threshold(state.settings.false_alarms_per_million)
            for source, kind, value in values:
                highest = _observed(categories, models, told, stream_key(source, kind), value)
                if highest > needed and open_change(state, name, model) is None:  # no mean of several is above the highest
                    state = _alarmed(state, told, needed, notes)
                    categories, models = dict(state.categories), dict(state.models)
                    state = state._replace(categories=categories, models=models)
    else:
        state = _concluded(state, key, told.event, notes)
    if state.shifts:
        state = _contrasted(state, told, values, notes)
    return state, notes


def _last_reset(state: State, category: str, model: str) -> int:
    if not state.past:
        return state.categories[category].entered.get(model, 0)
    ends = [spans[-1].end for key in (model, change_key(model, category)) if (spans := state.past.get(key))]
    return max(state.categories[category].entered.get(model, 0), *ends, 0)


def _observed(categories: dict[str, CategoryState], models: dict[str, ModelState], told: Told, key: str, value: float) -> float:
    """One value of one stream goes into the tests; returns the highest wealth in them."""
    model, name = told.drawn, told.category
    held = models.get(model, _NO_MODEL)
    if key not in held.streams and len(held.streams) >= MAX_SOURCES:
        source = source_of(key)  # one that is tested apart already stays one source
        key = stream_key(source, "*") if source in map(source_of, held.streams) else _ELSE
    reference = _reference(categories[name], model, key)
    stream, reference = observed(held.streams.get(key, _NO_STREAM), reference, name, value)
    (down, up), (down_alone, up_alone) = stream.tests, reference.tests
    if len(stream.waiting) > LAG:
        other = stream.waiting[0][0]
        if other == name:
            stream, reference = joined(stream, reference)
        else:
            stream, joint = joined(stream, _reference(categories[other], model, key))
            categories[other] = _with_reference(categories[other], model, key, joint)
    categories[name] = _with_reference(categories[name], model, key, reference)
    models[model] = ModelState({**held.streams, key: stream}, held.rows)
    return max(down + up + down_alone + up_alone)


def _reference(category: CategoryState, model: str, key: str) -> Reference:
    return category.references.get(model, {}).get(key, _NO_REFERENCE)


def _with_reference(category: CategoryState, model: str, key: str, reference: Reference) -> CategoryState:
    held = category.references
    return category._replace(references={**held, model: {**held.get(model, {}), key: reference}})


def _alarmed(state: State, told: Told, needed: float, notes: list[Note]) -> State:
    model, name = told.drawn, told.category
    streams = state.models[model].streams if model in state.models else {}
    of_arm = state.categories[name].references.get(model, {})
    asked = max((each.min_sources for each in state.settings.categories.values() if model in each.models), default=1)
    tests: tuple[tuple[str | None, int, Mapping[str, Pair]], ...] = (
        (None, asked, {key: stream.tests for key, stream in streams.items()}),
        (name, state.settings.categories[name].min_sources, {key: reference.tests for key, reference in of_arm.items()}),
    )
    for category, min_sources, pairs in tests:
        for up in (False, True):
            found = evidence({key: pair[up] for key, pair in pairs.items()}, min_sources=min_sources)
            if found > needed:
                return _changed(state, told, category, up=up, found=found, notes=notes)
    return state


def _changed(state: State, told: Told, category: str | None, *, up: bool, found: float, notes: list[Note]) -> State:
    """An alarm: opens the shift and moves the rows since the change to it. Whom that demotes is judged after a refit."""
    model, position = told.drawn, told.event
    key = change_key(model, category)
    held = state.models.get(model, _NO_MODEL)
    mine = [row for row in held.rows if category in (None, row.category) and row.category in state.settings.categories]
    at = change_point([row.residual for row in mine], noise=state.pool.of(model).noise)
    before, since = mine[:at], mine[at:]
    start = before[-1].position if before else (since[0].position - 1 if since else position)
    shift = Shift(start=start, detected=position, up=up, updated=since[0].position if since else position)
    categories = dict(state.categories)
    for row in since:
        of_row = categories[row.category]
        if model in of_row.cells and len(row.z) == 1 + len(of_row.features):
            weight = of_row.ageing.forward_weight(
                position=row.position, ordinal=row.ordinal, time_us=row.time_us, landmark=of_row.landmark
            )
            cell = add_reward(of_row.cells[model], z=row.z, before=row.reward, after=(0.0, 0.0), weight=weight, off_policy=False)
            categories[row.category] = of_row._replace(cells={**of_row.cells, model: cell})
    names = state.settings.categories if category is None else (category,)
    known = {
        name: standing(state.pool, name, model, _own(state, categories[name], model))
        for name in names
        if model in state.settings.categories[name].models
    }
    for row in since:
        mean, variance = known.get(row.category) or standing(state.pool, row.category, model)
        noise = variance + state.pool.of(model).noise / max(row.reward[1], 1e-3)
        shift = shift.after(row.reward[0] - mean, noise=noise, position=row.position)
    moved = {row.position for row in since}
    kept = tuple([row for row in held.rows if row.position not in moved])
    state = state._replace(categories=categories, models={**state.models, model: held._replace(rows=kept)})
    if category is None:
        for other in [other for other in sorted(state.shifts) if other != model and scope(other)[0] == model]:
            state = _ended(state, other, position)
    state = _tests_reset(state, model, category)
    shift = shift.begun(state.pool.of(model).noise)._replace(known=known)
    state = state._replace(shifts={**state.shifts, key: shift})
    count = len(since)
    former = math.fsum(row.reward[0] - row.residual for row in since) / count if count else 0.0
    latest = math.fsum(row.reward[0] for row in since) / count if count else 0.0
    notes.append(
        Note(
            _CHANGED,
            _about(key, shift)
            | {
                "reference": former,
                "estimate": latest,
                "evidence": found,
                "evidence_needed": threshold(state.settings.false_alarms_per_million),
                "feedback_count": count,
                "since_position": start,
            },
        )
    )
    return state


def _own(state: State, category: CategoryState, model: str) -> tuple[float, float]:
    """What a cell's own evidence says of its mean by now: 1 / variance and mean."""
    cell = category.cells[model]
    size = present_factor(state, category) * cell.information[0]
    if size <= SEEN:
        return 0.0, 0.0
    return size / state.pool.of(model).noise, cell.moment[0] / cell.information[0]


def _about(key: str, shift: Shift) -> dict[str, Any]:
    model, category = scope(key)
    return {
        "model": model,
        "category": category or "",
        "demoted_in": list(shift.demoted),
        "shift": shift.mean,
        "shift_stddev": math.sqrt(shift.variance),
    }


def _tests_reset(state: State, model: str, category: str | None, *, forget: bool = False) -> State:
    """All tests of a scope begin anew, and what waits to join references goes; with `forget`, these go too."""
    held = state.models.get(model, _NO_MODEL)
    if category is None:
        streams = {} if forget else {key: each._replace(waiting=(), tests=Pair()) for key, each in held.streams.items()}
    else:
        streams = {
            key: each._replace(waiting=tuple([row for row in each.waiting if row[0] != category]))
            for key, each in held.streams.items()
        }
    categories = dict(state.categories)
    for name in categories if category is None else (category,):
        found = categories[name].references
        if model in found:
            fresh = {} if forget else {key: each._replace(waiting=0, tests=Pair()) for key, each in found[model].items()}
            categories[name] = categories[name]._replace(references={**found, model: fresh})
    return state._replace(categories=categories, models={**state.models, model: held._replace(streams=streams)})


def _ended(state: State, key: str, position: int) -> State:
    """Without an open change, which is remembered for what still comes in of its time."""
    shift = state.shifts[key]
    spans = (*state.past.get(key, ())[-PAST + 1 :], Span(shift.start, shift.detected, position))
    shifts = {other: each for other, each in state.shifts.items() if other != key}
    return state._replace(shifts=shifts, past={**state.past, key: spans})


def _concluded(state: State, key: str, position: int, notes: list[Note]) -> State:
    """What an open change has come to: recovered, on its way there, or here to stay."""
    shift = state.shifts[key]
    model, category = scope(key)
    found, needed = shift.recovery.evidence, shift.recovery.needed
    about = _about(key, shift) | {"evidence": found, "evidence_needed": needed, "feedback_count": shift.size}
    if shift.recovered:
        notes.append(Note("promoted", about))
        return _tests_reset(_ended(state, key, position), model, category)
    if shift.demoted:
        probing = found >= (1.0 if shift.probing else PROBING_AT)
        if probing != shift.probing:
            notes.append(Note("probing" if probing else "relapsed", about))
            state = state._replace(shifts={**state.shifts, key: shift._replace(probing=probing)})
        return state
    if shift.size >= (SETTLED_UP_AT if shift.up else SETTLED_AT):
        return settled(state, key, position, "nothing changed again", notes)
    return state


def settled(state: State, key: str, position: int, why: str, notes: list[Note]) -> State:
    """The change is taken as the new normal: what was known moves by it, and the tests form new references."""
    shift = state.shifts[key]
    model, category = scope(key)
    categories = dict(state.categories)
    for name in categories if category is None else (category,):
        held = categories[name]
        if model in held.cells:
            categories[name] = held._replace(cells={**held.cells, model: shifted(held.cells[model], shift.mean)})
    notes.append(Note("settled", _about(key, shift) | {"feedback_count": shift.size, "reason": why}))
    return _tests_reset(_ended(state._replace(categories=categories), key, position), model, category, forget=True)


def forgotten(state: State, model: str, category: str | None, position: int) -> State:
    """An operator's reset of an arm, or of a model: nothing is known of it any more."""
    for key in [key for key in sorted(state.shifts) if scope(key)[0] == model and category in (None, scope(key)[1])]:
        state = _ended(state, key, position)
    state = _tests_reset(state, model, category, forget=True)
    categories = dict(state.categories)
    for name in categories if category is None else (category,):
        held = categories[name]
        if model in held.cells:
            fresh = empty_cell(1 + len(held.features))
            categories[name] = held._replace(cells={**held.cells, model: fresh}, entered={**held.entered, model: position})
    own = state.models[model]
    rows = tuple([row for row in own.rows if category not in (None, row.category)])
    below = frozenset(arm for arm in state.below if arm[1] != model or category not in (None, arm[0]))
    return state._replace(categories=categories, models={**state.models, model: own._replace(rows=rows)}, below=below)


def cleaned(state: State, former: SharedSettings) -> State:
    """After a configuration: open changes of models that left are over, and rows of other features are of no use."""
    settings = state.settings
    for key in sorted(state.shifts):
        model, category = scope(key)
        if model not in settings.models or (category is not None and category not in settings.categories):
            state = _ended(state, key, state.position)
    turned = {
        name
        for name, each in former.categories.items()
        if name not in settings.categories or each.features != settings.categories[name].features
    }
    models = {
        model: held._replace(rows=tuple([row for row in held.rows if row.category not in turned])) if turned else held
        for model, held in state.models.items()
    }
    arms = {(name, model) for name, each in settings.categories.items() for model in each.models}
    floors = {name for name, each in settings.categories.items() if each.quality_floor is not None}
    below = frozenset(arm for arm in state.below if arm in arms and arm[0] in floors)
    return state._replace(models=models, paused=state.paused & arms, below=below)


def _contrasted(state: State, told: Told, values: Sequence[tuple[str, str, float]], notes: list[Note]) -> State:
    """Rivals' values are held against demotions in their category: where they fell as much, it was the traffic that changed."""
    name, rival = told.category, told.drawn
    for key, shift in sorted(state.shifts.items()):
        if shift.contrasted or name not in shift.demoted or scope(key)[0] == rival or told.made < shift.detected:
            continue
        if open_change(state, name, rival) is not None:
            continue
        references = state.categories[name].references.get(rival, {})
        asked = shift.rivals_count
        for source, kind, value in values:
            key_of = stream_key(source, kind)
            reference, stream = references.get(key_of), state.models[rival].streams.get(key_of)
            if reference is not None and stream is not None and reference.size >= LEAST_OF_ARM:
                gap = value - reference.low(stream)
                shift = shift._replace(
                    rivals_count=shift.rivals_count + 1,
                    rivals_sum=shift.rivals_sum + gap,
                    rivals_square=shift.rivals_square + gap * gap,
                )
        count = shift.rivals_count
        shift = shift._replace(contrasted=count >= CONTRASTS_AT[-1])
        state = state._replace(shifts={**state.shifts, key: shift})
        if any(asked < at <= count for at in CONTRASTS_AT):
            mean = shift.rivals_sum / count
            error = math.sqrt(max(0.0, shift.rivals_square / count - mean * mean) / count)
            if mean <= 0.5 * shift.mean and mean + 2.0 * error < 0.0:
                why = f"its rivals fell by {-mean:.3f} too: the traffic changed, not the model"
                state = settled(state, key, told.event, why, notes)
    return state


# --- rivals ----------------------------------------------------------------------------------------


def reviewed(state: State, notes: Sequence[Note]) -> tuple[State, list[Note]]:
    """After a refit of the pool: demotions are judged anew, those of new changes for the first time. Returns all notes."""
    found = list(notes)
    for key, shift in sorted(state.shifts.items()):
        state = judged(state, key)
        now = state.shifts[key]
        if now.detected != state.position and now.demoted != shift.demoted:
            more = set(now.demoted) - set(shift.demoted)
            kind = "demoted" if more else "released"
            found.append(Note(kind, _about(key, now) | {"formerly_demoted_in": list(shift.demoted)}))
    return state, [_judged_note(state, note) if note.kind == _CHANGED else note for note in found]


def _judged_note(state: State, note: Note) -> Note:
    shift = state.shifts[change_key(note.body["model"], note.body["category"] or None)]
    kind = "improved" if shift.up else "demoted" if shift.demoted else "degraded"
    return Note(kind, {**note.body, "demoted_in": list(shift.demoted)})


def judged(state: State, key: str) -> State:
    """An open change with the categories where a rival's utility is better."""
    shift = state.shifts[key]
    if shift.up:
        return state
    model, category = scope(key)
    demoted = []
    for name, settings in sorted(state.settings.categories.items()):
        if category not in (None, name) or model not in settings.models or (name, model) in state.paused:
            continue
        found = utilities(state, settings)
        rivals = [each for rival, each in found.items() if rival != model and lifecycle(state, name, rival) is Lifecycle.LIVE]
        lead = shift.doubt if name in shift.demoted else -max(shift.doubt, shift.luck)
        if rivals and max(rivals) + lead > found[model]:
            demoted.append(name)
    if tuple(demoted) == shift.demoted:
        return state
    return state._replace(shifts={**state.shifts, key: shift._replace(demoted=tuple(demoted))})
