"""Decisions with their outcomes, from a state directory: the decision sink joined with the log of feedback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from banditroute.core.errors import EvaluationError, EventsTrimmed
from banditroute.core.types import Event, EventKind, RouteQuery
from banditroute.lab.ope.reports import Bill, outcome_of
from banditroute.log.base import EventLog
from banditroute.log.sink import SinkReader
from banditroute.log.sink_codec import DamagedBatch, decoded

READ_LIMIT = 4096


class SinkDecision(NamedTuple):
    """A row of the decision sink. `request` is what was asked beyond the category; the others are by model, in USD and in
    probability."""

    decision: str
    time_ms: int
    request: Mapping[str, Any]
    expected_costs_usd: Mapping[str, float]
    propensities: Mapping[str, float]


class Decided(NamedTuple):
    """A decision with its outcome. `state_position` is that of the state it was made from, times in Unix milliseconds."""

    time_ms: int
    query: RouteQuery
    chosen: str
    propensities: Mapping[str, float]
    expected_costs_usd: Mapping[str, float]
    state_position: int
    quality: float
    bills: tuple[Bill, ...]


class Joined(NamedTuple):
    """What a store tells. `decisions` in the order in which they were made.

    `sink_count` rows were kept since the time asked for; `unanswered_count` of them have no outcome; `lost_count` decisions
    with one have no row, though they are no older than the oldest row: the sink dropped them. `document` is the configuration in
    force at the end.
    """

    decisions: tuple[Decided, ...]
    document: Mapping[str, Any]
    sink_count: int
    unanswered_count: int
    lost_count: int

    @property
    def sampling_rate(self) -> float:
        """The share of the decisions with an outcome that the sink holds: drops know neither model nor outcome."""
        return len(self.decisions) / max(1, len(self.decisions) + self.lost_count)

    @property
    def answered_share(self) -> float:
        """The share of decisions that have an outcome."""
        return len(self.decisions) / max(1, self.sink_count)


def all_events(log: EventLog) -> Iterator[Event]:
    """Every event of the log.

    Raises:
        EvaluationError: its beginning was trimmed, so what was learned cannot be told.
    """
    position = 0
    while True:
        try:
            events = log.read(position, READ_LIMIT)
        except EventsTrimmed as error:
            if position == 0:
                raise EvaluationError(
                    f"the log's first events are gone ({error}), so what it had learned at each decision cannot be told: raise "
                    "`log_retention_events` and evaluate a log that still has its beginning"
                ) from error
            raise
        if not events:
            return
        yield from events
        position = events[-1].position


def sink_decisions(reader: SinkReader, *, since_ms: int = 0) -> Iterator[SinkDecision]:
    """What a decision sink kept from `since_ms` on, in the order in which it was written.

    Raises:
        EvaluationError: there is no sink, or a row of it is damaged.
        StoreUnavailable: it cannot be read.
    """
    if not reader.exists:
        raise EvaluationError(
            "there is no decision sink, so propensities are not known: serve with `decision_sink: {enabled: true}`"
        )
    for batch in reader.batches(None, since_ms=since_ms):
        try:
            rows = decoded(batch.rows, batch.numbers)
        except DamagedBatch as error:
            raise EvaluationError(f"the decision sink holds a damaged row ({error}); evaluate from after it (--since)") from error
        plans: dict[int, tuple[Mapping[str, float], Mapping[str, float]]] = {}  # as rows of one plan share its candidates
        for row in rows:
            if row.time_ms < since_ms:
                continue
            told = plans.get(id(row.candidates))
            if told is None:
                costs_usd = {candidate.model: candidate.expected_cost_usd for candidate in row.candidates}
                shares = {candidate.model: candidate.propensity for candidate in row.candidates}
                told = plans[id(row.candidates)] = costs_usd, shares
            yield SinkDecision(row.decision, row.time_ms, row.request, *told)


class _Told(NamedTuple):
    decision: Mapping[str, Any]
    record: Mapping[str, Any]


def join(events: Iterable[Event], rows: Iterable[SinkDecision], *, since_ms: int = 0) -> Joined:
    """Decisions with their outcomes as all feedback so far, corrected and fused, has it.

    Raises:
        EvaluationError: a row lacks the chosen model among its candidates.
    """
    told: dict[str, _Told] = {}
    document: Mapping[str, Any] = {}
    for event in events:
        if event.kind == EventKind.CONFIG:
            document = event.body["document"]
        elif event.kind == EventKind.FEEDBACK:
            decision = event.body["decision"]
            if _time_ms(decision["id"]) >= since_ms:
                told[decision["id"]] = _Told(decision, event.body["after"])
    found, count, unanswered, oldest = [], 0, 0, 2**63
    for row in rows:
        count, oldest = count + 1, min(oldest, row.time_ms)
        answer = told.pop(row.decision, None)
        decided = None if answer is None else _decided(row, answer)
        if decided is None:
            unanswered += 1
        else:
            found.append(decided)
    first_ms = max(since_ms, oldest)
    lost = sum(_time_ms(decision) >= first_ms and _quality(each) is not None for decision, each in told.items())
    found.sort(key=lambda each: each.time_ms)
    return Joined(tuple(found), document, count, unanswered, lost)


def _time_ms(decision: str) -> int:
    """Of a UUIDv7 in hex."""
    return int(decision[:12], 16)


def _quality(told: _Told) -> float | None:
    return outcome_of(told.decision["model"], told.record).quality


def _decided(row: SinkDecision, told: _Told) -> Decided | None:
    chosen = told.decision["model"]
    quality, bills = outcome_of(chosen, told.record)
    if quality is None:
        return None
    if chosen not in row.propensities:
        raise EvaluationError(
            f"decision {row.decision} chose {chosen!r}, which is not among its candidates: these are not this log's rows"
        )
    return Decided(
        row.time_ms,
        _query(told.decision["category"], row.request),
        chosen,
        row.propensities,
        row.expected_costs_usd,
        told.decision["state_position"],
        quality,
        bills,
    )


_LISTS = ("allowed_models", "excluded_models", "required_tags")


def _query(category: str, request: Mapping[str, Any]) -> RouteQuery:
    asked: dict[str, Any] = {name: tuple(value) if name in _LISTS else value for name, value in request.items()}
    return RouteQuery(category, **asked)
