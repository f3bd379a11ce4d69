"""Textbook policies that keep a posterior or a confidence set per arm: what a good peer would run.

As `core/baselines.py`: none serves traffic; each sees a category, then one outcome.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from banditroute.core.baselines import Utility

GAUSSIAN_NOISE = 0.15
"""Standard deviation of one outcome's utility, as Gaussian Thompson sampling takes it."""
LINUCB_ALPHA = 0.5
"""Width of the confidence bound, the same for all data. On the recorded data sets 1 loses more or about as much."""
CENTRE = 0.5
"""Where rewards are taken to be centred: Gaussian draws start there, LinUCB's ridge shrinks to it."""


class BetaThompson:
    """Thompson sampling with Beta(1, 1) on the score, by fractional counts: alpha += s, beta += 1 - s.

    Agrawal and Goyal (2012), algorithm 2, toss a coin of probability s in place of counting s; the fraction is the
    usual variant without the extra noise. A draw is charged the cell's mean cost, which starts from the model's own (USD
    per request, shape (models,)) as one observation. The other way, Beta on the utility's unit reward, does worse on
    all three recorded data sets.
    """

    def __init__(
        self, *, categories: int, models: int, utility: Utility, rng: random.Random, model_costs_usd: Sequence[float]
    ) -> None:
        self._utility = utility
        self._rng = rng
        self._alphas = [[1.0] * models for _ in range(categories)]
        self._betas = [[1.0] * models for _ in range(categories)]
        self._counts = [[1] * models for _ in range(categories)]
        self._costs_usd = [list(model_costs_usd) for _ in range(categories)]

    def pick(self, category: int, models: Sequence[int]) -> int:
        alphas, betas, costs_usd = self._alphas[category], self._betas[category], self._costs_usd[category]

        def drawn(model: int) -> float:
            return self._utility.of(score=self._rng.betavariate(alphas[model], betas[model]), cost_usd=costs_usd[model])

        return max(models, key=drawn)

    def update(self, *, category: int, model: int, score: float, cost_usd: float) -> None:
        self._alphas[category][model] += score
        self._betas[category][model] += 1.0 - score
        self._counts[category][model] += 1
        costs_usd = self._costs_usd[category]
        costs_usd[model] += (cost_usd - costs_usd[model]) / self._counts[category][model]

    def reweigh(self, utility: Utility) -> None:
        self._utility = utility


class GaussianThompson:
    """Thompson sampling with normal draws of utility, noise sd 0.15 taken as known, each cell on its own.

    The prior N(0.5, 0.15^2) counts as one observation, so after n the draw is N((0.5 + sum) / (n + 1),
    0.15^2 / (n + 1)): Agrawal and Goyal (2013), algorithm 2, at the scale of the rewards.
    """

    def __init__(self, *, categories: int, models: int, utility: Utility, rng: random.Random) -> None:
        self._utility = utility
        self._rng = rng
        self._counts = [[1] * models for _ in range(categories)]
        self._means = [[CENTRE] * models for _ in range(categories)]

    def pick(self, category: int, models: Sequence[int]) -> int:
        means, counts = self._means[category], self._counts[category]
        return max(models, key=lambda model: self._rng.gauss(means[model], GAUSSIAN_NOISE / math.sqrt(counts[model])))

    def update(self, *, category: int, model: int, score: float, cost_usd: float) -> None:
        utility = self._utility.of(score=score, cost_usd=cost_usd)
        counts, means = self._counts[category], self._means[category]
        counts[model] += 1
        means[model] += (utility - means[model]) / counts[model]

    def reweigh(self, utility: Utility) -> None:
        self._utility = utility


class LinUCB:
    """Disjoint LinUCB (Li, Chu, Langford and Schapire 2010, algorithm 1) on x = (1, one-hot category).

    Per model A = I + sum x x^T and theta = A^-1 sum r x, with r the utility less 0.5; the pick maximises
    theta^T x + alpha sqrt(x^T A^-1 x), ties to the first. The intercept carries what a model is worth from one category
    to the next. A^-1 is kept by Sherman-Morrison.
    """

    def __init__(self, *, categories: int, models: int, utility: Utility, alpha: float = LINUCB_ALPHA) -> None:
        self._utility = utility
        self._alpha = alpha
        self._inverses = np.tile(np.eye(1 + categories), (models, 1, 1))
        self._thetas = np.zeros((models, 1 + categories))

    def pick(self, category: int, models: Sequence[int]) -> int:
        c, inverses, thetas = 1 + category, self._inverses, self._thetas
        variances = inverses[:, 0, 0] + 2.0 * inverses[:, 0, c] + inverses[:, c, c]
        bounds = thetas[:, 0] + thetas[:, c] + self._alpha * np.sqrt(variances)
        return models[int(bounds[list(models)].argmax())]

    def update(self, *, category: int, model: int, score: float, cost_usd: float) -> None:
        c, inverse, theta = 1 + category, self._inverses[model], self._thetas[model]
        reward = self._utility.of(score=score, cost_usd=cost_usd) - CENTRE
        seen = inverse[0] + inverse[c]
        gain = seen / (1.0 + seen[0] + seen[c])
        theta += gain * (reward - theta[0] - theta[c])
        inverse -= np.outer(gain, seen)

    def reweigh(self, utility: Utility) -> None:
        self._utility = utility
