"""The rows of an export: what a decision and what an event of feedback say, named with their units.

docs/reference/export.md says what each column means. Times are Unix times in the unit that the column's type has.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from banditroute.core.errors import ExportError
from banditroute.core.reward import SEPARATOR, USAGE_FIELDS, fuse
from banditroute.core.types import Candidate, ErrorKind, Event
from banditroute.log.sink_codec import KeptDecision

Row = dict[str, Any]

DECISIONS, FEEDBACK = "decisions", "feedback"


def arrow() -> Any:
    """The module pyarrow. Raises ExportError where it is not installed."""
    try:
        return import_module("pyarrow")
    except ImportError as error:
        raise ExportError("Parquet needs the extra: pip install 'banditroute[parquet]'") from error


def schemas() -> Mapping[str, Any]:
    """The columns of both tables, as pyarrow's schemas. Raises ExportError where pyarrow is not installed."""
    pa = arrow()
    text, number, count = pa.string(), pa.float64(), pa.int64()
    ms, us = pa.timestamp("ms", tz="UTC"), pa.timestamp("us", tz="UTC")
    numbers = {"quality_mean", "quality_stddev", "expected_cost_usd", "utility_mean", "propensity"}
    candidate = ["model", "eligible", "exclusion_reason", *sorted(numbers, key=Candidate._fields.index), "lifecycle"]
    kinds = {"eligible": pa.bool_(), **dict.fromkeys(numbers, number)}
    decision = [("decision_id", text), ("decision_time", ms), ("category", text), ("model", text)]
    expected = [("propensity", number), ("expected_quality", number), ("expected_cost_usd", number)]
    features = [("features", pa.map_(text, number))]
    usage = [(name, count if name.endswith("tokens") else number) for name in USAGE_FIELDS]
    signal = [("model", text), ("kind", text), ("source", text), ("value", number), ("weight", number), ("observe_time", us)]
    attempt = [
        ("model", text),
        ("shadow", pa.bool_()),
        ("error", text),
        *usage,
        ("computed_cost_usd", number),
        ("observe_time", us),
    ]
    return {
        DECISIONS: pa.schema(
            [
                *decision,
                *expected,
                ("reason", text),
                ("input_tokens", count),
                ("output_tokens", count),
                *features,
                ("allowed_models", pa.list_(text)),
                ("excluded_models", pa.list_(text)),
                ("required_tags", pa.list_(text)),
                ("max_cost_usd", number),
                ("request_key", text),
                ("labels", pa.map_(text, text)),
                ("candidates", pa.list_(pa.struct([(name, kinds.get(name, text)) for name in candidate]))),
            ]
        ),
        FEEDBACK: pa.schema(
            [
                ("position", count),
                ("append_time", us),
                *decision,
                *expected,
                ("input_tokens", count),
                *features,
                ("state_position", count),
                ("corrected", pa.bool_()),
                ("reward", number),
                ("reward_weight", number),
                ("signals", pa.list_(pa.struct(signal))),
                ("attempts", pa.list_(pa.struct(attempt))),
            ]
        ),
    }


def decision_id(key: str) -> str:
    """A decision's key, in hex, as `explain` shows it."""
    return str(uuid.UUID(hex=key))


def decision_row(kept: KeptDecision, told: Mapping[str, Any] | None) -> Row:
    """The row of a decision. `told` is what an event of its feedback says of it, for rows that do not say what was chosen."""
    model, category = (None, None) if told is None else (told["model"], told["category"])
    chosen = kept.chosen or next((each for each in kept.candidates if each.model == model), None)
    request = kept.request
    return {
        "decision_id": decision_id(kept.decision),
        "decision_time": kept.time_ms,
        "category": kept.category or category,
        "model": model if chosen is None else chosen.model,
        "propensity": None if chosen is None else chosen.propensity,
        "expected_quality": None if chosen is None else chosen.quality_mean,
        "expected_cost_usd": None if chosen is None else chosen.expected_cost_usd,
        "reason": kept.reason.name,
        "input_tokens": request.get("input_tokens"),
        "output_tokens": request.get("output_tokens"),
        "features": list(request.get("features", {}).items()),
        "allowed_models": request.get("allowed_models", []),
        "excluded_models": request.get("excluded_models", []),
        "required_tags": request.get("required_tags", []),
        "max_cost_usd": request.get("max_cost_usd"),
        "request_key": request.get("request_key") or None,
        "labels": list(request.get("labels", {}).items()),
        "candidates": [_candidate(each) for each in kept.candidates],
    }


def _candidate(candidate: Candidate) -> Row:
    told = candidate._asdict()
    why = told.pop("exclusion")
    return {
        **told,
        "eligible": why is None,
        "exclusion_reason": None if why is None else why.name,
        "lifecycle": told["lifecycle"].name,
    }


def feedback_row(event: Event, features: Mapping[str, Sequence[str]]) -> Row:
    """The row of an event of feedback. `features` has the names of a context's values by its schema's fingerprint in hex.

    Raises:
        ValueError, KeyError, TypeError: it is no such event.
    """
    decision, before, after = event.body["decision"], event.body["before"], event.body["after"]
    key, context = decision["id"], decision["context"]
    names = features.get(decision["schema"], ())
    if len(names) != len(context):
        names = [f"feature {i + 1}" for i in range(len(context))]
    reward, weight = fuse(after["signals"]).get(decision["model"], (None, None))
    return {
        "position": event.position,
        "append_time": event.append_time_us,
        "decision_id": decision_id(key),
        "decision_time": time_ms(key),
        "category": decision["category"],
        "model": decision["model"],
        "propensity": decision["propensity"],
        "expected_quality": decision["expected_quality"],
        "expected_cost_usd": decision["expected_cost_usd"],
        "input_tokens": decision["input_tokens"],
        "features": list(zip(names, context, strict=True)),
        "state_position": decision["state_position"],
        "corrected": before is not None and _corrects(before, after),
        "reward": reward,
        "reward_weight": weight,
        "signals": [_signal(key, *said) for key, said in sorted(after["signals"].items())],
        "attempts": [_attempt(key, said) for key, said in sorted(after["attempts"].items())],
    }


def time_ms(key: str) -> int:
    """When a decision was made: Unix time in milliseconds, from its key (a UUIDv7) in hex."""
    return int(key[:12], 16)


def _corrects(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether something that had been said was replaced by something else."""
    signals = any(after["signals"][key][0] != said[0] for key, said in before["signals"].items())
    return signals or any(_said(after["attempts"][key]) != _said(said) for key, said in before["attempts"].items())


def _said(attempt: Mapping[str, Any]) -> Row:
    return {name: value for name, value in attempt.items() if name == "error" or name in USAGE_FIELDS}


def _signal(key: str, value: float, weight: float, observe_us: int) -> Row:
    model, kind, source = key.split(SEPARATOR)
    return {"model": model, "kind": kind, "source": source, "value": value, "weight": weight, "observe_time": observe_us}


def _attempt(key: str, said: Mapping[str, Any]) -> Row:
    model, shadow = key.split(SEPARATOR)
    error = ErrorKind(said["error"]).name.lower()
    usage = {name: said.get(name) for name in USAGE_FIELDS}
    paid = {"computed_cost_usd": said.get("computed_usd"), "observe_time": said["observe_us"]}
    return {"model": model, "shadow": bool(shadow), "error": error, **usage, **paid}
