"""Worlds drawn from the mixed model: each seed gets true means of its own, then its requests.

True quality of model m in category k: centre + difficulty_k + ability_m + interaction_km (`core/mixed.py`), all normal,
plus `specialist_gap` where m = k mod models. A data set says how a policy fares in one world; a family of worlds says
how it fares on average over worlds of which nothing but the distribution is known.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from banditroute.core.errors import DatasetError
from banditroute.lab.environments import (
    Environment,
    EnvironmentSpec,
    Frozen,
    Name,
    Positive,
    Unit,
    load_environment,
    parsed,
    read_document,
)
from banditroute.lab.source import FloatArray, Source

Above0 = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1000)]

MARGIN = 0.02
"""True means are in [0.02, 0.98], further in where a continuous score's sd asks for it."""
ROOM = 1.5
"""A mean is kept where a score in [0, 1] could have this many times the stated sd: else it were mostly 0 or 1."""
MAX_REDRAWS = 10_000


class Centre(Frozen):
    """The quality of a middling model in a middling category."""

    mean: Unit = 0.5
    sd: Unit = Field(default=0.0, description="between worlds")


class LogNormal(Frozen):
    """A standard deviation that each world draws."""

    median: Above0
    log_sd: Positive = Field(description="standard deviation of its natural logarithm")


class WorldScore(Frozen):
    """How one score scatters about its true mean: 0 or 1, or Beta with this standard deviation."""

    kind: Literal["binary", "continuous"] = "binary"
    sd: Annotated[float, Field(gt=0.0, le=0.3)] | None = Field(default=None, description="of a continuous score")

    @model_validator(mode="after")
    def _consistent(self) -> WorldScore:
        if (self.kind == "continuous") != (self.sd is not None):
            raise ValueError("a continuous score needs an sd, a binary one has none")
        return self


class CostRange(Frozen):
    """Each world draws each model's cost, log-uniformly. USD per request."""

    low: Above0
    high: Above0

    @model_validator(mode="after")
    def _ordered(self) -> CostRange:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


class Zipf(Frozen):
    """The i-th category's share of the traffic is in proportion to i^-zipf."""

    zipf: Annotated[float, Field(ge=0.0, le=10.0)]


class Distribution(Frozen):
    """What the worlds have in common. Standard deviations in points of quality."""

    categories: Count
    models: Count
    centre: Centre = Centre()
    difficulty_sd: Unit = Field(default=0.0, description="between categories")
    ability_sd: Unit = Field(default=0.0, description="between models")
    interaction_sd: Unit | LogNormal = Field(default=0.0, description="between the cells of a world: tau")
    specialist_gap: Unit = Field(default=0.0, description="what model k mod models has above the rest in category k")
    impossible_means: Literal["cut", "redraw"] = Field(
        default="cut", description="a mean that no score can have is cut to the nearest possible, or its whole world drawn anew"
    )
    score: WorldScore = WorldScore()
    costs_usd: tuple[Positive, ...] | CostRange = Field(description="of one request: one for each model, or a range")
    category_weights: Literal["uniform"] | Zipf = "uniform"

    @model_validator(mode="after")
    def _consistent(self) -> Distribution:
        if isinstance(self.costs_usd, tuple) and len(self.costs_usd) != self.models:
            raise ValueError(f"costs_usd has {len(self.costs_usd)} costs for {self.models} models")
        return self


class WorldsSpec(Frozen):
    """A file of worlds."""

    name: Name = Field(description="shown in reports")
    worlds: Distribution


class Worlds:
    """A family of worlds. `world(seed)` is the same whatever the run; families of one shape draw from like quantiles."""

    def __init__(self, spec: WorldsSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.categories = tuple(f"category-{i + 1}" for i in range(spec.worlds.categories))
        self.models = tuple(f"model-{i + 1}" for i in range(spec.worlds.models))

    def world(self, seed: int) -> Environment:
        """The world of one seed. Raises DatasetError where worlds are drawn anew and hardly one is possible."""
        drawn = self.spec.worlds
        rng = np.random.default_rng([seed, zlib.crc32(b"world")])
        means = self._possible_means(rng)
        if isinstance(drawn.costs_usd, CostRange):
            low, high = math.log(drawn.costs_usd.low), math.log(drawn.costs_usd.high)
            costs_usd = np.exp(rng.uniform(low, high, drawn.models)).tolist()
        else:
            costs_usd = list(drawn.costs_usd)
        steepness = drawn.category_weights.zipf if isinstance(drawn.category_weights, Zipf) else 0.0
        shares = np.arange(1, drawn.categories + 1) ** -steepness
        score = drawn.score.model_dump(exclude_none=True)
        categories = {
            category: {
                "weight": share,
                "models": {
                    model: {"score": score | {"mean": mean}, "cost_usd": {"mean": cost, "sd": 0.0}}
                    for model, mean, cost in zip(self.models, row, costs_usd, strict=True)
                },
            }
            for category, share, row in zip(self.categories, (shares / shares.sum()).tolist(), means.tolist(), strict=True)
        }
        return Environment(EnvironmentSpec.model_validate({"name": f"{self.name}[{seed}]", "categories": categories}))

    def _means(self, rng: np.random.Generator) -> FloatArray:
        """Of shape (categories, models), as the mixed model has them: not yet cut."""
        drawn = self.spec.worlds
        shape = drawn.categories, drawn.models
        centre = drawn.centre.mean + drawn.centre.sd * rng.standard_normal()
        difficulty = drawn.difficulty_sd * rng.standard_normal(shape[0])
        ability = drawn.ability_sd * rng.standard_normal(shape[1])
        surprise = rng.standard_normal()
        tau = drawn.interaction_sd
        if isinstance(tau, LogNormal):
            tau = tau.median * math.exp(tau.log_sd * surprise)
        means = centre + difficulty[:, None] + ability + tau * rng.standard_normal(shape)
        category = np.arange(shape[0])
        means[category, category % shape[1]] += drawn.specialist_gap
        return np.asarray(means, dtype=np.float64)

    def _possible_means(self, rng: np.random.Generator) -> FloatArray:
        sd = self.spec.worlds.score.sd or 0.0
        margin = max(MARGIN, 0.5 - math.sqrt(0.25 - (ROOM * sd) ** 2))
        for _ in range(MAX_REDRAWS):
            means = self._means(rng)
            cut = np.clip(means, margin, 1.0 - margin)
            if self.spec.worlds.impossible_means == "cut" or bool((cut == means).all()):
                return cut
        raise DatasetError(f"{self.name}: none of {MAX_REDRAWS} worlds has all its means possible; make its sds smaller")


def load_environment_or_worlds(path: Path | str) -> Environment | Worlds:
    """What a YAML file describes: a family of worlds where it has a `worlds` field, else a calibrated environment.

    Raises DatasetError, which names the file and every wrong field.
    """
    document = read_document(path)
    if isinstance(document, dict) and "worlds" in document:
        return Worlds(parsed(WorldsSpec, document, where=str(path), what="a family of worlds"))
    return load_environment(path)


def source_at(source: Source | Worlds, seed: int) -> Source:
    """What the requests of one seed are drawn from: its world, or the one source that there is."""
    return source.world(seed) if isinstance(source, Worlds) else source
