"""RouterService's messages to the domain's words and back: pure functions, one per message.

Only what cannot be said in the domain's words is judged here, all of it at once; the engine judges the rest.
"""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from banditroute.core.errors import FieldViolation, InvalidRequest
from banditroute.core.types import (
    Attempt,
    Candidate,
    Decision,
    ErrorKind,
    FeedbackReceipt,
    FeedbackReport,
    RouteQuery,
    Signal,
    SignalKind,
)
from banditroute.core.validate import check_report
from banditroute.v1 import router_pb2 as pb

MAX_BATCH = 100

_MIN_TIMESTAMP_S = -62_135_596_800  # 0001-01-01
_MAX_TIMESTAMP_S = 253_402_300_799  # 9999-12-31
_MAX_DURATION_S = 315_576_000_000
_NANOS = 1_000_000_000


def check_batch(count: int) -> None:
    """Raises InvalidRequest unless a batch may have `count` requests."""
    if not 1 <= count <= MAX_BATCH:
        raise InvalidRequest([FieldViolation("requests", f"must have 1 to {MAX_BATCH} entries, has {count}")])


def decode_route(request: pb.RouteRequest) -> RouteQuery:
    """Never raises: every RouteRequest can be said in the domain's words."""
    has = request.HasField
    features, labels = request.features, request.labels
    allowed, excluded, tags = request.allowed_models, request.excluded_models, request.required_tags
    return RouteQuery(
        request.category,
        dict(features) if features else {},
        request.input_token_count if has("input_token_count") else None,
        request.output_token_count if has("output_token_count") else None,
        tuple(allowed) if allowed else (),
        tuple(excluded) if excluded else (),
        tuple(tags) if tags else (),
        request.max_cost_usd if has("max_cost_usd") else None,
        request.request_key,
        dict(labels) if labels else {},
    )


def encode_decision(decision: Decision, *, explain: bool) -> pb.RouteResponse:
    reason: Any = decision.reason
    response = pb.RouteResponse(
        decision_id=decision.id,
        model=decision.model,
        fallback_models=decision.fallback_models,
        propensity=decision.propensity,
        decision_reason=reason,
        expected_quality=decision.expected_quality,
        expected_cost_usd=decision.expected_cost_usd,
        state_position=decision.state_position,
        state_stale=decision.state_stale,
    )
    expire_time, expire_s = response.expire_time, int(decision.expire_time)
    expire_time.seconds = expire_s
    expire_time.nanos = int((decision.expire_time - expire_s) * _NANOS)
    if explain:
        response.candidates.extend([encode_candidate(candidate) for candidate in decision.candidates])
    return response


def encode_candidate(candidate: Candidate) -> pb.Candidate:
    exclusion: Any = candidate.exclusion
    lifecycle: Any = candidate.lifecycle
    return pb.Candidate(
        model=candidate.model,
        eligible=exclusion is None,
        exclusion_reason=exclusion,
        quality_mean=candidate.quality_mean,
        quality_stddev=candidate.quality_stddev,
        expected_cost_usd=candidate.expected_cost_usd,
        utility_mean=candidate.utility_mean,
        propensity=candidate.propensity,
        lifecycle=lifecycle,
    )


def decode_feedback(request: pb.FeedbackRequest) -> FeedbackReport:
    """Raises InvalidRequest with every field that the domain has no words for."""
    bad: list[FieldViolation] = []
    report = FeedbackReport(
        decision_id=request.decision_id,
        signals=tuple([_decode_signal(signal, f"signals[{i}]", bad) for i, signal in enumerate(request.signals)]),
        attempts=tuple([_decode_attempt(attempt, f"attempts[{i}]", bad) for i, attempt in enumerate(request.attempts)]),
        observe_time=_unix_s(request.observe_time, "observe_time", bad) if request.HasField("observe_time") else None,
    )
    if bad:
        raise InvalidRequest([*bad, *_also_wrong(report, bad)])
    return report


def _also_wrong(report: FeedbackReport, bad: list[FieldViolation]) -> list[FieldViolation]:
    """What the engine would find too, but for the models it knows, so that all is told at once."""
    models = {signal.model for signal in report.signals} | {attempt.model for attempt in report.attempts}
    told = [violation.field for violation in bad]
    found = check_report(report, drawn="", known_models=models)
    return [v for v in found if not any(field == v.field or field.startswith(f"{v.field}.") for field in told)]


def _decode_signal(signal: pb.Signal, path: str, bad: list[FieldViolation]) -> Signal:
    kind = signal.WhichOneof("kind")
    weight = signal.weight if signal.HasField("weight") else 1.0
    if kind == "rating":
        value = _decode_rating(signal.rating, f"{path}.rating", bad)
    elif kind == "eval_score":
        value = signal.eval_score
    elif kind == "accepted":
        value = float(signal.accepted)
    elif kind == "retried":
        value = float(not signal.retried)
    else:
        bad.append(FieldViolation(f"{path}.kind", "set one of rating, eval_score, accepted, retried"))
        # A stand-in with a key of its own, so that the checks that follow find nothing wrong with it.
        return Signal(SignalKind.EVAL_SCORE, 0.0, signal.source, weight, f"{path}.model")
    return Signal(SignalKind(kind), value, signal.source, weight, signal.model)


def _decode_rating(rating: pb.Rating, path: str, bad: list[FieldViolation]) -> float:
    """The rating as a value in [0, 1]."""
    value, low, high = rating.value, rating.min, rating.max
    infinite = [name for name, number in (("value", value), ("min", low), ("max", high)) if not math.isfinite(number)]
    if infinite:
        bad.extend(FieldViolation(f"{path}.{name}", "must be a finite number") for name in infinite)
    elif low >= high:
        bad.append(FieldViolation(f"{path}.max", f"must be above min ({low:g}), is {high:g}"))
    elif not math.isfinite(high - low):
        bad.append(FieldViolation(f"{path}.max", "is too far from min"))
    elif not low <= value <= high:
        bad.append(FieldViolation(f"{path}.value", f"must be from min to max ({low:g} to {high:g}), is {value:g}"))
    else:
        return (value - low) / (high - low)
    return 0.0


def _decode_attempt(attempt: pb.Attempt, path: str, bad: list[FieldViolation]) -> Attempt:
    error = ErrorKind.NONE
    try:
        error = ErrorKind(attempt.error_kind)
    except ValueError:
        bad.append(FieldViolation(f"{path}.error_kind", f"no such value: {attempt.error_kind}"))
    if not attempt.HasField("usage"):
        return Attempt(attempt.model, error, attempt.shadow)
    usage, has, path = attempt.usage, attempt.usage.HasField, f"{path}.usage"
    return Attempt(
        model=attempt.model,
        error=error,
        shadow=attempt.shadow,
        input_tokens=usage.input_token_count if has("input_token_count") else None,
        output_tokens=usage.output_token_count if has("output_token_count") else None,
        cached_input_tokens=usage.cached_input_token_count if has("cached_input_token_count") else None,
        cost_usd=usage.cost_usd if has("cost_usd") else None,
        latency_s=_span_s(usage.latency, f"{path}.latency", bad) if has("latency") else None,
        time_to_first_token_s=(
            _span_s(usage.time_to_first_token, f"{path}.time_to_first_token", bad) if has("time_to_first_token") else None
        ),
    )


def _unix_s(time: Timestamp, path: str, bad: list[FieldViolation]) -> float | None:
    if not (_MIN_TIMESTAMP_S <= time.seconds <= _MAX_TIMESTAMP_S and 0 <= time.nanos < _NANOS):
        bad.append(FieldViolation(path, "is not a valid Timestamp: years 1 to 9999, nanos 0 to 999999999"))
        return None
    return time.seconds + time.nanos / _NANOS


def _span_s(span: Duration, path: str, bad: list[FieldViolation]) -> float | None:
    seconds, nanos = span.seconds, span.nanos
    if abs(seconds) > _MAX_DURATION_S or abs(nanos) >= _NANOS or seconds * nanos < 0:
        bad.append(FieldViolation(path, "is not a valid Duration"))
    elif seconds < 0 or nanos < 0:
        bad.append(FieldViolation(path, "must not be negative"))
    else:
        return seconds + nanos / _NANOS
    return None


def encode_receipt(receipt: FeedbackReceipt) -> pb.FeedbackResponse:
    disposition: Any = receipt.disposition
    signals: Any = receipt.signal_dispositions
    attempts: Any = receipt.attempt_dispositions
    return pb.FeedbackResponse(
        disposition=disposition,
        signal_dispositions=signals,
        attempt_dispositions=attempts,
        state_position=receipt.state_position,
    )
