"""AdminService's messages to the domain's words and back: pure functions, one per message."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from banditroute.core import health
from banditroute.core.errors import FieldViolation, InvalidRequest
from banditroute.core.types import ArmReport, CategoryReport, EngineInfo, JournalRow
from banditroute.v1 import admin_pb2 as pb

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_REASON_CHARACTERS = 256
MAX_ACTOR_CHARACTERS = 64
MAX_TOKEN_CHARACTERS = 1024
WEIGHTS: tuple[Literal["cost_weight", "latency_weight"], ...] = ("cost_weight", "latency_weight")


class WeightChange(NamedTuple):
    """A decoded UpdateCategoryRequest. A change to None clears the operator's override."""

    category: str
    changes: dict[str, float | None]
    reason: str
    actor: str
    etag: str
    validate_only: bool


def decode_page(page_size: int, page_token: str, *, kind: str, shape: tuple[type, ...]) -> tuple[int, tuple[Any, ...] | None]:
    """The page's size and the key, of types `shape`, that it starts after; None for the first page.

    `kind` ties a token to its listing. Raises InvalidRequest.
    """
    bad: list[FieldViolation] = []
    if page_size < 0:
        bad.append(FieldViolation("page_size", f"must be 0 (which means {DEFAULT_PAGE_SIZE}) to {MAX_PAGE_SIZE}, is {page_size}"))
    after = _decode_page_token(page_token, kind, shape) if page_token else None
    if page_token and after is None:
        bad.append(FieldViolation("page_token", "is not a token that this listing gave"))
    if bad:
        raise InvalidRequest(bad)
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE), after


def _decode_page_token(token: str, kind: str, shape: tuple[type, ...]) -> tuple[Any, ...] | None:
    if len(token) > MAX_TOKEN_CHARACTERS:
        return None
    try:
        found, *parts = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError):
        return None
    fits = found == kind and tuple(map(type, parts)) == shape
    return tuple(parts) if fits and all(not isinstance(part, int) or 0 <= part < 2**63 for part in parts) else None


def encode_page_token(kind: str, *key: str | int) -> str:
    """An opaque token for the page after `key`."""
    return base64.urlsafe_b64encode(json.dumps([kind, *key], separators=(",", ":")).encode()).decode()


def decode_update(request: pb.UpdateCategoryRequest, *, peer: str) -> WeightChange:
    """Raises InvalidRequest with every wrong field. `peer` acts where no actor is named."""
    bad: list[FieldViolation] = []
    if not request.category.name:
        bad.append(FieldViolation("category.name", "must not be empty"))
    paths = list(request.update_mask.paths)
    if not paths:
        bad.append(FieldViolation("update_mask", f"must name at least one of {', '.join(WEIGHTS)}"))
    bad.extend(
        FieldViolation(f"update_mask.paths[{i}]", f"{path[:64]!r} cannot be updated; {', '.join(WEIGHTS)} can")
        for i, path in enumerate(paths)
        if path not in WEIGHTS
    )
    if not 0 < len(request.change_reason.strip()) <= MAX_REASON_CHARACTERS:
        bad.append(FieldViolation("change_reason", f"say why, in 1 to {MAX_REASON_CHARACTERS} characters"))
    if len(request.actor) > MAX_ACTOR_CHARACTERS:
        bad.append(FieldViolation("actor", f"must have at most {MAX_ACTOR_CHARACTERS} characters"))
    if bad:
        raise InvalidRequest(bad)
    category = request.category
    changes: dict[str, float | None] = {
        path: getattr(category, path) if category.HasField(path) else None for path in WEIGHTS if path in paths
    }
    actor = request.actor or peer[:MAX_ACTOR_CHARACTERS]
    return WeightChange(category.name, changes, request.change_reason, actor, request.etag, request.validate_only)


def encode_category(report: CategoryReport) -> pb.Category:
    return pb.Category(
        name=report.name,
        cost_weight=report.cost_weight,
        latency_weight=report.latency_weight,
        overridden_fields=report.overridden_fields,
        cost_reference_usd=report.cost_reference_usd,
        latency_reference=_span(report.latency_reference_s),
        arms=[_encode_arm(arm) for arm in report.arms],
        etag=report.etag,
        feedback_count=report.feedback_count,
    )


def _encode_arm(arm: ArmReport) -> pb.Arm:
    lifecycle: Any = arm.lifecycle
    breaker: Any = arm.breaker
    until = arm.breaker_open_until
    return pb.Arm(
        model=arm.model,
        quality_mean=arm.quality_mean,
        quality_stddev=arm.quality_stddev,
        expected_cost_usd=arm.expected_cost_usd,
        expected_latency=None if arm.expected_latency_s is None else _span(arm.expected_latency_s),
        utility_mean=arm.utility_mean,
        share=arm.share,
        effective_sample_size=arm.effective_sample_size,
        feedback_count=arm.feedback_count,
        error_count=arm.error_count,
        off_policy_count=arm.off_policy_count,
        lifecycle=lifecycle,
        lifecycle_reason=arm.lifecycle_reason,
        breaker_open_until_time=None if until is None else _time(until),
        breaker_state=breaker,
    )


def encode_journal_row(row: JournalRow) -> pb.JournalEntry:
    body = dict(row.body)
    seconds, micros = divmod(row.append_time_us, 1_000_000)
    return pb.JournalEntry(
        epoch=row.epoch,
        position=row.position,
        index=row.index,
        append_time=Timestamp(seconds=seconds, nanos=micros * 1000),
        kind=row.kind,
        summary=summarise(row),
        actor=str(body.get("actor") or ""),
        change_reason=str(body.get("reason") or "") if row.kind == "operator" else "",
        details_json=json.dumps(body, sort_keys=True, ensure_ascii=False, default=str),
    )


def encode_info(info: EngineInfo) -> pb.GetServerInfoResponse:
    return pb.GetServerInfoResponse(
        version=info.version,
        fold_version=info.fold_version,
        log_id=info.log_id,
        epoch=info.epoch,
        log_position=info.log_position,
        state_position=info.state_position,
        start_time=_time(info.start_time),
        skipped_event_count=info.skipped_event_count,
        dropped_decision_count=info.dropped_decision_count,
        config_fingerprint=info.config_fingerprint,
    )


def summarise(row: JournalRow) -> str:
    """One plain sentence about a line of the journal. Total: an unknown kind or a missing part gives a vaguer one."""
    body = row.body
    if row.kind == "config":
        fingerprint, replaced = str(body.get("fingerprint", "unknown")), body.get("replaces")
        replacing = f", replacing revision {replaced}" if replaced else ""
        return f"Configuration {fingerprint[:12]} took effect as revision {row.position}{replacing}."
    if row.kind == "event_skipped":
        return f"The event at position {row.position} was skipped: {body.get('reason', 'no reason given')}."
    if row.kind == "operator" and body.get("action") == "set_weights":
        return f"{body.get('actor') or 'Somebody'} {_weights_told(body)} in category {body.get('category', '?')}."
    if row.kind.startswith("breaker_"):
        return health.told(row.kind, body)
    return f"{row.kind.replace('_', ' ').capitalize()} at position {row.position}."


def _weights_told(body: Mapping[str, Any]) -> str:
    changes, previous = body.get("changes"), body.get("previous")
    if not isinstance(changes, Mapping) or not changes:
        return "changed nothing"
    before = previous if isinstance(previous, Mapping) else {}
    return " and ".join(_weight_told(name, value, before.get(name)) for name, value in sorted(changes.items()))


def _weight_told(name: str, value: object, before: object) -> str:
    if value is None:
        return f"cleared {name}" + ("" if before is None else f" (was {before})")
    return f"set {name} " + (f"to {value}" if before is None else f"from {before} to {value}")


def _time(unix_s: float) -> Timestamp:
    whole = int(unix_s)
    return Timestamp(seconds=whole, nanos=int((unix_s - whole) * 1e9))


def _span(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
