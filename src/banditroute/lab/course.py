"""What a run goes through: the requests of one seed, with every model's outcome, and what changes on the way.

Every policy of a seed sees the same requests in the same order, and of each request only the outcome of the model that it
picked. Requests without happenings and with the source's own traffic are those of `make_stream`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from banditroute.core.baselines import Utility
from banditroute.core.errors import DatasetError
from banditroute.lab.happenings import BoolArray, Happening
from banditroute.lab.source import FloatArray, IntArray, Source, cost_reference_usd, model_costs_usd
from banditroute.lab.traffic import Traffic


class Stream(NamedTuple):
    """The requests of one seed with every model's outcome: shapes (requests,) and (requests, models). Features are those of the
    source, raw, of shape (requests, d)."""

    categories: IntArray
    scores: FloatArray
    costs_usd: FloatArray
    features: FloatArray | None = None


def make_stream(source: Source, *, requests: int, seed: int) -> Stream:
    """The requests that every policy of this seed sees, whatever the cost weight."""
    return _stream([source] * requests, seed=seed, traffic=None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Phase:
    """From request `start` on until the next phase. `present` and `list_costs_usd` (USD per request) are what the router
    is configured with, `failing` are models whose calls time out; shapes (models,). `utilities` are the true means at the
    phase's cost weight, of shape (categories, models), with -inf for models that are absent."""

    start: int
    present: BoolArray
    failing: BoolArray
    list_costs_usd: FloatArray
    utilities: FloatArray
    cost_weight: float

    def configured_as(self, other: Phase) -> bool:
        """Whether the router's configuration is the same in both, but for an operator's weights."""
        return bool((self.present == other.present).all() and (self.list_costs_usd == other.list_costs_usd).all())


@dataclass(frozen=True, eq=False, kw_only=True)
class Course:
    """All that one seed's run goes through. `phase_of` is of shape (requests,)."""

    source: Source
    utility: Utility
    phases: tuple[Phase, ...]
    phase_of: IntArray
    stream: Stream

    @property
    def requests(self) -> int:
        return len(self.phase_of)

    @property
    def gaps(self) -> FloatArray:
        """What each model loses against the best one present, at each request's category and phase: shape (requests,
        models); inf for models that are absent."""
        utilities = np.stack([phase.utilities for phase in self.phases])[self.phase_of, self.stream.categories]
        return np.asarray(utilities.max(axis=1, keepdims=True) - utilities, dtype=np.float64)


def make_course(
    source: Source,
    happenings: Sequence[Happening] = (),
    *,
    requests: int,
    seed: int,
    cost_weight: float,
    traffic: Traffic | None = None,
) -> Course:
    """The requests of a seed as they come under the happenings, which add up where they overlap, in their order.

    Utility is score - cost_weight * cost / the unchanged source's cost reference. `traffic` says how often each category
    comes, and when; None: as in the source.

    Raises DatasetError as happenings do, and where no model is left.
    """
    utility = Utility(cost_weight, cost_reference_usd(source))
    states = states_of(source, happenings, requests=requests, cost_weight=cost_weight)
    phases = []
    for start, now, present, failing, weight in states:
        means = now.mean_scores - weight * now.mean_costs_usd / utility.cost_reference_usd
        utilities = np.where(present, np.where(failing, 0.0, means), -math.inf)
        costs_usd = model_costs_usd(now)
        phases.append(
            Phase(
                start=start,
                present=present,
                failing=failing,
                list_costs_usd=costs_usd,
                utilities=utilities,
                cost_weight=weight,
            )
        )
    phase_of = np.searchsorted([state.start for state in states], np.arange(requests), side="right") - 1
    stream = _stream([states[phase].source for phase in phase_of.tolist()], seed=seed, traffic=traffic)
    return Course(source=source, utility=utility, phases=tuple(phases), phase_of=phase_of.astype(np.int64), stream=stream)


class State(NamedTuple):
    """How things are from request `start` on until the next state; `present`, `failing`: shapes (models,)."""

    start: int
    source: Source
    present: BoolArray
    failing: BoolArray
    cost_weight: float


def states_of(source: Source, happenings: Sequence[Happening], *, requests: int, cost_weight: float) -> list[State]:
    """What happenings make of a source, from the first request on. Raises as `make_course`."""
    bounds = {0}.union(*[(each.start, requests if each.end is None else each.end) for each in happenings])
    states = []
    for start in sorted(bound for bound in bounds if bound < requests):
        now, present, failing = source, np.ones(len(source.models), dtype=bool), np.zeros(len(source.models), dtype=bool)
        weight = cost_weight
        for each in happenings:
            if each.start <= start and (each.end is None or start < each.end):
                now, present, failing = each.changed(now), present & each.present(now), failing | each.failing(now)
                weight = each.weight(weight)
        if not present.any():
            raise DatasetError(f"{source.name}: no model is left at request {start}; leave one")
        states.append(State(start, now, present, failing, weight))
    return states


def _stream(sources: Sequence[Source], *, seed: int, traffic: Traffic | None) -> Stream:
    """A request of each of `sources`."""
    rng = np.random.default_rng([seed, zlib.crc32(b"stream")])
    if traffic is None:
        draws = [source.draw(rng) for source in sources]
    else:
        weights = traffic.weights(sources[0], requests=len(sources))
        upper = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
        last = weights.shape[1] - 1
        draws = []
        for source, bounds in zip(sources, upper, strict=True):
            category = min(int(np.searchsorted(bounds, rng.random(), side="right")), last)
            draws.append(source.draw_of(category, rng))
    return Stream(
        categories=np.array([draw.category for draw in draws], dtype=np.int64),
        scores=np.array([draw.scores for draw in draws]),
        costs_usd=np.array([draw.costs_usd for draw in draws]),
        features=None if draws[0].features is None else np.array([draw.features for draw in draws]),
    )
