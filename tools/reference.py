"""Writes docs/reference/configuration.md from the configuration's own models: `python tools/reference.py`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from banditroute import config, receivers

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "configuration.md"
SECTIONS: list[tuple[str, type[BaseModel]]] = [
    ("The file", config.ConfigFile),
    ("`models.NAME`", config.ModelConfig),
    ("`categories.NAME`", config.CategoryConfig),
    ("`categories.NAME.features.NAME`", config.FeatureConfig),
    ("`categories.NAME.signal_weights`", config.SignalWeights),
    ("`priors.CATEGORY.MODEL`", config.PriorConfig),
    ("`breaker`", config.BreakerConfig),
    ("`decision_sink`", config.SinkConfig),
    ("`server`", config.ServerConfig),
    ("`webhooks[]`", receivers.WebhookConfig),
]
HEAD = """# Configuration

One YAML file, checked whole by `banditroute check FILE`, which names every problem with its path and line.
This page is made by `python tools/reference.py` from the code that checks it.

*Local* settings (store, keys, sink, server, webhooks, checkpoints) belong to one process. *Shared* ones (models, categories,
priors, feedback window, breaker) are written into the log as one event whenever they differ from what is in force: at the
start, and on SIGHUP. What an operator `set` stays above the file until it is cleared.

How-tos: [rotate the signing keys](../howto/rotate-keys.md), [be told by webhooks](../howto/webhooks.md).
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
    if field.default is PydanticUndefined:
        return "see below" if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel) else "empty"
    return (
        "none" if field.default is None else f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"
    )


def text() -> str:
    """The whole page."""
    lines = [HEAD]
    for title, model in SECTIONS:
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


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
