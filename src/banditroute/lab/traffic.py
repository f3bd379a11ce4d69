"""How often each category comes, and when: a mix of one's own, that drifts or comes and goes with the seasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from banditroute.core.errors import DatasetError
from banditroute.lab.source import FloatArray, Source


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Categories' weights in the traffic, in any unit.

    They are `mix` (a category that is not named has none; empty: as in the source), and go over to `later`, evenly, until the
    last request, where that is given. With `period`, in requests, the i-th of n categories is multiplied by
    exp(`swing` * cos(2 pi (t / period + i / n))): each has its season.
    """

    mix: Mapping[str, float] = field(default_factory=dict)
    later: Mapping[str, float] = field(default_factory=dict)
    period: int | None = None
    swing: float = 1.0

    def weights(self, source: Source, *, requests: int) -> FloatArray:
        """Of shape (requests, categories). Raises DatasetError where a category is named that the source has not."""
        first = self._weights(source, self.mix)
        t = np.arange(requests)[:, None]
        weights = np.tile(first, (requests, 1))
        if self.later:
            part = t / max(1, requests - 1)
            weights = (1.0 - part) * first + part * self._weights(source, self.later)
        if self.period is not None:
            place = np.arange(len(first)) / len(first)
            weights = weights * np.exp(self.swing * np.cos(2.0 * math.pi * (t / self.period + place)))
        return np.asarray(weights, dtype=np.float64)

    @staticmethod
    def _weights(source: Source, mix: Mapping[str, float]) -> FloatArray:
        if not mix:
            return source.weights
        if unknown := [name for name in mix if name not in source.categories]:
            raise DatasetError(f"{source.name}: no category {', '.join(unknown)}; there are {', '.join(source.categories)}")
        weights = np.array([mix.get(name, 0.0) for name in source.categories])
        if weights.sum() <= 0.0:
            raise DatasetError("the traffic has no category; give one a weight above 0")
        return np.asarray(weights / weights.sum(), dtype=np.float64)
