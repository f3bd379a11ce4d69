"""THE error table: what each domain error looks like on the wire.

Every error carries an ErrorInfo with a stable reason. A domain error's message is public; anything that is not
in the table answers INTERNAL with a fixed text, and its cause goes to the log only.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from banditroute import logs
from banditroute.core import errors

DOMAIN = "banditroute"
INTERNAL_MESSAGE = "internal error; the server's log has the cause"

# Details travel in a trailer, and gRPC peers may refuse more than 8 KiB of those: base64 takes a third more, and the
# message is sent twice. What does not fit is counted in the last entry.
MESSAGE_BYTES = 600
DETAIL_BYTES = 3_500
TEXT_BYTES = 300

_M = TypeVar("_M", bound=Message)

log = logs.logger("banditroute.server")


class NotConfirmed(errors.BanditrouteError):
    """The call's time was over before its feedback was known to be durable."""


class ShuttingDown(errors.BanditrouteError):
    """The server stops, and a stream ends with it."""


def clip(text: str, limit: int = TEXT_BYTES) -> str:
    """`text` in at most `limit` bytes of UTF-8, its end replaced by an ellipsis where it is longer."""
    raw = text.encode("utf-8", "replace")
    return raw.decode("utf-8") if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + "…"


def _fit(entries: list[_M], more: Callable[[int], _M]) -> list[_M]:
    """The first of `entries` that fit into a trailer, then `more(how many were left out)`."""
    size = 0
    for count, entry in enumerate(entries):
        size += entry.ByteSize() + 4
        if size > DETAIL_BYTES:
            return [*entries[:count], more(len(entries) - count)]
    return entries


def _bad_request(violations: list[tuple[str, str]]) -> Message:
    def violation(field: str, description: str) -> error_details_pb2.BadRequest.FieldViolation:
        return error_details_pb2.BadRequest.FieldViolation(field=clip(field), description=clip(description))

    entries = [violation(*v) for v in violations]
    fitting = _fit(entries, lambda count: violation("", f"{count} more violations"))
    return error_details_pb2.BadRequest(field_violations=fitting)


def _precondition(kind: str, failures: list[tuple[str, str]]) -> Message:
    def violation(subject: str, description: str) -> error_details_pb2.PreconditionFailure.Violation:
        return error_details_pb2.PreconditionFailure.Violation(type=kind, subject=clip(subject), description=clip(description))

    entries = [violation(*f) for f in failures]
    fitting = _fit(entries, lambda count: violation("", f"{count} more"))
    return error_details_pb2.PreconditionFailure(violations=fitting)


def _retry_info(delay_s: float) -> Message:
    return error_details_pb2.RetryInfo(retry_delay=Duration(nanos=int(delay_s * 1e9)))


class Row(NamedTuple):
    """One error on the wire. `details` and `metadata` are made from the error."""

    code: grpc.StatusCode
    reason: str
    details: Callable[[Any], list[Message]] = lambda error: []
    metadata: Callable[[Any], Mapping[str, str]] = lambda error: {}


def _retryable(reason: str, delay_s: float, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Row:
    return Row(code, reason, lambda error: [_retry_info(delay_s)])


def _bad_id(reason: str) -> Row:
    return Row(grpc.StatusCode.INVALID_ARGUMENT, reason, lambda error: [_bad_request([("decision_id", str(error))])])


_STORE_DOWN = _retryable("STORE_UNAVAILABLE", 0.5)
_CLOSED = Row(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
_INTERNAL = Row(grpc.StatusCode.INTERNAL, "INTERNAL")

TABLE: Mapping[type[Exception], Row] = {
    errors.InvalidRequest: Row(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELDS",
        lambda error: [_bad_request([(v.field, v.description) for v in error.violations])],
    ),
    errors.MalformedDecisionId: _bad_id("DECISION_ID_MALFORMED"),
    errors.ForgedDecisionId: _bad_id("DECISION_ID_FORGED"),
    errors.ForeignDecisionId: _bad_id("DECISION_ID_FOREIGN"),
    errors.UnknownCategory: Row(
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_CATEGORY",
        lambda error: [
            error_details_pb2.ResourceInfo(
                resource_type="banditroute.v1.Category", resource_name=clip(error.category), description="not configured"
            )
        ],
        lambda error: {"category": clip(error.category)},
    ),
    errors.UnknownModel: Row(
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_MODEL",
        lambda error: [
            error_details_pb2.ResourceInfo(
                resource_type="banditroute.v1.Arm", resource_name=clip(error.model), description="not configured"
            )
        ],
        lambda error: {"model": clip(error.model), "category": clip(error.category)},
    ),
    errors.LastArm: Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "LAST_ARM",
        lambda error: [_precondition("LAST_ARM", [(name, "would have no model in service") for name in error.categories])],
        lambda error: {"model": clip(error.model)},
    ),
    errors.NoEligibleModel: Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "NO_ELIGIBLE_MODEL",
        lambda error: [_precondition("MODEL_EXCLUDED", list(error.exclusions.items()))],
        lambda error: {"category": clip(error.category)},
    ),
    errors.FeedbackWindowOver: Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "FEEDBACK_WINDOW_OVER",
        lambda error: [_precondition("FEEDBACK_WINDOW", [("decision_id", str(error))])],
    ),
    errors.EtagMismatch: Row(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
    errors.Overloaded: _retryable("OVERLOADED", 0.1, grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.StaleState: _retryable("STALE_STATE", 0.1),
    errors.StoreError: _STORE_DOWN,
    errors.StoreUnavailable: _STORE_DOWN,
    errors.StoreClosed: _CLOSED,
    # A closing log cancels what it has not begun.
    concurrent.futures.CancelledError: _CLOSED,
    ShuttingDown: _CLOSED,
    NotConfirmed: Row(grpc.StatusCode.DEADLINE_EXCEEDED, "FEEDBACK_NOT_CONFIRMED"),
}


def _row(error: Exception) -> Row:
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), _INTERNAL)


def status_of(error: Exception, *, method: str) -> status_pb2.Status:
    """The google.rpc.Status that tells a client of `error`. Logs the cause of an INTERNAL one, naming `method`."""
    row = _row(error)
    if row is _INTERNAL:
        log.error("uncaught exception", method=method, exc_info=error)
        message = INTERNAL_MESSAGE
    elif isinstance(error, concurrent.futures.CancelledError):
        message = "the server is shutting down"
    else:
        message = clip(str(error) or row.reason.lower().replace("_", " "), MESSAGE_BYTES)
    info = error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=row.metadata(error))
    status = status_pb2.Status(code=row.code.value[0], message=message)
    for detail in (info, *row.details(error)):
        status.details.add().Pack(detail)
    return status


def abort(context: grpc.ServicerContext, error: Exception, *, method: str) -> NoReturn:
    """Ends the call with the status of `error`."""
    context.abort_with_status(rpc_status.to_status(status_of(error, method=method)))
    raise AssertionError("abort_with_status always raises")
