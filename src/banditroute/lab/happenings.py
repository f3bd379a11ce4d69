"""What may happen to a stream of requests: models that get worse, come, go, fail or change their price; a weight that changes.

Happenings turn one source into several, one for each phase between two of their bounds (`lab/course.py`), each with exact means
of its own. Of a data set all phases draw the same samples: what does not change is, request for request, as it would have been.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from banditroute.core.errors import DatasetError
from banditroute.lab.datasets import Dataset
from banditroute.lab.environments import ArmSpec, BinaryScore, Environment
from banditroute.lab.source import Source

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Happening:
    """Something that happens from request `start` (counted from 0) up to, not including, request `end`; None: to the last. It
    happens to `model`, where it happens to one. This one does nothing.

    Methods raise DatasetError where the source has no such model, or is of a kind that cannot be changed.
    """

    model: str = ""
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

    def weight(self, cost_weight: float) -> float:
        """The cost weight meanwhile."""
        return cost_weight


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


@dataclass(frozen=True, kw_only=True)
class Reweighted(Happening):
    """Cost counts `cost_weight` in all categories: an operator squeezes the budget, or is generous. The router is told."""

    cost_weight: float

    def weight(self, cost_weight: float) -> float:
        return self.cost_weight


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
