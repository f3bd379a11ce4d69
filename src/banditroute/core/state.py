"""All that is learned, as one immutable value; `core/fold.py` makes the next one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from banditroute.core.breaker import Breaker
from banditroute.core.drift import Reference, Stream
from banditroute.core.evidence import USAGE_AGEING_COUNT, Ageing, Cell
from banditroute.core.numerics import exp2
from banditroute.core.pool import START, Pool
from banditroute.core.settings import EMPTY, Feature, SharedSettings
from banditroute.core.shift import Row, Shift, Span


class CategoryState(NamedTuple):
    """One category's evidence. Cells of models that were removed stay: what was learned is kept.

    `entered` is the position at which each of its models came in, came back or was reset;
    `ordinal` is the highest number that the log gave to a decision with feedback here; `landmark` is the
    place (see `Ageing.place`) whose evidence has forward weight 1, `usage_landmark` the ordinal whose usage has; `features` and
    `ageing` are those that the cells' sums were made with; `references` are by model and stream what its values were like.
    """

    cells: Mapping[str, Cell]
    entered: Mapping[str, int]
    ordinal: int
    landmark: int
    features: tuple[Feature, ...]
    ageing: Ageing
    revision: int
    references: Mapping[str, Mapping[str, Reference]] = {}
    usage_landmark: int = 0


class ModelState(NamedTuple):
    """One model's tests across categories, by stream, and its newest rows, by position."""

    streams: Mapping[str, Stream] = {}
    rows: tuple[Row, ...] = ()


class State(NamedTuple):
    """Everything that was learned, up to and including `position`. Open and ended changes are by `change_key`; arms that are
    paused or below their floor are (category, model); new models have the number of looks at them so far; a model that nobody
    called has no breaker."""

    position: int
    chain: bytes
    append_time_us: int
    config_position: int
    document: Mapping[str, Any]
    settings: SharedSettings
    overrides: Mapping[str, Mapping[str, float]]
    categories: Mapping[str, CategoryState]
    pool: Pool
    schemas: Mapping[str, tuple[str, ...]]
    models: Mapping[str, ModelState]
    shifts: Mapping[str, Shift]
    past: Mapping[str, tuple[Span, ...]]
    breakers: Mapping[str, Breaker]
    paused: frozenset[tuple[str, str]]
    below: frozenset[tuple[str, str]]
    newcomers: Mapping[str, int]
    feedback_count: int
    recorded_count: int
    skipped_count: int


INITIAL = State(0, b"", 0, 0, {}, EMPTY, {}, {}, START, {}, {}, {}, {}, {}, frozenset(), frozenset(), {}, 0, 0, 0)


def change_key(model: str, category: str | None = None) -> str:
    """Of a change of a whole model, or of it in one category."""
    return model if category is None else f"{model}\x1f{category}"


def scope(key: str) -> tuple[str, str | None]:
    """The model and, where it is one arm's, the category of a change."""
    model, apart, category = key.partition("\x1f")
    return model, category if apart else None


def open_change(state: State, category: str, model: str) -> str | None:
    """The key of the open change that holds for an arm."""
    shifts = state.shifts
    if not shifts:
        return None
    if model in shifts:
        return model
    key = change_key(model, category)
    return key if key in shifts else None


def half_lives(state: State, category: CategoryState) -> float:
    """From now to the landmark: below 0, as that is past."""
    return category.ageing.half_lives(category.landmark, ordinal=category.ordinal, time_us=state.append_time_us)


def present_factor(state: State, category: CategoryState) -> float:
    """What a category's sums must be multiplied by to be worth what they are now."""
    return exp2(half_lives(state, category))


def usage_half_lives(category: CategoryState) -> float:
    """As `half_lives`, of what attempts used."""
    return (category.usage_landmark - category.ordinal) / USAGE_AGEING_COUNT


def usage_factor(category: CategoryState) -> float:
    """What a category's sums of usage must be multiplied by to be worth what they are now."""
    return exp2(usage_half_lives(category))
