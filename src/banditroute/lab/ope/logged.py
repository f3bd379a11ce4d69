"""What an evaluation starts from: logged decisions with their outcomes, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from banditroute.core.errors import EvaluationError
from banditroute.lab.source import FloatArray, IntArray

SUM_TOLERANCE = 1e-6
"""By which the propensities of one decision may miss 1."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Logged:
    """n decisions among K models, in the order in which they were made.

    `category` (n,) indexes `categories`, `chosen` (n,) `models`; `propensities` (n, K) are those that were drawn from,
    0 for a model that could not serve; `quality` (n,) in [0, 1] and `cost_usd` (n,) are what came of it; `context` (n, d) holds
    each category's standardised features in the category's own order, 0 where it has fewer than d.

    Raises:
        EvaluationError: nothing can be told from such a log; says why and what to do.
    """

    categories: tuple[str, ...]
    models: tuple[str, ...]
    category: IntArray
    chosen: IntArray
    propensities: FloatArray
    quality: FloatArray
    cost_usd: FloatArray
    context: FloatArray

    def __post_init__(self) -> None:
        count, models = len(self.chosen), len(self.models)
        if count == 0:
            raise EvaluationError(
                "the log holds no decision with an outcome: serve with `decision_sink: {enabled: true}` and send feedback first"
            )
        shapes = {"category": (count,), "propensities": (count, models), "quality": (count,), "cost_usd": (count,)}
        for field, shape in shapes.items():
            if getattr(self, field).shape != shape:
                raise ValueError(f"{field} has shape {getattr(self, field).shape}, not {shape}")
        if not (np.isfinite(self.cost_usd).all() and ((self.quality >= 0.0) & (self.quality <= 1.0)).all()):
            raise EvaluationError("a quality lies outside [0, 1], or a cost is no number: mend or leave out these decisions")
        self._check_propensities()

    def _check_propensities(self) -> None:
        given = self.propensities
        if (impossible := np.flatnonzero(given[np.arange(len(given)), self.chosen] <= 0.0)).size:
            raise EvaluationError(
                f"{len(impossible)} of {len(given)} decisions chose a model that they give probability 0 (the first is decision "
                f"{impossible[0] + 1} of the log): what they log is not what was drawn from; leave them out with --since"
            )
        if (short := np.flatnonzero((np.abs(given.sum(axis=1) - 1.0) > SUM_TOLERANCE) | (given < 0.0).any(axis=1))).size:
            raise EvaluationError(
                f"the candidates of {len(short)} of {len(given)} decisions lack some: their probabilities sum to "
                f"{given[short[0]].sum():.4g} (decision {short[0] + 1}); log all of them, or leave these out with --since"
            )
        if (given.max(axis=1) >= 1.0).all():
            names = ", ".join(self.models[k] for k in np.unique(self.chosen)[:20])
            raise EvaluationError(
                f"every decision had one possible model ({names}), so nothing is known of another choice: give categories a "
                "second model and a `propensity_floor` (0.02 where evaluation matters), and let it serve for a while"
            )

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def chosen_propensities(self) -> FloatArray:
        """Of shape (n,), above 0."""
        return np.asarray(self.propensities[np.arange(len(self)), self.chosen], dtype=np.float64)
