"""What may happen to a stream of requests: models that get worse, come, go or change their price; feedback that is late.

Happenings turn one source into several, one for each phase between two of their bounds, each with exact means of its own.
Of a data set all phases draw the same samples: what does not change is, request for request, as it would have been.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from banditroute.core.baselines import Utility
from banditroute.core.errors import DatasetError
from banditroute.lab.datasets import Dataset
from banditroute.lab.environments import ArmSpec, BinaryScore, Environment
from banditroute.lab.replay import Stream
from banditroute.lab.source import FloatArray, IntArray, Source, cost_reference_usd, model_costs_usd

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Happening:
    """Something that happens to a model from request `start` (counted from 0) up to, not including, request `end`; None: to the
    last. This one does nothing.

    Methods raise DatasetError where the source has no such model, or is of a kind that cannot be changed.
    """

    model: str
    start: int = 0
    end: int | None = None

    def changed(self, source: Source) -> Source:
        """The source meanwhile."""
        return source

    def present(self, source: Source) -> BoolArray:
        """Which models can be routed to meanwhile; shape (models,)."""
        return np.ones(len(source.models), dtype=bool)

    def failing(self, source: Source) -> BoolArray:
        """Which models' calls fail meanwhile; shape (models,)."""
        return np.zeros(len(source.models), dtype=bool)


@dataclass(frozen=True, kw_only=True)
class Degraded(Happening):
    """Scores are worse by `loss`, in points of quality, and at least 0. Nobody is told.

    A data set's recorded scores are lowered one by one, so the mean of 0/1 scores falls by less: those that are 0 already
    cannot fall. In an environment the true mean falls by `loss`, also that of 0/1 scores. `categories`: where; empty:
    everywhere.
    """

    loss: float
    categories: tuple[str, ...] = ()

    def changed(self, source: Source) -> Source:
        touched = [not self.categories or name in self.categories for name in source.categories]
        if isinstance(source, Dataset):
            k, rows = _index(source, self.model), np.array(touched)[source.sample_category]
            scores = source.scores.copy()
            scores[rows, k] = np.maximum(0.0, scores[rows, k] - self.loss)
            return dataclasses.replace(source, scores=scores)
        return _respecified(source, self.model, lambda c, arm: _lowered(arm, self.loss) if touched[c] else arm)


@dataclass(frozen=True, kw_only=True)
class Repriced(Happening):
    """Requests cost `factor` times as much. The router is told by a reload."""

    factor: float

    def changed(self, source: Source) -> Source:
        if isinstance(source, Dataset):
            costs_usd = source.costs_usd.copy()
            costs_usd[:, _index(source, self.model)] *= self.factor
            return dataclasses.replace(source, costs_usd=costs_usd)
        return _respecified(source, self.model, lambda _, arm: _dearer(arm, self.factor))


@dataclass(frozen=True, kw_only=True)
class Absent(Happening):
    """Not configured: the model arrives at `end`, or is removed at `start`. The router is told by a reload."""

    def present(self, source: Source) -> BoolArray:
        present = np.ones(len(source.models), dtype=bool)
        present[_index(source, self.model)] = False
        return present


@dataclass(frozen=True, kw_only=True)
class Down(Happening):
    """Every call times out: it costs nothing, is worth nothing, and is reported as such."""

    def failing(self, source: Source) -> BoolArray:
        failing = np.zeros(len(source.models), dtype=bool)
        failing[_index(source, self.model)] = True
        return failing


def _index(source: Source, model: str) -> int:
    if model not in source.models:
        raise DatasetError(f"{source.name}: no model {model!r}; there are {', '.join(source.models)}")
    return source.models.index(model)


def _respecified(source: Source, model: str, change: Callable[[int, ArmSpec], ArmSpec]) -> Environment:
    """The environment with `change(category, arm)` in place of each arm of a model."""
    _index(source, model)
    if not isinstance(source, Environment):
        raise DatasetError(f"{source.name}: only data sets and environments can be changed, not {type(source).__name__}")
    categories = {
        name: category.model_copy(update={"models": {**category.models, model: change(c, category.models[model])}})
        for c, (name, category) in enumerate(source.spec.categories.items())
    }
    return Environment(source.spec.model_copy(update={"categories": categories}))


def _lowered(arm: ArmSpec, loss: float) -> ArmSpec:
    mean = max(0.0, arm.score.mean - loss)
    changes = {"mean": mean}
    if not isinstance(arm.score, BinaryScore):
        changes["sd"] = min(arm.score.sd, math.sqrt(mean * (1.0 - mean)))
    return arm.model_copy(update={"score": arm.score.model_copy(update=changes)})


def _dearer(arm: ArmSpec, factor: float) -> ArmSpec:
    cost = arm.cost_usd
    return arm.model_copy(update={"cost_usd": cost.model_copy(update={"mean": factor * cost.mean, "sd": factor * cost.sd})})


# --- the course of a run ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Phase:
    """From request `start` on until the next phase. `present` and `list_costs_usd` (USD per request) are what the router
    is configured with, `failing` are models whose calls time out; shapes (models,). `utilities` are the true means, of shape
    (categories, models), with -inf for models that are absent."""

    start: int
    present: BoolArray
    failing: BoolArray
    list_costs_usd: FloatArray
    utilities: FloatArray

    def configured_as(self, other: Phase) -> bool:
        """Whether the router's configuration is the same in both."""
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


def make_course(source: Source, happenings: Sequence[Happening] = (), *, requests: int, seed: int, cost_weight: float) -> Course:
    """The requests of a seed as they come under the happenings, which add up where they overlap, in their order.

    Utility is score - cost_weight * cost / the unchanged source's cost reference. Without happenings the requests are those
    of `replay.make_stream`.

    Raises DatasetError as happenings do, and where no model is left.
    """
    bounds = {0}.union(*[(each.start, requests if each.end is None else each.end) for each in happenings])
    starts = sorted(bound for bound in bounds if bound < requests)
    utility = Utility(cost_weight, cost_reference_usd(source))
    phases, sources = [], []
    for start in starts:
        now, present, failing = source, np.ones(len(source.models), dtype=bool), np.zeros(len(source.models), dtype=bool)
        for each in happenings:
            if each.start <= start and (each.end is None or start < each.end):
                now, present, failing = each.changed(now), present & each.present(now), failing | each.failing(now)
        if not present.any():
            raise DatasetError(f"{source.name}: no model is left at request {start}; leave one")
        means = now.mean_scores - cost_weight * now.mean_costs_usd / utility.cost_reference_usd
        utilities = np.where(present, np.where(failing, 0.0, means), -math.inf)
        costs_usd = model_costs_usd(now)
        phases.append(Phase(start=start, present=present, failing=failing, list_costs_usd=costs_usd, utilities=utilities))
        sources.append(now)
    phase_of = np.searchsorted(starts, np.arange(requests), side="right") - 1
    rng = np.random.default_rng([seed, zlib.crc32(b"stream")])
    draws = [sources[phase].draw(rng) for phase in phase_of.tolist()]
    stream = Stream(
        categories=np.array([draw.category for draw in draws], dtype=np.int64),
        scores=np.array([draw.scores for draw in draws]),
        costs_usd=np.array([draw.costs_usd for draw in draws]),
    )
    return Course(source=source, utility=utility, phases=tuple(phases), phase_of=phase_of.astype(np.int64), stream=stream)


# --- how feedback comes ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How feedback comes: `late` requests after its own, never (`missing`), twice in a row (`duplicated`), or first
    wrong (`corrected`), as the score of another request of the phase, and right `late` requests afterwards, at the
    earliest one. Shares of requests, independent of one another."""

    late: int = 0
    missing: float = 0.0
    duplicated: float = 0.0
    corrected: float = 0.0


PROMPT = Delivery()
DIRTY = Delivery(late=200, missing=0.5, duplicated=0.1, corrected=0.05)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mail:
    """A seed's feedback under a `Delivery`: by request whether it comes, how often, and whose score it first tells
    (its own number where that is right); shapes (requests,)."""

    comes: BoolArray
    copies: IntArray
    first_told: IntArray


def make_mail(delivery: Delivery, course: Course, *, seed: int) -> Mail:
    """What becomes of each request's feedback, whichever model serves it."""
    rng = np.random.default_rng([seed, zlib.crc32(b"mail")])
    lost, doubled, wrong, other = rng.random((4, course.requests))
    own = np.arange(course.requests)
    starts = np.array([phase.start for phase in course.phases])
    sizes = np.diff([*starts, course.requests])
    elsewhere = starts[course.phase_of] + np.floor(other * sizes[course.phase_of]).astype(np.int64)
    return Mail(
        comes=lost >= delivery.missing,
        copies=np.where(doubled < delivery.duplicated, 2, 1),
        first_told=np.where(wrong < delivery.corrected, elsewhere, own),
    )
