"""What a simulation draws its requests from: real rows or a calibrated environment."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Draw(NamedTuple):
    """One request with the outcome that each model would have had.

    `scores` in [0, 1], `costs_usd` in USD, tokens in tokens; all of shape (models,). Tokens are None where
    no model's are known, and NaN for a model whose own are not. `features` of the prompt, as `Source` names them: (d,).
    """

    category: int
    scores: FloatArray
    costs_usd: FloatArray
    input_tokens: FloatArray | None
    output_tokens: FloatArray | None
    features: FloatArray | None = None


class Source(Protocol):
    """Requests with known outcomes. Means are exact: those that `draw` has in expectation."""

    @property
    def name(self) -> str: ...

    @property
    def categories(self) -> tuple[str, ...]: ...

    @property
    def models(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> FloatArray:
        """Each category's share of the traffic, of shape (categories,), summing to 1."""

    @property
    def mean_scores(self) -> FloatArray:
        """Of shape (categories, models), in [0, 1]."""

    @property
    def mean_costs_usd(self) -> FloatArray:
        """Of shape (categories, models), in USD per request."""

    def draw(self, rng: np.random.Generator) -> Draw:
        """One request, independent of all others."""

    def draw_of(self, category: int, rng: np.random.Generator) -> Draw:
        """One request of a category."""


def model_costs_usd(source: Source) -> FloatArray:
    """Each model's mean cost per request over the whole traffic, in USD; shape (models,)."""
    return np.asarray(source.weights @ source.mean_costs_usd, dtype=np.float64)


def cost_reference_usd(source: Source) -> float:
    """The mean cost per request of the priciest model, in USD; 1 where everything is free."""
    return float(model_costs_usd(source).max()) or 1.0


def mean_utilities(source: Source, *, cost_weight: float) -> FloatArray:
    """Of shape (categories, models)."""
    return np.asarray(source.mean_scores - cost_weight * source.mean_costs_usd / cost_reference_usd(source), dtype=np.float64)
