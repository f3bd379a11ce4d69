"""The configurations that benchmarks run on: priors put the arms where a case needs them."""

from __future__ import annotations

from typing import Any

CASES = ("cached", "two", "four")
"""cached: equal requests; two: two of four arms contend; four: all four do. The last two vary their tokens."""

TOKENS = range(500, 1500)
"""The lengths that the last two cycle through: more than are cached, not so different that arms fall out."""

_QUALITIES = {"cached": (0.8, 0.8, 0.8, 0.8), "two": (0.8, 0.8, 0.3, 0.3), "four": (0.8, 0.8, 0.8, 0.8)}


def config(*, store: str) -> dict[str, Any]:
    """A configuration with one category per case, four models each."""
    models = {f"model-{i}": {"input_usd_per_mtok": 0.5 + 0.1 * i, "output_usd_per_mtok": 2.0} for i in range(4)}
    size = {"cached": 25, "two": 100, "four": 25}
    return {
        "store": store,
        "models": models,
        "categories": {case: {"models": list(models), "cost_weight": 0.1} for case in CASES},
        "priors": {
            case: {
                model: {"quality": quality, "effective_sample_size": size[case]}
                for model, quality in zip(models, _QUALITIES[case], strict=True)
            }
            for case in CASES
        },
    }


def crowd(categories: int, models: int) -> dict[str, Any]:
    """So many categories over the same so many models, in memory; everything else is the default."""
    names = [f"model-{i}" for i in range(models)]
    return {
        "store": "memory:",
        "models": {name: {"input_usd_per_mtok": 0.5 + 0.1 * i, "output_usd_per_mtok": 2.0} for i, name in enumerate(names)},
        "categories": {f"category-{i}": {"models": names} for i in range(categories)},
    }


def rivals(models: int, features: int) -> dict[str, Any]:
    """One category whose arms cost the same and go on contending: what is remembered stays small."""
    names = [f"model-{i}" for i in range(models)]
    return {
        "store": "memory:",
        "models": {name: {"input_usd_per_mtok": 0.5, "output_usd_per_mtok": 2.0} for name in names},
        "categories": {
            "rivals": {
                "models": names,
                "features": {f"feature-{i}": {"mean": 0.0, "stddev": 1.0} for i in range(features)},
                "max_effective_sample_size": 40,
            }
        },
    }
