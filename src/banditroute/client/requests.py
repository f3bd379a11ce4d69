"""RouterService's requests from keyword arguments."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from banditroute.v1 import router_pb2


class RouteFields(TypedDict, total=False):
    """What `route` takes beside the category; meanings as in RouteRequest, counts in tokens."""

    features: Mapping[str, float] | None
    input_tokens: int | None
    output_tokens: int | None
    allowed_models: Iterable[str]
    excluded_models: Iterable[str]
    required_tags: Iterable[str]
    max_cost_usd: float | None
    request_key: str
    labels: Mapping[str, str] | None
    explain: bool
    min_state_position: int


class FeedbackFields(TypedDict, total=False):
    """What `feedback` takes beside the decision's id; times in seconds, `rating` is (value, min, max)."""

    eval_score: float | None
    rating: tuple[float, float, float] | None
    accepted: bool | None
    retried: bool | None
    error: str | int | None
    cost_usd: float | None
    input_tokens: int | None
    output_tokens: int | None
    cached_input_tokens: int | None
    latency_s: float | None
    time_to_first_token_s: float | None
    source: str
    model: str
    shadow: bool
    weight: float | None
    observe_time: float | None


def route_request(
    category: str,
    *,
    features: Mapping[str, float] | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    allowed_models: Iterable[str] = (),
    excluded_models: Iterable[str] = (),
    required_tags: Iterable[str] = (),
    max_cost_usd: float | None = None,
    request_key: str = "",
    labels: Mapping[str, str] | None = None,
    explain: bool = False,
    min_state_position: int = 0,
) -> router_pb2.RouteRequest:
    """A RouteRequest. Without a `request_key` it gets a random one, so that a retry is not a second draw."""
    return router_pb2.RouteRequest(
        category=category,
        features=features,
        input_token_count=input_tokens,
        output_token_count=output_tokens,
        allowed_models=allowed_models,
        excluded_models=excluded_models,
        required_tags=required_tags,
        max_cost_usd=max_cost_usd,
        labels=labels,
        explain=explain,
        min_state_position=min_state_position,
        request_key=request_key or uuid.uuid4().hex,
    )


def feedback_request(
    decision_id: str,
    *,
    eval_score: float | None = None,
    rating: tuple[float, float, float] | None = None,
    accepted: bool | None = None,
    retried: bool | None = None,
    error: str | int | None = None,
    cost_usd: float | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    cached_input_tokens: int | None = None,
    latency_s: float | None = None,
    time_to_first_token_s: float | None = None,
    source: str = "",
    model: str = "",
    shadow: bool = False,
    weight: float | None = None,
    observe_time: float | None = None,
) -> router_pb2.FeedbackRequest:
    """A FeedbackRequest: a signal for each judgement given, and an attempt where anything about the call is.

    `rating` is (value, min, max); `error` a name such as "timeout", or "none"; `observe_time` in Unix seconds.
    Raises ValueError for an unknown `error` and for times that are no numbers.
    """
    kinds: dict[str, Any] = {"eval_score": eval_score, "accepted": accepted, "retried": retried}
    if rating is not None:
        value, low, high = rating
        kinds["rating"] = router_pb2.Rating(value=value, min=low, max=high)
    signals = [
        router_pb2.Signal(source=source, model=model, weight=weight, **{kind: value})
        for kind, value in kinds.items()
        if value is not None
    ]
    usage = {
        "input_token_count": input_tokens,
        "output_token_count": output_tokens,
        "cached_input_token_count": cached_input_tokens,
        "cost_usd": cost_usd,
        "latency": None if latency_s is None else _duration(latency_s),
        "time_to_first_token": None if time_to_first_token_s is None else _duration(time_to_first_token_s),
    }
    given: dict[str, Any] = {name: value for name, value in usage.items() if value is not None}
    attempts = []
    if given or error is not None or shadow:
        kind = router_pb2.ErrorKind.ValueType(_error_kind(error))
        counted = router_pb2.Usage(**given) if given else None
        attempts.append(router_pb2.Attempt(model=model, error_kind=kind, usage=counted, shadow=shadow))
    when = None if observe_time is None else _timestamp(observe_time)
    return router_pb2.FeedbackRequest(decision_id=decision_id, signals=signals, attempts=attempts, observe_time=when)


def _error_kind(error: str | int | None) -> int:
    if isinstance(error, int):
        return error
    name = (error or "none").upper()
    known: dict[str, int] = {key.removeprefix("ERROR_KIND_"): value for key, value in router_pb2.ErrorKind.items()}
    known["NONE"] = known.pop("UNSPECIFIED")
    if name not in known:
        raise ValueError(f"unknown error kind {error!r}; one of {', '.join(sorted(known)).lower()}")
    return known[name]


def _duration(seconds: float) -> Duration:
    whole, nanos = divmod(round(abs(seconds) * 1e9), 1_000_000_000)
    sign = -1 if seconds < 0 else 1
    return Duration(seconds=sign * whole, nanos=sign * nanos)


def _timestamp(seconds: float) -> Timestamp:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return Timestamp(seconds=whole, nanos=nanos)


def keyed_batch(requests: Iterable[router_pb2.RouteRequest]) -> router_pb2.BatchRouteRequest:
    """A batch of copies, each with a request key."""
    batch = router_pb2.BatchRouteRequest(requests=requests)
    for request in batch.requests:
        request.request_key = request.request_key or uuid.uuid4().hex
    return batch
