"""`core.drift` for many models at once, in arrays: equal to it step by step, to the bit (tests/test_bench_drift.py)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.core.drift import (
    BETS,
    BIAS_SIZE,
    BIAS_WEIGHT,
    LAG,
    LEAST_ALONE,
    LEAST_OF_ARM,
    LEAST_OF_MODEL,
    NOISE,
    NOISE_WEIGHT,
    QUALIFYING,
    SLACK,
    STANDARD_ERRORS,
    SURELY,
)

Vector = NDArray[np.float64]
Index = NDArray[np.int64]

_BETS = np.array(BETS)


class Alarm(NamedTuple):
    """What the lifecycle would act on: of a model as a whole (`category` is None) or of one arm."""

    model: int
    category: int | None
    up: bool


def after(wealth: Vector, values: Vector, *, reference: Vector, margin: Vector | float, bias: Vector | float = 0.0) -> Vector:
    """`drift.Pair.after` of each row: wealth has shape (rows, 2, bets), downward first; the rest (rows,)."""
    low = np.maximum(0.0, reference - margin + np.minimum(0.0, bias))
    high = np.minimum(1.0, reference + margin + np.maximum(0.0, bias))
    down = (low - values) / np.maximum(1.0 - low, SLACK)
    up = (values - high) / np.maximum(high, SLACK)
    unit = np.stack((down, up), axis=1)[:, :, None]
    return np.asarray((1.0 + _BETS * unit) * (wealth + 1.0), dtype=np.float64)


class Twin:
    """So many models over the same so many categories, each with one source: their streams, references and tests."""

    def __init__(self, models: int, categories: int) -> None:
        self.seen = np.zeros(models, dtype=np.int64)
        self.size, self.square = np.zeros(models), np.zeros(models)
        self.tested, self.gap = np.zeros(models), np.zeros(models)
        self.tests = np.zeros((models, 2, len(BETS)))
        self.sizes, self.totals = np.zeros((models, categories)), np.zeros((models, categories))
        self.recent = np.zeros((models, categories), dtype=np.int64)
        self.alone = np.zeros((models, categories, 2, len(BETS)))
        self._waiting = np.zeros((models, LAG + 1))  # rings: the oldest at `_oldest`, `_depth` of them
        self._waiting_in = np.zeros((models, LAG + 1), dtype=np.int64)
        self._waiting_off = np.zeros((models, LAG + 1))  # NaN where the value was not tested
        self._oldest, self._depth = np.zeros(models, dtype=np.int64), np.zeros(models, dtype=np.int64)

    def step(self, models: Index, categories: Index, values: Vector) -> None:
        """One value of each of `models`, all of them different: `drift.observed`, then `drift.joined` where one is due."""
        size, sizes = self.size[models], self.sizes[models, categories]
        variance = (self.square[models] + NOISE_WEIGHT * NOISE) / (size + NOISE_WEIGHT)
        mean = self.totals[models, categories] / np.maximum(sizes, 1.0)
        off = np.full(len(models), np.nan)
        on = np.flatnonzero((sizes >= LEAST_OF_ARM) & (size >= LEAST_OF_MODEL))
        if on.size:
            recent = self.recent[models[on], categories[on]]
            often = (recent - SURELY * np.sqrt(recent)) / (LAG * sizes[on])
            margin = SLACK + STANDARD_ERRORS * np.sqrt(variance[on] * np.maximum(1.0 / size[on], often))
            bias = self.gap[models[on]] / (self.tested[models[on]] + BIAS_WEIGHT)
            self.tests[models[on]] = after(self.tests[models[on]], values[on], reference=mean[on], margin=margin, bias=bias)
            off[on] = values[on] - mean[on]
        on = np.flatnonzero(sizes >= LEAST_ALONE)
        if on.size:
            arms = models[on], categories[on]
            margin = SLACK + STANDARD_ERRORS * np.sqrt(variance[on] / sizes[on])
            self.alone[arms] = after(self.alone[arms], values[on], reference=mean[on], margin=margin)
        on = np.flatnonzero(self.seen[models] >= QUALIFYING)
        if on.size:
            waits = models[on]
            at = (self._oldest[waits] + self._depth[waits]) % (LAG + 1)
            self._waiting[waits, at], self._waiting_in[waits, at], self._waiting_off[waits, at] = (
                values[on],
                categories[on],
                off[on],
            )
            self._depth[waits] += 1
            self.recent[waits, categories[on]] += 1
        self.seen[models] += 1
        on = np.flatnonzero(self._depth[models] > LAG)
        if on.size:
            self._join(models[on])

    def _join(self, models: Index) -> None:
        at = self._oldest[models]
        values, arms = self._waiting[models, at], (models, self._waiting_in[models, at])
        count, total = self.sizes[arms], self.totals[arms]
        gap = np.where(count > 0.0, values - total / np.maximum(count, 1.0), 0.0)
        self.square[models] += gap * gap * (count / (count + 1.0))
        self.size[models] += 1.0
        off = self._waiting_off[models, at]
        known = ~np.isnan(off) & (self.tested[models] < BIAS_SIZE)
        self.tested[models] += known
        self.gap[models] += np.where(known, off, 0.0)
        self.sizes[arms], self.totals[arms] = count + 1.0, total + values
        self.recent[arms] -= 1
        self._oldest[models], self._depth[models] = (at + 1) % (LAG + 1), self._depth[models] - 1

    def alarms(self, models: Index, categories: Index, needed: float) -> list[Alarm]:
        """Of models that just had a value of `categories`: those of which the evidence exceeds `needed`. Their tests begin anew
        and what waits is dropped, as `lifecycle` does it; references stay. A model has one at most: first the model's own."""
        of_model, of_arm = self.tests[models].mean(axis=2) > needed, self.alone[models, categories].mean(axis=2) > needed
        found = []
        for i in np.flatnonzero((of_model | of_arm).any(axis=1)).tolist():
            model, category = int(models[i]), int(categories[i])
            if of_model[i].any():
                found.append(Alarm(model, None, up=not of_model[i, 0]))
                self.begin_anew(model)
            else:
                found.append(Alarm(model, category, up=not of_arm[i, 0]))
                self._arm_anew(model, category)
        return found

    def begin_anew(self, model: int) -> None:
        """All of a model's tests, and nothing waits."""
        self.tests[model], self.alone[model] = 0.0, 0.0
        self._depth[model], self.recent[model] = 0, 0

    def _arm_anew(self, model: int, category: int) -> None:
        self.alone[model, category], self.recent[model, category] = 0.0, 0
        at = (self._oldest[model] + np.arange(self._depth[model])) % (LAG + 1)
        at = at[self._waiting_in[model, at] != category]
        self._depth[model], self._oldest[model] = len(at), 0
        for ring in (self._waiting, self._waiting_in, self._waiting_off):
            ring[model, : len(at)] = ring[model, at]
