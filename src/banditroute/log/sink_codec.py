"""What the decision sink keeps of decisions, as batches: JSON for names and few numbers, packed float64s for many.

A batch is ``{"rows": [...], "plans": [...]}`` and, beside it, the numbers of the plans' candidates, one plan behind the other.
Rows are ``[id, time_ms, reason, request, plan, category, choice]``: `plan` is a place in `plans`, `choice` one among its models.
Rows of before that have no category and no choice. Plans are ``[models, exclusions, lifecycles]``, the eligible models first and
best first, the last two where there is something to say; each model has CANDIDATE_FIELDS.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from banditroute.core.types import Candidate, Exclusion, Lifecycle, Plan, Reason, RouteQuery

CANDIDATE_FIELDS = ("quality_mean", "quality_stddev", "expected_cost_usd", "utility_mean", "propensity")
BREATH_ROWS = 64
KEPT_PLANS, KEPT_HEADS = 32, 1024

_PLAIN = RouteQuery(category="")
_FIELDS = _PLAIN._fields[1:]
_ENCODE = json.JSONEncoder(default=float).encode


class SinkRow(NamedTuple):
    """One decision, as Route leaves it behind. `choice` is its model's place among the plan's eligible ones."""

    decision: bytes
    time_ms: int
    reason: Reason
    query: RouteQuery
    plan: Plan
    choice: int


class KeptDecision(NamedTuple):
    """One decision, as a sink gives it back. `decision` is its key in hex, `request` what was asked beyond the category, as
    JSON data, named as in RouteQuery. `category` and `chosen` are None in rows that were written before they were kept."""

    decision: str
    time_ms: int
    reason: Reason
    request: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    category: str | None
    chosen: Candidate | None


class DamagedBatch(ValueError):
    """What was stored is no batch, or not a whole one."""


class Packed(NamedTuple):
    """A plan's candidates: names as JSON, numbers as bytes."""

    head: str
    numbers: bytes


class Waiting(NamedTuple):
    """A row on its way: small and flat. Rows are packed by Route, while what they hold is in the processor's
    caches; keeping plans for the writer to pack later cost a busy server three times as much."""

    decision: bytes
    time_ms: int
    reason: int
    asked: str
    plan: Packed
    category: str
    choice: int


class PlanPacker:
    """Packs plans; what it just packed is at hand."""

    def __init__(self) -> None:
        self._plans: dict[int, tuple[Plan, Packed]] = {}
        self._heads: dict[tuple[Any, ...], str] = {}

    def packed(self, plan: Plan) -> Packed:
        """The plan's candidates. Raises TypeError or struct.error where it holds what is no number."""
        held = self._plans.get(id(plan))
        if held is not None and held[0] is plan:
            return held[1]
        candidates = plan.eligible
        key: tuple[Any, ...] = plan.models
        if len(candidates) < len(plan.candidates) or any(candidate[7] is not Lifecycle.LIVE for candidate in candidates):
            candidates += tuple([candidate for candidate in plan.candidates if candidate.exclusion is not None])
            key = tuple([(model, why, life) for model, why, _, _, _, _, _, life in candidates])
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= KEPT_HEADS:
                self._heads = {}
            excluded = {candidate.model: int(candidate.exclusion) for candidate in candidates if candidate.exclusion is not None}
            held_back = {row.model: int(row.lifecycle) for row in candidates if row.lifecycle is not Lifecycle.LIVE}
            head = self._heads[key] = json.dumps([[candidate.model for candidate in candidates], excluded, held_back])
        numbers = [number for candidate in candidates for number in candidate[2:7]]
        packed = Packed(head, struct.pack(f"{len(numbers)}d", *numbers))
        if len(self._plans) >= KEPT_PLANS:
            self._plans = {}
        self._plans[id(plan)] = (plan, packed)
        return packed


def asked(query: RouteQuery) -> str:
    """What was asked beyond the category, as JSON. Raises TypeError or ValueError where that cannot be said in JSON."""
    if query[3:] == _PLAIN[3:] and not query.features:  # most ask for no more than input tokens
        return "{}" if query.input_tokens is None else f'{{"input_tokens": {query.input_tokens}}}'
    return _ENCODE({name: value for name, value, plain in zip(_FIELDS, query[1:], _PLAIN[1:], strict=True) if value != plain})


def encoded(batch: Sequence[Waiting], *, breathe: Callable[[], object] = lambda: None) -> tuple[str, bytes]:
    """A batch's JSON and its numbers: a fraction of the time that one table row per decision takes.

    `breathe` is called every few rows: whoever encodes a whole batch at once keeps Route waiting for the interpreter.
    """
    plans: list[str] = []
    numbers: list[bytes] = []
    places: dict[int, int] = {}  # a plan often serves many decisions
    names: dict[str, str] = {}
    rows: list[str] = []
    for decision, time_ms, reason, request, plan, category, choice in batch:
        place = places.get(id(plan))
        if place is None:
            place = places[id(plan)] = len(plans)
            plans.append(plan.head)
            numbers.append(plan.numbers)
        name = names.get(category)
        if name is None:
            name = names[category] = json.dumps(category)
        if len(rows) % BREATH_ROWS == BREATH_ROWS - 1:
            breathe()
        rows.append(f'["{decision.hex()}", {time_ms}, {reason}, {request}, {place}, {name}, {choice}]')
    return f'{{"rows": [{", ".join(rows)}], "plans": [{", ".join(plans)}]}}', b"".join(numbers)


def decoded(rows: str, numbers: bytes) -> list[KeptDecision]:
    """The decisions of a batch, in the order in which they were made; those of one plan share its candidates.

    Raises:
        DamagedBatch: these are not what `encoded` made.
    """
    try:
        held = json.loads(rows)
        plans = _plans(held["plans"], array("d", numbers))
        found = []
        for decision, time_ms, reason, request, place, *more in held["rows"]:
            category, choice = more or (None, None)
            candidates = plans[place]
            chosen = None if choice is None else candidates[choice]
            found.append(KeptDecision(decision, time_ms, Reason(reason), request, candidates, category, chosen))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DamagedBatch(str(error)) from error
    return found


def _plans(heads: Sequence[Sequence[Any]], values: array[float]) -> list[tuple[Candidate, ...]]:
    width, start, plans = len(CANDIDATE_FIELDS), 0, []
    for models, excluded, *more in heads:
        lives = more[0] if more else {}
        if start + width * len(models) > len(values):
            raise IndexError("candidates are missing")
        candidates = []
        for model in models:
            why = excluded.get(model)
            life = Lifecycle(lives.get(model, Lifecycle.LIVE))
            exclusion = None if why is None else Exclusion(why)
            quality, stddev, cost_usd, utility, propensity = values[start : start + width]
            candidates.append(Candidate(model, exclusion, quality, stddev, cost_usd, utility, propensity, life))
            start += width
        plans.append(tuple(candidates))
    return plans
