"""AdminService's messages to the domain's words and back: pure functions, one per message."""

from __future__ import annotations

import base64
import json
from typing import Any, Literal, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from banditroute.core.errors import FieldViolation, InvalidRequest
from banditroute.core.types import ArmReport, CategoryReport, EngineInfo, JournalRow
from banditroute.summaries import actor_of, change_reason_of, summarise
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


class ArmChange(NamedTuple):
    """A decoded PauseArmRequest, ResumeArmRequest or ResetArmRequest, its fields as the engine's arguments."""

    model: str
    category: str
    reason: str
    actor: str
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
    bad.extend(_check_said(request.change_reason, request.actor))
    if bad:
        raise InvalidRequest(bad)
    category = request.category
    changes: dict[str, float | None] = {
        path: getattr(category, path) if category.HasField(path) else None for path in WEIGHTS if path in paths
    }
    actor = _actor(request.actor, peer)
    return WeightChange(category.name, changes, request.change_reason, actor, request.etag, request.validate_only)


def decode_arm_change(request: pb.PauseArmRequest | pb.ResumeArmRequest | pb.ResetArmRequest, *, peer: str) -> ArmChange:
    """Raises InvalidRequest with every wrong field. `peer` acts where no actor is named."""
    bad = [] if request.model else [FieldViolation("model", "must not be empty")]
    bad.extend(_check_said(request.change_reason, request.actor))
    if bad:
        raise InvalidRequest(bad)
    actor = _actor(request.actor, peer)
    return ArmChange(request.model, request.category, request.change_reason, actor, request.validate_only)


def _check_said(reason: str, actor: str) -> list[FieldViolation]:
    bad = []
    if not 0 < len(reason.strip()) <= MAX_REASON_CHARACTERS:
        bad.append(FieldViolation("change_reason", f"say why, in 1 to {MAX_REASON_CHARACTERS} characters"))
    if len(actor) > MAX_ACTOR_CHARACTERS:
        bad.append(FieldViolation("actor", f"must have at most {MAX_ACTOR_CHARACTERS} characters"))
    return bad


def _actor(named: str, peer: str) -> str:
    return named or peer[:MAX_ACTOR_CHARACTERS]


def decode_watch(request: pb.WatchEventsRequest) -> tuple[int, int, int] | None:
    """The key to start after; None where it is not set. Raises InvalidRequest."""
    if not request.HasField("start_after"):
        return None
    key = request.start_after
    bad = [
        FieldViolation(f"start_after.{name}", "is not of this journal")
        for name, value in (("epoch", key.epoch), ("position", key.position))
        if value >= 2**63
    ]
    if bad:
        raise InvalidRequest(bad)
    return key.epoch, key.position, key.index


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
        actor=actor_of(row),
        change_reason=change_reason_of(row),
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
        state_stale=info.state_stale,
        rewind_count=info.rewind_count,
        divergence_count=info.divergence_count,
    )


def _time(unix_s: float) -> Timestamp:
    whole = int(unix_s)
    return Timestamp(seconds=whole, nanos=int((unix_s - whole) * 1e9))


def _span(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
