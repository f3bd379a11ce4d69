"""Decisions with their outcomes, from a state directory: the decision sink joined with the log of feedback."""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from banditroute.core.errors import EvaluationError, StoreUnavailable
from banditroute.core.types import Event, EventKind, RouteQuery
from banditroute.lab.ope.reports import Bill, outcome_of
from banditroute.log.base import EventLog
from banditroute.log.sink import CANDIDATE_FIELDS, SINK_FILE

READ_LIMIT = 4096
_COST, _PROPENSITY = CANDIDATE_FIELDS.index("expected_cost_usd"), CANDIDATE_FIELDS.index("propensity")


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
        except StoreUnavailable as error:
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


def sink_decisions(directory: Path, *, since_ms: int = 0) -> Iterator[SinkDecision]:
    """The rows of a decision sink from `since_ms` on, in the order in which they were written.

    Raises:
        EvaluationError: there is no sink, or a row of it is damaged.
        StoreUnavailable: the file cannot be read.
    """
    path = directory / SINK_FILE
    if not path.exists():
        raise EvaluationError(
            f"{directory} has no decision sink, so propensities are not known: serve with `decision_sink: {{enabled: true}}`"
        )
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
            for rows, numbers in db.execute("SELECT rows, numbers FROM batches WHERE last_ms >= ? ORDER BY rowid", (since_ms,)):
                yield from (row for row in _unpacked(rows, numbers) if row.time_ms >= since_ms)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path} cannot be read now: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EvaluationError(f"{path} holds a damaged row ({error}); evaluate from after it (--since)") from error


def _unpacked(rows: str, numbers: bytes) -> Iterator[SinkDecision]:
    held, values = json.loads(rows), array("d", numbers)
    width, start, plans = len(CANDIDATE_FIELDS), 0, []
    for models, *_ in held["plans"]:
        stop = start + width * len(models)
        if stop > len(values):
            raise IndexError("candidates are missing")
        told = values[start:stop]
        plans.append(
            (dict(zip(models, told[_COST::width], strict=True)), dict(zip(models, told[_PROPENSITY::width], strict=True)))
        )
        start = stop
    for decision, time_ms, _, request, place in held["rows"]:
        yield SinkDecision(decision, time_ms, request, *plans[place])


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
