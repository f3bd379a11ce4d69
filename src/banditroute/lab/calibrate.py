"""Makes a calibrated environment of a data set: `python -m banditroute.lab.calibrate DATA OUT.yaml [--source TEXT]`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from banditroute.core.errors import DatasetError
from banditroute.lab.datasets import Dataset
from banditroute.lab.environments import ArmSpec, CategorySpec, EnvironmentSpec
from banditroute.lab.loading import load_dataset
from banditroute.lab.render import comment, inline_yaml
from banditroute.lab.source import FloatArray

DIGITS = 4
METHOD = (
    "per category and model the mean and the standard deviation (divisor n) over the samples; a model whose every score "
    "is 0 or 1 is binary; tokens over the samples that state them; weight = share of the samples; "
    f"{DIGITS} significant digits. Figures only: no row and no text of the data set"
)


def calibrate(dataset: Dataset) -> EnvironmentSpec:
    """The data set's figures, rounded to 4 significant digits. Costs in USD, tokens in tokens."""
    binary = [bool(np.isin(dataset.scores[:, k], (0.0, 1.0)).all()) for k in range(len(dataset.models))]
    categories = {}
    for c, category in enumerate(dataset.categories):
        rows = dataset.rows_of(c)
        arms = {}
        for k, model in enumerate(dataset.models):
            into = None if dataset.input_tokens is None else dataset.input_tokens[rows, k]
            out = None if dataset.output_tokens is None else dataset.output_tokens[rows, k]
            arms[model] = calibrated_arm(dataset.scores[rows, k], dataset.costs_usd[rows, k], into, out, binary=binary[k])
        categories[category] = CategorySpec(weight=rounded(dataset.weights[c]), models=arms)
    return EnvironmentSpec(name=dataset.name, categories=categories)


def calibrated_arm(
    scores: FloatArray,
    costs_usd: FloatArray,
    input_tokens: FloatArray | None,
    output_tokens: FloatArray | None,
    *,
    binary: bool,
    weights: FloatArray | None = None,
) -> ArmSpec:
    """One arm's figures; what is NaN does not count. Scores in [0, 1], costs in USD; each of shape (its samples,). `weights`: how
    much each sample counts; None: all alike."""
    told = _spread(scores, weights)
    score = {"kind": "binary", "mean": told["mean"]} if binary else {"kind": "continuous", **told}
    spreads = {
        "cost_usd": _spread(costs_usd, weights),
        "input_tokens": _tokens(input_tokens, weights),
        "output_tokens": _tokens(output_tokens, weights),
    }
    return ArmSpec.model_validate({"score": score} | spreads)


def render(spec: EnvironmentSpec, *, source: str, method: str = METHOD) -> str:
    """The environment as YAML, one line per model, with source and method in its header."""
    lines = [*comment(f"Source: {source}."), *comment(f"Method: {method}."), f"name: {inline_yaml(spec.name)}", "categories:"]
    for name, category in spec.categories.items():
        lines += [f"  {inline_yaml(name)}:", f"    weight: {inline_yaml(category.weight)}", "    models:"]
        lines += [
            f"      {inline_yaml(model)}: {inline_yaml(arm.model_dump(exclude_none=True))}"
            for model, arm in category.models.items()
        ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 1 and says why on stderr where the data set is wrong or the file cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m banditroute.lab.calibrate", description=__doc__)
    parser.add_argument("data", type=Path, help="data set, .parquet or .csv")
    parser.add_argument("out", type=Path, help="environment file to write")
    parser.add_argument("--source", help="where the data set is from and its licence, for the file's header (default: its name)")
    options = parser.parse_args(arguments)
    try:
        dataset = load_dataset(options.data)
        text = render(calibrate(dataset), source=options.source or options.data.name)
        options.out.write_text(text, encoding="utf-8")
    except (DatasetError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    size = f"{len(dataset.sample_category)} samples, {len(dataset.models)} models, {len(dataset.categories)} categories"
    print(f"{options.out}: {size}")
    return 0


def _tokens(values: FloatArray | None, weights: FloatArray | None) -> Mapping[str, float] | None:
    return None if values is None or np.isnan(values).all() else _spread(values, weights)


def _spread(values: FloatArray, weights: FloatArray | None) -> Mapping[str, float]:
    known = ~np.isnan(values)
    values, weights = values[known], None if weights is None else weights[known]
    mean = np.average(values, weights=weights)
    sd = math.sqrt(np.average((values - mean) ** 2, weights=weights))
    return {"mean": rounded(mean), "sd": rounded(sd)}


def rounded(value: float | np.floating[Any]) -> float:
    """The value to as many digits as environments have."""
    return float(f"{float(value):.{DIGITS}g}")


if __name__ == "__main__":
    sys.exit(main())
