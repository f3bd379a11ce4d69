"""What the demo plays: a source of requests, and the configuration that an operator would write for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from banditroute.lab.datasets import Dataset
from banditroute.lab.environments import Environment
from banditroute.lab.source import FloatArray, Source, cost_reference_usd, model_costs_usd

DEFAULT_ENVIRONMENT = "mmlu_pro"
COST_WEIGHT = 0.3
REQUEST_TOKENS = 1000
"""Where no list price fits, a request stands for so many input tokens at the model's mean cost."""

_FIT_ROWS = 2000
_FIT_ERROR = 0.05


class Scenario(NamedTuple):
    """A source and how it is served.

    `by_token`: costs follow from list prices and tokens; else every request costs its model's mean.
    """

    source: Source
    config: Mapping[str, Any]
    by_token: bool


def make_scenario(source: Source) -> Scenario:
    """The configuration for `source`: every model in every category, list prices as the costs imply them."""
    prices = _list_prices(source)
    by_token = prices is not None
    if prices is None:
        prices = [(usd * 1e6 / REQUEST_TOKENS, 0.0) for usd in model_costs_usd(source).tolist()]
    category = {
        "models": list(source.models),
        "cost_weight": COST_WEIGHT,
        "cost_reference_usd": float(cost_reference_usd(source)),
        **_expected_tokens(source),
    }
    config = {
        "store": "sqlite:///./state",
        "server": {"drain_s": 0.0},
        "models": {
            name: {"input_usd_per_mtok": float(f"{into:.4g}"), "output_usd_per_mtok": float(f"{out:.4g}")}
            for name, (into, out) in zip(source.models, prices, strict=True)
        },
        "categories": {name: dict(category) for name in source.categories},
    }
    return Scenario(source, config, by_token)


def _tokens_and_costs(source: Source) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Input tokens, output tokens and costs, each of shape (observations, models); None where tokens are not known."""
    if isinstance(source, Dataset):
        if source.input_tokens is None or source.output_tokens is None:
            return None
        rows = np.linspace(0, len(source.scores) - 1, min(_FIT_ROWS, len(source.scores))).astype(int)
        found = source.input_tokens[rows], source.output_tokens[rows], source.costs_usd[rows]
    elif isinstance(source, Environment):
        arms = [[category.models[model] for model in source.models] for category in source.spec.categories.values()]
        into = np.array([[arm.input_tokens.mean if arm.input_tokens else np.nan for arm in row] for row in arms])
        out = np.array([[arm.output_tokens.mean if arm.output_tokens else np.nan for arm in row] for row in arms])
        found = into, out, source.mean_costs_usd
    else:
        return None
    return None if np.isnan(found[0]).any() or np.isnan(found[1]).any() else found


def _list_prices(source: Source) -> list[tuple[float, float]] | None:
    """USD per million input and output tokens of each model, where such prices explain all costs to 5 %."""
    found = _tokens_and_costs(source)
    if found is None:
        return None
    into, out, costs = found
    prices = []
    for model in range(len(source.models)):
        (per_input, per_output), error = nnls(np.stack([into[:, model], out[:, model]], axis=1), costs[:, model])
        if error > _FIT_ERROR * np.linalg.norm(costs[:, model]):
            return None
        prices.append((per_input * 1e6, per_output * 1e6))
    return prices


def _expected_tokens(source: Source) -> dict[str, float]:
    found = _tokens_and_costs(source)
    if found is None:
        return {}
    return {
        "expected_input_tokens": float(round(found[0].mean())),
        "expected_output_tokens": float(round(found[1].mean())),
    }
