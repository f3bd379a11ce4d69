"""Full-information data sets: every model scored on every sample, so that any policy can be replayed exactly."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from banditroute.core.errors import DatasetError
from banditroute.lab.render import comment, inline_yaml
from banditroute.lab.source import Draw, FloatArray, IntArray, Source

PRIOR_SAMPLES_MAX = 25
"""The most pseudo-observations that a prior may claim per (category, model)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """n samples x K models. Each category has at least one sample.

    `sample_category` (n,) indexes `categories`; `scores` (n, K) in [0, 1]; `costs_usd` (n, K) in USD;
    tokens (n, K) in tokens with NaN where unknown, or None where none is known. `prompts`: the n texts, where loaded.
    `features` (n, d), raw, are named by `feature_names`.
    """

    name: str
    categories: tuple[str, ...]
    models: tuple[str, ...]
    sample_category: IntArray
    scores: FloatArray
    costs_usd: FloatArray
    input_tokens: FloatArray | None = None
    output_tokens: FloatArray | None = None
    prompts: tuple[str, ...] | None = None
    features: FloatArray | None = None
    feature_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.sample_category), len(self.models))
        for field in ("scores", "costs_usd", "input_tokens", "output_tokens"):
            matrix = getattr(self, field)
            if matrix is not None and matrix.shape != shape:
                raise DatasetError(f"{self.name}: {field} has shape {matrix.shape}; give {shape}, samples x models")
        if self.prompts is not None and len(self.prompts) != shape[0]:
            raise DatasetError(f"{self.name}: {len(self.prompts)} prompts for {shape[0]} samples; give each sample its prompt")
        wanted = (shape[0], len(self.feature_names))
        if self.features is not None and self.features.shape != wanted:
            raise DatasetError(f"{self.name}: features have shape {self.features.shape}; give {wanted}, samples x names")
        empty = np.flatnonzero(self.counts == 0)
        if len(empty) or not self.categories:
            named = ", ".join(self.categories[i] for i in empty) or "there is none"
            raise DatasetError(f"{self.name}: categories without samples ({named}); leave them out")

    @cached_property
    def counts(self) -> IntArray:
        """Samples per category, of shape (categories,)."""
        return np.bincount(self.sample_category, minlength=len(self.categories)).astype(np.int64)

    @cached_property
    def weights(self) -> FloatArray:
        return np.asarray(self.counts / self.counts.sum(), dtype=np.float64)

    @cached_property
    def mean_scores(self) -> FloatArray:
        return self._category_means(self.scores)

    @cached_property
    def mean_costs_usd(self) -> FloatArray:
        return self._category_means(self.costs_usd)

    def rows_of(self, category: int) -> IntArray:
        """The indices of the category's samples."""
        return np.flatnonzero(self.sample_category == category).astype(np.int64)

    def draw(self, rng: np.random.Generator) -> Draw:
        """A sample drawn uniformly, with replacement."""
        return self._sample(int(rng.integers(len(self.sample_category))))

    def draw_of(self, category: int, rng: np.random.Generator) -> Draw:
        """A sample of the category drawn uniformly, with replacement."""
        rows = self._rows[category]
        return self._sample(int(rows[rng.integers(len(rows))]))

    @cached_property
    def _rows(self) -> tuple[IntArray, ...]:
        return tuple(self.rows_of(category) for category in range(len(self.categories)))

    def _sample(self, i: int) -> Draw:
        return Draw(
            category=int(self.sample_category[i]),
            scores=self.scores[i],
            costs_usd=self.costs_usd[i],
            input_tokens=None if self.input_tokens is None else self.input_tokens[i],
            output_tokens=None if self.output_tokens is None else self.output_tokens[i],
            features=None if self.features is None else self.features[i],
        )

    def subset(self, rows: npt.NDArray[Any], *, name: str) -> Dataset:
        """The given samples as a data set of their own; categories that have none of them drop out."""
        kept, sample_category = np.unique(self.sample_category[rows], return_inverse=True)
        return Dataset(
            name=name,
            categories=tuple(self.categories[i] for i in kept),
            models=self.models,
            sample_category=sample_category.astype(np.int64),
            scores=self.scores[rows],
            costs_usd=self.costs_usd[rows],
            input_tokens=None if self.input_tokens is None else self.input_tokens[rows],
            output_tokens=None if self.output_tokens is None else self.output_tokens[rows],
            prompts=None if self.prompts is None else tuple(self.prompts[i] for i in np.arange(len(self.prompts))[rows]),
            features=None if self.features is None else self.features[rows],
            feature_names=self.feature_names,
        )

    def _category_means(self, matrix: FloatArray) -> FloatArray:
        return np.stack([matrix[self.rows_of(c)].mean(axis=0) for c in range(len(self.categories))])


def sampled(source: Source, requests: int, *, seed: int) -> Dataset:
    """So many requests of a source as a data set; categories that do not come drop out."""
    rng = np.random.default_rng([seed, zlib.crc32(b"sampled")])
    draws = [source.draw(rng) for _ in range(requests)]
    kept, sample_category = np.unique([draw.category for draw in draws], return_inverse=True)
    into, out = [draw.input_tokens for draw in draws], [draw.output_tokens for draw in draws]
    return Dataset(
        name=source.name,
        categories=tuple(source.categories[i] for i in kept),
        models=source.models,
        sample_category=sample_category.astype(np.int64),
        scores=np.array([draw.scores for draw in draws]),
        costs_usd=np.array([draw.costs_usd for draw in draws]),
        input_tokens=_joined(into, len(source.models)),
        output_tokens=_joined(out, len(source.models)),
    )


def _joined(rows: Sequence[FloatArray | None], models: int) -> FloatArray | None:
    if all(row is None for row in rows):
        return None
    return np.array([np.full(models, np.nan) if row is None else row for row in rows])


def split(dataset: Dataset, *, fraction: float = 0.5, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Two disjoint parts by sample, "a" with about `fraction` of each category and "b" with the rest.

    Priors learned on one and judged on the other know nothing of the samples that they are judged by. A category
    keeps a sample on either side where it has two; one with a single sample lies in the larger part only.

    Raises DatasetError where `fraction` is not inside (0, 1) or a part would be empty.
    """
    if not 0.0 < fraction < 1.0:
        raise DatasetError(f"{dataset.name}: a split's fraction is {fraction}; give one between 0 and 1")
    rng = np.random.default_rng(seed)
    in_a = np.zeros(len(dataset.sample_category), dtype=bool)
    for category in range(len(dataset.categories)):
        rows = rng.permutation(dataset.rows_of(category))
        size = round(fraction * len(rows))
        if len(rows) > 1:
            size = min(max(size, 1), len(rows) - 1)
        in_a[rows[:size]] = True
    if in_a.all() or not in_a.any():
        raise DatasetError(f"{dataset.name}: too few samples to split; give a data set with two samples of some category")
    return (
        dataset.subset(np.flatnonzero(in_a), name=f"{dataset.name}[a]"),
        dataset.subset(np.flatnonzero(~in_a), name=f"{dataset.name}[b]"),
    )


def half_of(dataset: Dataset, half: Literal["a", "b"], *, fraction: float = 0.5, seed: int = 0) -> Dataset:
    """One part of `split`. Raises DatasetError as it does."""
    return split(dataset, fraction=fraction, seed=seed)[0 if half == "a" else 1]


def make_priors(dataset: Dataset) -> dict[str, dict[str, dict[str, float]]]:
    """{category: {model: {quality, effective_sample_size, output_tokens}}}: the shape of a priors file.

    Quality is the mean score in [0, 1]. The effective sample size is the category's sample count, at most 25:
    a prior from elsewhere must yield to what traffic says. Output tokens appear where the data set has them.
    """
    priors: dict[str, dict[str, dict[str, float]]] = {}
    for c, category in enumerate(dataset.categories):
        rows = dataset.rows_of(c)
        arms = priors[category] = {}
        for k, model in enumerate(dataset.models):
            arms[model] = {
                "quality": rounded(float(dataset.mean_scores[c, k])),
                "effective_sample_size": float(min(PRIOR_SAMPLES_MAX, len(rows))),
            }
            if dataset.output_tokens is not None:
                tokens = dataset.output_tokens[rows, k]
                if not np.isnan(tokens).all():
                    arms[model]["output_tokens"] = rounded(float(np.nanmean(tokens)))
    return priors


def inverted(priors: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """The same priors with each quality mirrored about the mean over the category's models, so that the best becomes
    the worst; cut to [0, 1]. What a start is worth that is wrong about everything but the average."""
    turned = {}
    for category, arms in priors.items():
        told = [quality for arm in arms.values() if (quality := arm["quality"]) is not None]
        twice = 2.0 * sum(told) / len(told) if told else 0.0
        turned[category] = {
            model: {**arm, "quality": None if arm["quality"] is None else min(1.0, max(0.0, twice - arm["quality"]))}
            for model, arm in arms.items()
        }
    return turned


def write_priors(path: Path | str, priors: Mapping[str, Mapping[str, Mapping[str, float]]], *, source: str) -> None:
    """Write a priors file for the configuration's `priors:`. `source` goes into its first line.

    Raises OSError where the file cannot be written.
    """
    lines = comment(f"Priors from {source}. Quality in [0, 1], effective sample size in observations, output tokens in tokens.")
    for category, arms in priors.items():
        lines.append(f"{inline_yaml(category)}:")
        lines += [f"  {inline_yaml(model)}: {inline_yaml(dict(arm))}" for model, arm in arms.items()]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def rounded(value: float) -> float:
    """To six digits, as files hold them."""
    return float(f"{value:.6g}")
