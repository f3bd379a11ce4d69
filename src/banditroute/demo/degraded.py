"""A source of which one model has silently got worse."""

from __future__ import annotations

import numpy as np

from banditroute.lab.source import Draw, FloatArray, Source


class Degraded:
    """`source`, but of the good answers of one model only the share `kept` is left. Names, costs and tokens stay.

    A score of 1 becomes 0 with probability 1 - `kept`, one between 0 and 1 is multiplied by it: the mean falls alike.
    """

    def __init__(self, source: Source, *, model: int, kept: float) -> None:
        self.name, self.categories, self.models = source.name, source.categories, source.models
        self.weights: FloatArray = source.weights
        self.mean_costs_usd: FloatArray = source.mean_costs_usd
        self.mean_scores: FloatArray = source.mean_scores.copy()
        self.mean_scores[:, model] *= kept
        self._source, self._model, self._kept = source, model, kept

    def draw(self, rng: np.random.Generator) -> Draw:
        """As the source's."""
        return self._worse(self._source.draw(rng), rng)

    def draw_of(self, category: int, rng: np.random.Generator) -> Draw:
        """As the source's."""
        return self._worse(self._source.draw_of(category, rng), rng)

    def _worse(self, draw: Draw, rng: np.random.Generator) -> Draw:
        scores = draw.scores.copy()
        score = float(scores[self._model])
        scores[self._model] = float(rng.random() < self._kept) if score == 1.0 else score * self._kept
        return draw._replace(scores=scores)
