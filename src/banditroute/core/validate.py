"""What a request must be: one pure function per message, all violations at once.

Field paths are those of the proto, so that a client finds them whichever way it came in.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from banditroute.core.errors import FieldViolation
from banditroute.core.reward import attempt_key, signal_key
from banditroute.core.settings import MAX_FEATURES, CategorySettings
from banditroute.core.types import Attempt, FeedbackReport, RouteQuery, Signal

MAX_LABELS, MAX_LABEL_LENGTH = 16, 64
MAX_REQUEST_KEY_LENGTH = 128
MAX_LISTED_NAMES = 256
MAX_SIGNALS = MAX_ATTEMPTS = 32
MAX_SOURCE_LENGTH = 64
MAX_SIGNAL_WEIGHT = 10.0
MAX_TOKENS = 10**9
MAX_COST_USD = 1e6
MAX_SECONDS = 1e6
_RESERVED = "\x1f"


def _tokens(found: list[FieldViolation], field: str, value: int | None) -> None:
    if value is not None and not 0 <= value <= MAX_TOKENS:
        found.append(FieldViolation(field, f"{value} is not a token count: use 0 to {MAX_TOKENS}"))


def _amount(found: list[FieldViolation], field: str, value: float | None, high: float, unit: str) -> None:
    if value is not None and not (math.isfinite(value) and 0.0 <= value <= high):
        found.append(FieldViolation(field, f"{value} is not an amount in {unit}: use a finite number from 0 to {high:g}"))


def _text(found: list[FieldViolation], field: str, text: str, most: int) -> None:
    if len(text) > most or _RESERVED in text:
        found.append(FieldViolation(field, f"longer than {most} characters, or holds U+001F"))
    elif not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            found.append(FieldViolation(field, "is not text: it holds a lone surrogate"))


def _feature(name: str, problem: str) -> FieldViolation:
    return FieldViolation(f"features[{name[:64]}]", problem)


def check_query(query: RouteQuery, settings: CategorySettings) -> list[FieldViolation]:
    """Everything that is wrong with a request for a model of this category."""
    found: list[FieldViolation] = []
    if query.features:
        declared = {feature.name for feature in settings.features}
        if len(query.features) > MAX_FEATURES:
            found.append(FieldViolation("features", f"{len(query.features)} features; at most {MAX_FEATURES} are taken"))
        for name, value in list(query.features.items())[: 2 * MAX_FEATURES]:
            if name not in declared:
                known = ", ".join(sorted(declared)) or "none"
                found.append(_feature(name, f"not declared for category {settings.name!r}; declared: {known}"))
            elif not abs(value) <= 1e9:
                found.append(_feature(name, f"{value} is not usable: use a finite number of at most 1e9"))
    _tokens(found, "input_token_count", query.input_tokens)
    _tokens(found, "output_token_count", query.output_tokens)
    _amount(found, "max_cost_usd", query.max_cost_usd, MAX_COST_USD, "USD")
    for field, names in (
        ("allowed_models", query.allowed_models),
        ("excluded_models", query.excluded_models),
        ("required_tags", query.required_tags),
    ):
        if len(names) > MAX_LISTED_NAMES:
            found.append(FieldViolation(field, f"{len(names)} names; at most {MAX_LISTED_NAMES} are taken"))
    if query.request_key:
        _text(found, "request_key", query.request_key, MAX_REQUEST_KEY_LENGTH)
    if query.labels:
        if len(query.labels) > MAX_LABELS:
            found.append(FieldViolation("labels", f"{len(query.labels)} labels; at most {MAX_LABELS} are kept"))
        for name, text in list(query.labels.items())[: 2 * MAX_LABELS]:
            if len(name) > MAX_LABEL_LENGTH or len(text) > MAX_LABEL_LENGTH:
                found.append(FieldViolation(f"labels[{name[:64]}]", f"longer than {MAX_LABEL_LENGTH} characters"))
    return found


def check_report(report: FeedbackReport, *, drawn: str, known_models: Collection[str]) -> list[FieldViolation]:
    """Everything that is wrong with feedback on a decision that drew `drawn`.

    Args:
        known_models: every model that the decision's category has or ever had.
    """
    found: list[FieldViolation] = []
    for kind, count, most in (("signals", len(report.signals), MAX_SIGNALS), ("attempts", len(report.attempts), MAX_ATTEMPTS)):
        if count > most:
            found.append(FieldViolation(kind, f"{count} {kind}; at most {most} are taken"))
    if not report.signals and not report.attempts:
        found.append(FieldViolation("signals", "feedback needs at least one signal or attempt"))
    if report.observe_time is not None and not (math.isfinite(report.observe_time) and 0.0 <= report.observe_time < 2**33):
        found.append(FieldViolation("observe_time", f"{report.observe_time} is not a time between 1970 and 2242"))
    seen: dict[str, str] = {}
    for i, signal in enumerate(report.signals[:MAX_SIGNALS]):
        _signal(found, f"signals[{i}]", signal, drawn, known_models)
        _unrepeated(found, f"signals[{i}]", signal_key(signal, drawn), seen)
    seen = {}
    for i, attempt in enumerate(report.attempts[:MAX_ATTEMPTS]):
        _attempt(found, f"attempts[{i}]", attempt, drawn, known_models)
        _unrepeated(found, f"attempts[{i}]", attempt_key(attempt, drawn), seen)
    return found


def _model(found: list[FieldViolation], field: str, model: str, drawn: str, known: Collection[str]) -> None:
    if model and model != drawn and model not in known:
        names = ", ".join(sorted(known))
        found.append(FieldViolation(f"{field}.model", f"the category never had a model {model[:96]!r}; it has or had: {names}"))


def _unrepeated(found: list[FieldViolation], field: str, key: str, seen: dict[str, str]) -> None:
    if key in seen:
        found.append(FieldViolation(field, f"has the same key as {seen[key]}; give each another source, or send one"))
    seen.setdefault(key, field)


def _signal(found: list[FieldViolation], field: str, signal: Signal, drawn: str, known: Collection[str]) -> None:
    if not 0.0 <= signal.value <= 1.0:
        found.append(FieldViolation(f"{field}.{signal.kind}", f"{signal.value} is outside 0 to 1"))
    if not (math.isfinite(signal.weight) and 0.0 < signal.weight <= MAX_SIGNAL_WEIGHT):
        found.append(FieldViolation(f"{field}.weight", f"{signal.weight} is no weight: above 0, at most {MAX_SIGNAL_WEIGHT:g}"))
    _text(found, f"{field}.source", signal.source, MAX_SOURCE_LENGTH)
    _model(found, field, signal.model, drawn, known)


def _attempt(found: list[FieldViolation], field: str, attempt: Attempt, drawn: str, known: Collection[str]) -> None:
    _tokens(found, f"{field}.usage.input_token_count", attempt.input_tokens)
    _tokens(found, f"{field}.usage.output_token_count", attempt.output_tokens)
    _tokens(found, f"{field}.usage.cached_input_token_count", attempt.cached_input_tokens)
    cached, into = attempt.cached_input_tokens, attempt.input_tokens
    if cached is not None and into is not None and cached > into:
        found.append(FieldViolation(f"{field}.usage.cached_input_token_count", "more than input_token_count"))
    _amount(found, f"{field}.usage.cost_usd", attempt.cost_usd, MAX_COST_USD, "USD")
    _amount(found, f"{field}.usage.latency", attempt.latency_s, MAX_SECONDS, "seconds")
    _amount(found, f"{field}.usage.time_to_first_token", attempt.time_to_first_token_s, MAX_SECONDS, "seconds")
    _model(found, field, attempt.model, drawn, known)
