"""Writes docs/reference/{configuration,scenarios}.md from the code that checks the files: `python tools/reference.py`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from banditroute import config, config_local, receivers
from banditroute.lab import extract, learners, scenario

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
SECTIONS: list[tuple[str, type[BaseModel]]] = [
    ("The file", config.ConfigFile),
    ("`models.NAME`", config.ModelConfig),
    ("`categories.NAME`", config.CategoryConfig),
    ("`categories.NAME.features.NAME`", config.FeatureConfig),
    ("`categories.NAME.signal_weights`", config.SignalWeights),
    ("`priors.CATEGORY.MODEL`", config.PriorConfig),
    ("`breaker`", config.BreakerConfig),
    ("`decision_sink`", config_local.SinkConfig),
    ("`redis`", config_local.RedisConfig),
    ("`server`", config_local.ServerConfig),
    ("`webhooks[]`", receivers.WebhookConfig),
]
HEAD = """# Configuration

One YAML file, checked whole by `banditroute check FILE`, which names every problem with its path and line.
This page is made by `python tools/reference.py` from the code that checks it.

*Local* settings (store, keys, sink, server, webhooks, checkpoints) belong to one process. *Shared* ones (models, categories,
priors, feedback window, breaker) are written into the log as one event whenever they differ from what is in force: at the
start, and on SIGHUP. What an operator `set` stays above the file until it is cleared.

How-tos: [rotate the signing keys](../howto/rotate-keys.md), [be told by webhooks](../howto/webhooks.md),
[start from the logs you have](../howto/from-your-logs.md).
"""

SCENARIO_SECTIONS: list[tuple[str, type[BaseModel]]] = [
    ("The file", scenario.ScenarioSpec),
    ("`timeline[]`", scenario.EventSpec),
    ("`traffic`", scenario.TrafficSpec),
    ("`feedback`", scenario.FeedbackSpec),
    ("`features`", extract.FeaturesSpec),
]
SCENARIO_HEAD = f"""# Scenarios

`banditroute simulate FILE.yaml` plays one: the production router and every policy it is compared with see the same requests, the
same feedback, and the same happenings. The shipped ones are in `simulations/scenarios`; `banditroute simulate NAME` plays them.
This page is made by `python tools/reference.py` from the code that checks the files.

A model is named as in the source, or by what it is there: {", ".join(f"`{name}`" for name in scenario.SELECTORS)}. Times are
numbers of requests, counted from 0, or below 1 shares of all requests.

Policies: {", ".join(f"`{name}`" for name in learners.POLICIES)}. `rules` is a table that a team writes from
{learners.RULES_SAMPLES} tried requests of each category, and never changes. `best-fixed` and `category-oracle` are told the
truth: bounds, not rivals.

With `--out DIR` every finished run is kept in `DIR/cells`, so that an interrupted simulation is resumed, and the results are
written to `DIR/results.json`. `--backend dask` or `ray`, with `--address`, has a cluster do the work; the numbers are the same
whoever does it.
"""


def limits(field: FieldInfo) -> str:
    """The bounds of a field, in words."""
    found = []
    metadata = list(field.metadata)
    for argument in get_args(field.annotation):
        for inner in get_args(argument)[1:]:
            metadata.extend(inner.metadata if isinstance(inner, FieldInfo) else [inner])
    for item in metadata:
        match item:
            case annotated_types.Gt(gt=low):
                found.append(f"> {low:g}")
            case annotated_types.Ge(ge=low):
                found.append(f"≥ {low:g}")
            case annotated_types.Le(le=high):
                found.append(f"≤ {high:g}")
    return ", ".join(found)


def default(field: FieldInfo) -> str:
    """The default, as one would write it."""
    if field.is_required():
        return "**required**"
    if isinstance(field.default, BaseModel) or field.default in ((), {}, ""):
        return "see below" if isinstance(field.default, BaseModel) else "empty"
    if field.default is PydanticUndefined:
        return "see below" if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel) else "empty"
    return (
        "none" if field.default is None else f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"
    )


def text(head: str = HEAD, sections: list[tuple[str, type[BaseModel]]] = SECTIONS) -> str:
    """A whole page."""
    lines = [head]
    for title, model in sections:
        lines += [
            f"## {title}",
            "",
            inspect.getdoc(model) or "",
            "",
            "| field | default | limits | what it does |",
            "|---|---|---|---|",
        ]
        lines += [f"| `{name}` | {default(f)} | {limits(f)} | {f.description or ''} |" for name, f in model.model_fields.items()]
        lines.append("")
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Each page by its file's name."""
    return {"configuration.md": text(), "scenarios.md": text(SCENARIO_HEAD, SCENARIO_SECTIONS)}


if __name__ == "__main__":
    for name, page in pages().items():
        (FOLDER / name).write_text(page, encoding="utf-8")
