"""The words of the domain: what is asked, what is decided, what is reported, what is logged.

Hot types are NamedTuples: made in a third of a frozen dataclass's time, and as immutable.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Exclusion(enum.IntEnum):
    """Why a model may not serve a request. Values are those of the proto's ExclusionReason."""

    NOT_ALLOWED = 1
    EXCLUDED = 2
    TAG_MISSING = 3
    COST_TOO_HIGH = 4
    CONTEXT_TOO_LONG = 5
    PAUSED = 6
    BREAKER_OPEN = 7


class Reason(enum.IntEnum):
    """Why the model was chosen. Values are those of the proto's DecisionReason."""

    BEST = 1
    EXPLORATION = 2
    FLOOR = 3
    ONLY_ELIGIBLE = 4
    PROBE = 5


class Lifecycle(enum.IntEnum):
    """What may become of an arm's traffic. Values are those of the proto's Lifecycle."""

    LIVE = 1
    DEMOTED = 2
    PROBING = 3
    DISABLED = 4
    ONBOARDING = 5


class BreakerState(enum.IntEnum):
    """Whether a model's calls get through. Values are those of the proto's BreakerState."""

    CLOSED = 1
    OPEN = 2
    HALF_OPEN = 3


class Disposition(enum.IntEnum):
    """What became of a piece of feedback. Values are those of the proto's Disposition."""

    APPLIED = 1
    DUPLICATE = 2
    CORRECTED = 3
    STALE = 4
    RECORDED = 5


class SignalKind(enum.StrEnum):
    RATING = "rating"
    EVAL_SCORE = "eval_score"
    ACCEPTED = "accepted"
    RETRIED = "retried"


class ErrorKind(enum.IntEnum):
    """How an attempt failed. Values are those of the proto's ErrorKind; NONE means that it served."""

    NONE = 0
    TIMEOUT = 1
    RATE_LIMITED = 2
    UNAVAILABLE = 3
    REJECTED = 4
    BAD_OUTPUT = 5
    OTHER = 6


class RouteQuery(NamedTuple):
    """A validated request for a model. Token counts in tokens, cost in USD."""

    category: str
    features: Mapping[str, float] = {}
    input_tokens: int | None = None
    output_tokens: int | None = None
    allowed_models: tuple[str, ...] = ()
    excluded_models: tuple[str, ...] = ()
    required_tags: tuple[str, ...] = ()
    max_cost_usd: float | None = None
    request_key: str = ""
    labels: Mapping[str, str] = {}


class Candidate(NamedTuple):
    """One model of the category as the decision saw it. `exclusion` is None where it was eligible."""

    model: str
    exclusion: Exclusion | None
    quality_mean: float
    quality_stddev: float
    expected_cost_usd: float
    utility_mean: float
    propensity: float
    lifecycle: Lifecycle = Lifecycle.LIVE


class Plan(NamedTuple):
    """The policy's answer to one kind of request at one state: everything but the draw.

    `candidates` runs over all models of the category, in the configuration's order; everything else
    over the eligible ones, best first, but those on trial (whose breaker is half open) last; there are `trial_count` of them.
    `propensities` are after the floor, `unfloored` before it; `patience` is how many decisions in flight an arm that is being
    explored bears before one more look no longer pays.
    """

    models: tuple[str, ...]
    propensities: tuple[float, ...]
    eligible: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    computed_costs_usd: tuple[float, ...]
    unfloored: tuple[float, ...]
    patience: tuple[float, ...]
    trial_count: int = 0


class Decision(NamedTuple):
    """A drawn model with its signed id. `expire_time` in Unix seconds."""

    id: str
    model: str
    fallback_models: tuple[str, ...]
    propensity: float
    reason: Reason
    expected_quality: float
    expected_cost_usd: float
    state_position: int
    expire_time: float
    category: str
    plan: Plan
    state_stale: bool = False
    """Whether the store is away: what other processes learn meanwhile is missing."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All models of the category, eligible or not."""
        return self.plan.candidates


class Signal(NamedTuple):
    """One piece of evidence, its value in [0, 1] (1 is good). `weight` scales the category's; on its way into
    the log it is the product: what the signal is worth, in observations."""

    kind: SignalKind
    value: float
    source: str = ""
    weight: float = 1.0
    model: str = ""


class Attempt(NamedTuple):
    """One call of one model. Tokens in tokens, cost in USD, times in seconds. `computed_usd` is what the price
    table asks for it; the engine fills it in on the way into the log."""

    model: str = ""
    error: ErrorKind = ErrorKind.NONE
    shadow: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    time_to_first_token_s: float | None = None
    computed_usd: float | None = None


class FeedbackReport(NamedTuple):
    """Validated feedback on one decision. `observe_time` in Unix seconds; None means now."""

    decision_id: str
    signals: tuple[Signal, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    observe_time: float | None = None


class FeedbackReceipt(NamedTuple):
    """What became of a report, item by item, and the position of its event."""

    disposition: Disposition
    signal_dispositions: tuple[Disposition, ...]
    attempt_dispositions: tuple[Disposition, ...]
    state_position: int


class EventKind(enum.StrEnum):
    CONFIG = "config"
    OPERATOR = "operator"
    FEEDBACK = "feedback"


class Event(NamedTuple):
    """One durable record. `position` is dense, from 1; times are microseconds since 1970. `body` is JSON
    data; `chain` is the hash that ties it to its forerunners."""

    position: int
    append_time_us: int
    kind: str
    fold_version: int
    body: Mapping[str, Any]
    chain: bytes


@dataclass(frozen=True, slots=True)
class Transition:
    """Something that the fold wants the journal to keep. Its key is (epoch, position, index)."""

    position: int
    index: int
    append_time_us: int
    kind: str
    body: Mapping[str, Any]


class ArmReport(NamedTuple):
    """One arm for people, at the mean context and with the learned tokens; fields as the proto's Arm."""

    model: str
    quality_mean: float
    quality_stddev: float
    expected_cost_usd: float
    expected_latency_s: float | None
    utility_mean: float
    share: float
    effective_sample_size: float
    feedback_count: int
    error_count: int
    off_policy_count: int
    lifecycle: Lifecycle = Lifecycle.LIVE
    lifecycle_reason: str = ""
    breaker: BreakerState = BreakerState.CLOSED
    breaker_open_until: float | None = None


class CategoryReport(NamedTuple):
    """One category for people; fields as the proto's Category."""

    name: str
    cost_weight: float
    latency_weight: float
    overridden_fields: tuple[str, ...]
    cost_reference_usd: float
    latency_reference_s: float
    arms: tuple[ArmReport, ...]
    etag: str
    feedback_count: int


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One line of the journal; its key is (epoch, position, index)."""

    epoch: int
    position: int
    index: int
    append_time_us: int
    kind: str
    body: Mapping[str, Any]


class EngineInfo(NamedTuple):
    """What is running and how far it has learned; fields as the proto's GetServerInfoResponse."""

    version: str
    fold_version: int
    log_id: str
    epoch: int
    log_position: int
    state_position: int
    start_time: float
    skipped_event_count: int
    dropped_decision_count: int
    config_fingerprint: str
    state_stale: bool = False
    rewind_count: int = 0
    divergence_count: int = 0
