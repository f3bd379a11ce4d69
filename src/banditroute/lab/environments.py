"""Calibrated environments: a data set's figures without its rows.

Scores, costs and tokens are drawn independently of one another given category and model, except that all models of a
request see the same number of input tokens, as far as their means and spreads allow: one prompt, several tokenizers.
A policy sees one model per request, so correlation between models could not change what it learns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from banditroute.core.errors import DatasetError
from banditroute.lab.source import Draw, FloatArray

WEIGHT_SLACK = 0.01
"""How far from 1 the categories' weights may sum (they are rounded in files); they are normalised."""

Unit = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Spec = TypeVar("Spec", bound="Frozen")


class Frozen(BaseModel):
    """What every part of a file is: fixed, and without fields that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BinaryScore(Frozen):
    """A score of 0 or 1."""

    kind: Literal["binary"] = Field(default="binary", description="0 or 1, as a right or wrong answer")
    mean: Unit = Field(description="probability of a 1")


class ContinuousScore(Frozen):
    """A score in [0, 1], drawn from the Beta distribution with this mean and standard deviation."""

    kind: Literal["continuous"] = Field(default="continuous", description="anything in [0, 1], as a judge's mark")
    mean: Unit = Field(description="expected score, in [0, 1]")
    sd: Unit = Field(description="standard deviation of the score")

    @model_validator(mode="after")
    def _possible(self) -> ContinuousScore:
        most = math.sqrt(self.mean * (1.0 - self.mean))
        if self.sd > 1.001 * most:
            raise ValueError(f"sd {self.sd:g} is more than a score in [0, 1] with mean {self.mean:g} can have ({most:.4g})")
        return self


class Spread(Frozen):
    """A quantity of 0 or more, drawn from the log-normal distribution with this mean and standard deviation."""

    mean: Positive = Field(description="expected value, in the quantity's unit")
    sd: Positive = Field(description="standard deviation, in the quantity's unit")

    @model_validator(mode="after")
    def _possible(self) -> Spread:
        if self.mean == 0.0 and self.sd > 0.0:
            raise ValueError("a quantity of 0 or more with mean 0 has sd 0")
        return self


class ArmSpec(Frozen):
    """What one model does in one category."""

    score: Annotated[BinaryScore | ContinuousScore, Field(discriminator="kind")]
    cost_usd: Spread = Field(description="cost of one request, in USD")
    input_tokens: Spread | None = Field(default=None, description="tokens of one prompt; null where unknown")
    output_tokens: Spread | None = Field(default=None, description="tokens of one answer; null where unknown")


class CategorySpec(Frozen):
    """One category of tasks."""

    weight: float = Field(gt=0.0, le=1.0, description="share of the traffic; all categories' weights sum to 1")
    models: dict[Name, ArmSpec] = Field(min_length=1, description="the same models in every category")


class EnvironmentSpec(Frozen):
    """An environment file."""

    name: Name = Field(description="shown in reports")
    categories: dict[Name, CategorySpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> EnvironmentSpec:
        models = set(next(iter(self.categories.values())).models)
        for name, category in self.categories.items():
            if odd := models ^ set(category.models):
                raise ValueError(f"categories differ in models: {', '.join(sorted(odd))} not in each; see {name!r}")
        total = sum(category.weight for category in self.categories.values())
        if abs(total - 1.0) > WEIGHT_SLACK:
            raise ValueError(f"the categories' weights sum to {total:g}; make it 1")
        return self


class _LogNormals:
    """Log-normal variables matched to means and standard deviations; shape (models,), NaN where unknown."""

    def __init__(self, spreads: Sequence[Spread | None]) -> None:
        mean = np.array([math.nan if s is None else s.mean for s in spreads])
        ratio = np.array([math.nan if s is None else s.sd / (s.mean or 1.0) for s in spreads])
        variance = np.log1p(ratio * ratio)
        self.known = bool((~np.isnan(mean)).any())
        self._sigma = np.sqrt(variance)
        self._scale = mean * np.exp(-variance / 2.0)

    def at(self, z: FloatArray | float) -> FloatArray:
        """The values at standard-normal quantiles `z`."""
        return np.asarray(self._scale * np.exp(self._sigma * z), dtype=np.float64)


class _Cell:
    """The distributions of one category, over its models."""

    def __init__(self, arms: Sequence[ArmSpec]) -> None:
        mean = np.array([arm.score.mean for arm in arms])
        sd = np.array([arm.score.sd if isinstance(arm.score, ContinuousScore) else math.inf for arm in arms])
        with np.errstate(divide="ignore", invalid="ignore"):
            strength = mean * (1.0 - mean) / (sd * sd) - 1.0
        # A Beta of no strength left is a 0/1 score; one without spread is its mean.
        self._binary = strength <= 1e-6
        self._beta = np.isfinite(strength) & ~self._binary
        self._mean = mean
        self._alpha = np.where(self._beta, mean * strength, 1.0)
        self._beta_param = np.where(self._beta, (1.0 - mean) * strength, 1.0)
        self.cost = _LogNormals([arm.cost_usd for arm in arms])
        self.input = _LogNormals([arm.input_tokens for arm in arms])
        self.output = _LogNormals([arm.output_tokens for arm in arms])

    def scores(self, rng: np.random.Generator) -> FloatArray:
        scores = np.where(self._binary, rng.random(len(self._mean)) < self._mean, self._mean)
        if self._beta.any():
            scores = np.where(self._beta, rng.beta(self._alpha, self._beta_param), scores)
        return np.asarray(scores, dtype=np.float64)


class Environment:
    """A source of requests drawn from calibrated figures. Models in the order of the file's first category. `notes` say what the
    figures lack."""

    def __init__(self, spec: EnvironmentSpec, *, notes: Sequence[str] = ()) -> None:
        self.spec = spec
        self.notes = tuple(notes)
        self.name = spec.name
        self.categories = tuple(spec.categories)
        self.models = tuple(next(iter(spec.categories.values())).models)
        arms = [[category.models[model] for model in self.models] for category in spec.categories.values()]
        weights = np.array([category.weight for category in spec.categories.values()])
        self.weights: FloatArray = weights / weights.sum()
        self.mean_scores: FloatArray = np.array([[arm.score.mean for arm in row] for row in arms])
        self.mean_costs_usd: FloatArray = np.array([[arm.cost_usd.mean for arm in row] for row in arms])
        self._upper_shares = np.cumsum(self.weights)
        self._cells = [_Cell(row) for row in arms]

    def draw(self, rng: np.random.Generator) -> Draw:
        """A request of a category drawn by weight, with every model's outcome. Tokens are whole numbers."""
        return self.draw_of(min(int(np.searchsorted(self._upper_shares, rng.random(), side="right")), len(self._cells) - 1), rng)

    def draw_of(self, category: int, rng: np.random.Generator) -> Draw:
        """A request of a category, with every model's outcome."""
        cell = self._cells[category]
        scores = cell.scores(rng)
        costs_usd = cell.cost.at(rng.standard_normal(len(self.models)))
        input_tokens = np.rint(cell.input.at(float(rng.standard_normal()))) if cell.input.known else None
        output_tokens = np.rint(cell.output.at(rng.standard_normal(len(self.models)))) if cell.output.known else None
        return Draw(category, scores, costs_usd, input_tokens, output_tokens)


def load_environment(path: Path | str) -> Environment:
    """The environment in a YAML file.

    Raises DatasetError, which names the file and every wrong field, where it cannot be read or is not an environment.
    """
    return Environment(parsed(EnvironmentSpec, read_document(path), where=str(path), what="a calibrated environment"))


def read_document(path: Path | str) -> Any:
    """What a YAML file holds. Raises DatasetError where it cannot be read."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: not a readable YAML file ({error}); check the path and the syntax") from error


def parsed(spec: type[Spec], document: Any, *, where: str, what: str) -> Spec:
    """The document as `spec`. Raises DatasetError, which names `where` and every wrong field, where it is none."""
    try:
        return spec.model_validate(document)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in error.errors())
        raise DatasetError(f"{where}: not {what}: {told}; mend these") from error
