"""Textbook policies to measure against. They see exactly what the router sees: a category, then one outcome.

None of them serves traffic, so none handles prices, context or time. Categories and models are indices;
each cell (category, model) is learned alone. Those that keep a posterior are in `core/posterior_baselines.py`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Utility(NamedTuple):
    """What one outcome is worth: score - cost_weight * cost / cost_reference.

    `cost_weight` is in points of score, `cost_reference_usd` is in USD and above 0.
    """

    cost_weight: float
    cost_reference_usd: float

    def of(self, *, score: float, cost_usd: float) -> float:
        """The utility of a score in [0, 1] bought for `cost_usd`. At most 1; unbounded below."""
        return score - self.cost_weight * cost_usd / self.cost_reference_usd

    def unit_reward(self, *, score: float, cost_usd: float) -> float:
        """The utility mapped affinely from [-cost_weight, 1] to [0, 1], and clipped: what UCB1's bound needs."""
        reward = (self.of(score=score, cost_usd=cost_usd) + self.cost_weight) / (1.0 + self.cost_weight)
        return min(1.0, max(0.0, reward))


class Policy(Protocol):
    """Picks a model for each request, and is told how that went, mostly before the next pick."""

    def pick(self, category: int, models: Sequence[int]) -> int:
        """The index of the model to use for a request of `category`, among `models`, ascending."""

    def update(self, *, category: int, model: int, score: float, cost_usd: float) -> None:
        """Learn from the outcome of a pick: a score in [0, 1] and the USD that it cost."""

    def reweigh(self, utility: Utility) -> None:
        """Another utility from now on; what was learned stays."""


class Random:
    """Uniform over the models. Learns nothing."""

    def __init__(self, *, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, category: int, models: Sequence[int]) -> int:
        return models[self._rng.randrange(len(models))]

    def update(self, *, category: int, model: int, score: float, cost_usd: float) -> None:
        pass

    def reweigh(self, utility: Utility) -> None:
        pass


class EpsilonGreedy:
    """With probability epsilon a uniform pick, else the highest mean utility; untried models come first."""

    def __init__(self, *, categories: int, models: int, utility: Utility, rng: random.Random, epsilon: float = 0.05) -> None:
        self._utility = utility
        self._rng = rng
        self._epsilon = epsilon
        self._counts = [[0] * models for _ in range(categories)]
        self._means = [[math.inf] * models for _ in range(categories)]

    def pick(self, category: int, models: Sequence[int]) -> int:
        if self._rng.random() < self._epsilon:
            return models[self._rng.randrange(len(models))]
        return max(models, key=self._means[category].__getitem__)

    def update(self, *, category: int, model: int, score: float, cost_usd: float) -> None:
        utility = self._utility.of(score=score, cost_usd=cost_usd)
        counts, means = self._counts[category], self._means[category]
        counts[model] += 1
        means[model] = utility if counts[model] == 1 else means[model] + (utility - means[model]) / counts[model]

    def reweigh(self, utility: Utility) -> None:
        self._utility = utility


class UCB1:
    """Mean reward + sqrt(2 ln N / n) (Auer, Cesa-Bianchi and Fischer 2002), on utility mapped to [0, 1]."""

    def __init__(self, *, categories: int, models: int, utility: Utility) -> None:
        self._utility = utility
        self._counts = [[0] * models for _ in range(categories)]
        self._sums = [[0.0] * models for _ in range(categories)]

    def pick(self, category: int, models: Sequence[int]) -> int:
        counts, sums = self._counts[category], self._sums[category]
        for model in models:
            if counts[model] == 0:
                return model
        doubled_log = 2.0 * math.log(sum(counts))
        return max(models, key=lambda model: sums[model] / counts[model] + math.sqrt(doubled_log / counts[model]))

    def update(self, *, category: int, model: int, score: float, cost_usd: float) -> None:
        self._counts[category][model] += 1
        self._sums[category][model] += self._utility.unit_reward(score=score, cost_usd=cost_usd)

    def reweigh(self, utility: Utility) -> None:
        self._utility = utility
