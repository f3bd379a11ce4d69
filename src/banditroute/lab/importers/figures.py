"""What a log tells of each category and model, and what may be made of that: priors and a calibrated environment.

Whoever wrote the log chose the model, maybe by the prompt. Then a model's mean is also that of the prompts it was given.
This bias does not shrink with more rows, so it bounds what priors may claim (`make_priors`); where the log itself shows
signs of it, `imbalances` names them. None found is no proof of none: what is not logged cannot be compared.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from banditroute.core.errors import DatasetError
from banditroute.core.pool import PRIOR_NOISE, PRIOR_SIZE
from banditroute.lab.calibrate import calibrated_arm, rounded
from banditroute.lab.environments import CategorySpec, EnvironmentSpec
from banditroute.lab.importers.log import Log
from banditroute.lab.source import FloatArray, IntArray

CONFOUNDING_SD = 0.05
"""How far a model's mean in a log is taken to be off for the choice of its prompts: standard deviation, in points of quality."""
SHRINKAGE = 4.0
"""A cell's mean is mixed with its category's as if that were so many observations more."""
MIN_SCORED = 20
"""Scored requests of a category and model that an environment needs: its mean is then known to about 0.1."""
IMBALANCE, MIN_LENGTH_RATIO = 0.25, 1.2
"""Standardised difference of means from which groups are called unlike (Rubin 2001); and prompts of such a ratio at least."""
MIN_COMPARED = 10
METHOD = (
    "per category and model the mean and the standard deviation (divisor n) over the requests that this model answered; a model "
    "whose every score is 0 or 1 is binary; weight = share of the requests; 4 significant digits. What the old routing "
    "chose by prompt is still in these figures"
)


class Cell(NamedTuple):
    """A category and model in a log. Counts of requests; means over those that state the figure, None where none does.

    `quality_se` is the standard error of the mean, which knows nothing of confounding; `latency_s` is a median.
    """

    category: str
    model: str
    request_count: int
    scored_count: int
    quality: float | None
    quality_se: float | None
    cost_usd: float | None
    input_tokens: float | None
    output_tokens: float | None
    latency_s: float | None


def cells(log: Log) -> list[Cell]:
    """The cells that have requests, by category, then model."""
    numbers = {name: log.column(name) for name in ("score", "cost_usd", "input_tokens", "output_tokens", "latency_s")}
    found = []
    for c, category in enumerate(log.categories):
        for k, model in enumerate(log.models):
            rows = _rows(log, c, k)
            if not len(rows):
                continue
            scores = _known(numbers["score"][rows])
            found.append(
                Cell(
                    category=category,
                    model=model,
                    request_count=len(rows),
                    scored_count=len(scores),
                    quality=_mean(scores),
                    quality_se=float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else None,
                    cost_usd=_mean(numbers["cost_usd"][rows]),
                    input_tokens=_mean(numbers["input_tokens"][rows]),
                    output_tokens=_mean(numbers["output_tokens"][rows]),
                    latency_s=float(np.median(known)) if len(known := _known(numbers["latency_s"][rows])) else None,
                )
            )
    return found


def make_priors(log: Log, *, confounding_sd: float = CONFOUNDING_SD) -> dict[str, dict[str, dict[str, float]]]:
    """{category: {model: {quality, effective_sample_size, input_tokens, output_tokens}}}: the shape of a priors file.

    With n scores of variance s² (pooled within cells) a mean is off by s²/n + confounding_sd² in expectation of the square.
    The router takes m observations of a prior to be off by v/m, v = max(s², 0.02). So m = v / (s²/n + confounding_sd²), at most
    n and 25. Quality is shrunk towards the mean over the category's models by 4 observations. Cells without scores have
    no prior.

    Raises:
        DatasetError: no request has a score.
    """
    known = [cell for cell in cells(log) if cell.quality is not None]
    if not known:
        raise DatasetError(f"{log.name}: no request has a score, and priors are of quality; name where scores are")
    variance = _variance(log)
    priors: dict[str, dict[str, dict[str, float]]] = {}
    for category in log.categories:
        here = [cell for cell in known if cell.category == category]
        centre = sum(cell.quality or 0.0 for cell in here) / len(here) if here else 0.0
        for cell in here:
            n, mean = cell.scored_count, cell.quality or 0.0
            prior = {
                "quality": rounded((n * mean + SHRINKAGE * centre) / (n + SHRINKAGE)),
                "effective_sample_size": rounded(prior_size(n, variance=variance, confounding_sd=confounding_sd)),
            }
            for name in ("input_tokens", "output_tokens"):
                if (tokens := getattr(cell, name)) is not None:
                    prior[name] = rounded(tokens)
            priors.setdefault(category, {})[cell.model] = prior
    return priors


def prior_size(n: int, *, variance: float, confounding_sd: float) -> float:
    """The observations that a mean over n scores may count as; see `make_priors`."""
    off = variance / n + confounding_sd**2
    return float(min(PRIOR_SIZE, n, max(PRIOR_NOISE, variance) / off if off > 0.0 else n))


def log_environment(log: Log, *, min_scored: int = MIN_SCORED) -> EnvironmentSpec:
    """The log's figures as a calibrated environment: every model in every category.

    Means and deviations are weighted where the samples are.

    Raises:
        DatasetError: there is one model only, or a cell has too few scores or no cost; names them and what to leave out.
    """
    if len(log.models) < 2:
        raise DatasetError(
            f"{log.name}: one model only ({log.models[0]}): there is nothing to choose; import logs of others as well"
        )
    there = {(cell.category, cell.model): cell for cell in cells(log)}
    thin, free = [], []
    for category in log.categories:
        for model in log.models:
            cell = there.get((category, model))
            if cell is None or cell.scored_count < min_scored:
                thin.append(f"{category} × {model} ({0 if cell is None else cell.scored_count})")
            elif cell.cost_usd is None:
                free.append(f"{category} × {model}")
    if thin:
        shown = ", ".join(thin[:8]) + (f" and {len(thin) - 8} more" if len(thin) > 8 else "")
        raise DatasetError(
            f"{log.name}: an environment needs {min_scored} scored requests of every model in every category; fewer have "
            f"{shown}: leave models or categories out (--leave-out NAME), or lower --min-scored; priors need no such thing"
        )
    if free:
        raise DatasetError(
            f"{log.name}: no cost is known of {', '.join(free[:8])}; export costs, or leave them out (--leave-out NAME)"
        )
    scores, costs_usd, weights = log.column("score"), log.column("cost_usd"), log.column("weight")
    into, out = log.column("input_tokens"), log.column("output_tokens")
    binary = [bool(np.isin(_known(scores[log.model_index == k]), (0.0, 1.0)).all()) for k in range(len(log.models))]
    categories = {}
    for c, category in enumerate(log.categories):
        rows = [_rows(log, c, k) for k in range(len(log.models))]
        arms = {
            model: calibrated_arm(scores[own], costs_usd[own], into[own], out[own], binary=binary[k], weights=weights[own])
            for k, (model, own) in enumerate(zip(log.models, rows, strict=True))
        }
        weight = rounded(sum(len(some) for some in rows) / len(log.samples))
        categories[category] = CategorySpec(weight=weight, models=arms)
    return EnvironmentSpec(name=log.name, categories=categories)


def imbalances(log: Log) -> list[str]:
    """Signs that models of a category were given different requests: longer prompts, or other times. Worst first.

    Of two models that differ from each other only the one with longer prompts or later requests is named.
    """
    columns = {"input_tokens": np.log(np.maximum(log.column("input_tokens"), 1.0)), "time": log.column("time")}
    found: list[tuple[float, str]] = []
    for c, category in enumerate(log.categories):
        rivals = np.unique(log.model_index[log.category_index == c]).tolist()
        for k in rivals:
            model = log.models[k]
            for name, values in columns.items():
                own = _known(values[_rows(log, c, k)])
                rest = _known(values[np.flatnonzero((log.category_index == c) & (log.model_index != k))])
                if min(len(own), len(rest)) < MIN_COMPARED:
                    continue
                gap = float(own.mean() - rest.mean())
                spread = math.sqrt((float(own.var()) + float(rest.var())) / 2.0)
                size = abs(gap) / spread if spread > 0.0 else (math.inf if gap else 0.0)
                if size < IMBALANCE or (gap < 0.0 and len(rivals) == 2):
                    continue
                if name == "time" or abs(gap) >= math.log(MIN_LENGTH_RATIO):
                    found.append((size, f"{category}: {model} {_told(name, gap)} (standardised difference {size:.2f})"))
    return [told for _, told in sorted(found, reverse=True)]


def _told(column: str, gap: float) -> str:
    if column == "time":
        return f"was used {'later' if gap > 0.0 else 'earlier'} than the others"
    return f"got prompts {math.exp(gap):.2g} times as long as the others'"


def _rows(log: Log, category: int, model: int) -> IntArray:
    return np.flatnonzero((log.category_index == category) & (log.model_index == model)).astype(np.int64)


def _variance(log: Log) -> float:
    """Of the scores, pooled within cells; 0 where no cell has two."""
    scores = log.column("score")
    total, freedom = 0.0, 0
    for c in range(len(log.categories)):
        for k in range(len(log.models)):
            known = _known(scores[_rows(log, c, k)])
            if len(known) > 1:
                total += float(known.var()) * len(known)
                freedom += len(known) - 1
    return total / freedom if freedom else 0.0


def _known(values: FloatArray) -> FloatArray:
    return values[~np.isnan(values)]


def _mean(values: FloatArray) -> float | None:
    known = _known(values)
    return float(known.mean()) if len(known) else None
