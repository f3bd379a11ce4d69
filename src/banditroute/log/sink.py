"""The decision sink: what was decided and why, kept beside the learning path for `explain`.

Bounded, batched, and never in the way: a full queue or a failing disk drops rows, counts them and says so in the log.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import threading
import time
from array import array
from collections import deque
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from banditroute import logs
from banditroute.core.errors import StoreUnavailable
from banditroute.core.types import Lifecycle, Plan, Reason, RouteQuery

SINK_FILE = "decisions.db"
FLUSH_INTERVAL_S = 0.2
BATCH_ROWS = 500
BREATH_ROWS, BREATH_S = 64, 0.0001
KEPT_PLANS, KEPT_HEADS = 32, 1024
PURGE_INTERVAL_S = 3600.0
TELL_INTERVAL_S = 60.0

_SCHEMA = """CREATE TABLE IF NOT EXISTS batches (first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, rows TEXT NOT NULL,
             numbers BLOB NOT NULL)"""
_INDEX = "CREATE INDEX IF NOT EXISTS batches_time ON batches (last_ms, first_ms)"

log = logs.logger("banditroute.sink")


class SinkRow(NamedTuple):
    """One decision, as Route leaves it behind."""

    decision: bytes
    time_ms: int
    reason: Reason
    query: RouteQuery
    plan: Plan


class _Packed(NamedTuple):
    """A plan's candidates, the eligible ones first and best first: ``[models, exclusions, lifecycles]`` as
    JSON, the last two where there is something to say, and five float64s each (CANDIDATE_FIELDS)."""

    head: str
    numbers: bytes


class _Waiting(NamedTuple):
    """A row on its way: small and flat. Rows are packed by Route, while what they hold is in the processor's
    caches; keeping plans for the writer to pack later cost a busy server three times as much."""

    decision: bytes
    time_ms: int
    reason: int
    asked: str
    plan: _Packed


class DecisionSink:
    """A table of decisions in `directory`, written by one thread.

    Args:
        queue_rows: how many rows may wait.
        retention_s: how long rows are kept, in seconds.

    Raises:
        StoreUnavailable: the file cannot be opened; delete it to begin another.
    """

    def __init__(self, directory: Path, *, queue_rows: int, retention_s: float) -> None:
        self._path = directory / SINK_FILE
        self._limit = queue_rows
        self._retention_ms = int(retention_s * 1000)
        self._rows: deque[_Waiting] = deque()
        self._plans: dict[int, tuple[Plan, _Packed]] = {}
        self._heads: dict[tuple[Any, ...], str] = {}
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._purged = float("-inf")
        self.dropped = 0
        self._told, self._told_at = 0, float("-inf")
        with ExitStack() as undo:
            try:
                self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
                undo.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute(_SCHEMA)
                self._db.execute(_INDEX)
            except sqlite3.Error as error:
                raise StoreUnavailable(f"{self._path} cannot be used: {error}") from error
            undo.pop_all()
        self._thread = threading.Thread(target=self._run, name="banditroute-sink", daemon=True)
        self._thread.start()

    def put(self, row: SinkRow) -> None:
        """Takes a row, or drops and counts it if the queue is full. Never blocks, never raises."""
        if len(self._rows) >= self._limit:
            self.dropped += 1
            return
        decision, time_ms, reason, query, plan = row
        try:
            self._rows.append(_Waiting(decision, time_ms, int(reason), _asked(query), self._packed(plan)))
        except Exception:
            self.dropped += 1

    def _packed(self, plan: Plan) -> _Packed:
        """The plan's candidates; those of a plan that was just seen are at hand."""
        held = self._plans.get(id(plan))
        if held is not None and held[0] is plan:
            return held[1]
        candidates = plan.eligible
        key: tuple[Any, ...] = plan.models
        if len(candidates) < len(plan.candidates) or any(candidate[7] is not Lifecycle.LIVE for candidate in candidates):
            candidates += tuple([candidate for candidate in plan.candidates if candidate.exclusion is not None])
            key = tuple([(model, why, life) for model, why, _, _, _, _, _, life in candidates])
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= KEPT_HEADS:
                self._heads = {}
            excluded = {candidate.model: int(candidate.exclusion) for candidate in candidates if candidate.exclusion is not None}
            held_back = {row.model: int(row.lifecycle) for row in candidates if row.lifecycle is not Lifecycle.LIVE}
            head = self._heads[key] = json.dumps([[candidate.model for candidate in candidates], excluded, held_back])
        numbers = [number for candidate in candidates for number in candidate[2:7]]
        packed = _Packed(head, struct.pack(f"{len(numbers)}d", *numbers))
        if len(self._plans) >= KEPT_PLANS:
            self._plans = {}
        self._plans[id(plan)] = (plan, packed)
        return packed

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_INTERVAL_S):
            self.flush()

    def flush(self) -> None:
        """Writes all rows that wait."""
        cause = "the queue was full"
        with self._writing:
            while self._rows:
                batch = [self._rows.popleft() for _ in range(min(BATCH_ROWS, len(self._rows)))]
                try:
                    self._write(batch)
                except Exception as error:
                    self.dropped += len(batch)
                    cause = str(error)
                    with suppress(sqlite3.Error):
                        if self._db.in_transaction:
                            self._db.execute("ROLLBACK")
            if self.dropped > self._told and time.monotonic() - self._told_at >= TELL_INTERVAL_S:
                log.warning(
                    "decisions were dropped; explain knows them from their ids only", count=self.dropped - self._told, cause=cause
                )
                self._told, self._told_at = self.dropped, time.monotonic()

    def _write(self, batch: list[_Waiting]) -> None:
        times = [row.time_ms for row in batch]
        rows, numbers = _encoded(batch)
        self._db.execute("BEGIN")
        self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (min(times), max(times), rows, numbers))
        if time.monotonic() - self._purged > PURGE_INTERVAL_S:
            self._db.execute("DELETE FROM batches WHERE last_ms < ?", (times[-1] - self._retention_ms,))
            self._purged = time.monotonic()
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Writes what waits and closes the file. Idempotent."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self.flush()
            self._db.close()


_PLAIN = RouteQuery(category="")
_FIELDS = _PLAIN._fields[1:]
CANDIDATE_FIELDS = ("quality_mean", "quality_stddev", "expected_cost_usd", "utility_mean", "propensity")


def _encoded(batch: list[_Waiting]) -> tuple[str, bytes]:
    """A batch as JSON rows and packed float64s: a fraction of the time that one table row per decision takes.

    Rows are ``[id, time_ms, reason, request, plan]``, plans ``[models, exclusions, lifecycles]``; the numbers of the plans'
    candidates follow one another in the packed part.
    """
    plans: list[str] = []
    numbers: list[bytes] = []
    places: dict[int, int] = {}  # a plan often serves many decisions
    rows: list[str] = []
    for decision, time_ms, reason, asked, plan in batch:
        place = places.get(id(plan))
        if place is None:
            place = places[id(plan)] = len(plans)
            plans.append(plan.head)
            numbers.append(plan.numbers)
        # A few rows at a time: whoever encodes a whole batch at once keeps Route waiting for the interpreter.
        if len(rows) % BREATH_ROWS == BREATH_ROWS - 1:
            time.sleep(BREATH_S)
        rows.append(f'["{decision.hex()}", {time_ms}, {reason}, {asked}, {place}]')
    return f'{{"rows": [{", ".join(rows)}], "plans": [{", ".join(plans)}]}}', b"".join(numbers)


_ENCODE = json.JSONEncoder(default=float).encode


def _asked(query: RouteQuery) -> str:
    """What was asked beyond the category, as JSON."""
    if query[3:] == _PLAIN[3:] and not query.features:  # most ask for no more than input tokens
        return "{}" if query.input_tokens is None else f'{{"input_tokens": {query.input_tokens}}}'
    return _ENCODE({name: value for name, value, plain in zip(_FIELDS, query[1:], _PLAIN[1:], strict=True) if value != plain})


def _decoded(rows: str, numbers: bytes, decision: str) -> dict[str, Any] | None:
    """The one decision, if it is in the batch."""
    held = json.loads(rows)
    row = next((row for row in held["rows"] if row[0] == decision), None)
    if row is None:
        return None
    models, excluded, *more = held["plans"][row[4]]
    lives = more[0] if more else {}
    values = array("d", numbers)
    width = len(CANDIDATE_FIELDS)
    start = width * sum(len(plan[0]) for plan in held["plans"][: row[4]])
    candidates = []
    for i, model in enumerate(models):
        named = dict(zip(CANDIDATE_FIELDS, values[start + width * i : start + width * (i + 1)], strict=True))
        life = Lifecycle(lives.get(model, Lifecycle.LIVE)).name
        candidates.append({"model": model, "exclusion": excluded.get(model), "lifecycle": life, **named})
    return {"reason": Reason(row[2]).name, "request": row[3], "candidates": candidates}


def find_decision(directory: Path, decision: bytes) -> dict[str, Any] | None:
    """A kept decision as JSON data: reason, request, candidates; None where there is no such row.

    Raises:
        StoreUnavailable: the file cannot be read.
    """
    path = directory / SINK_FILE
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
            time_ms = int.from_bytes(decision[:6], "big")
            found = db.execute(
                "SELECT rows, numbers FROM batches WHERE last_ms >= ? AND first_ms <= ?", (time_ms, time_ms)
            ).fetchall()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path} cannot be read now: {error}") from error
    for rows, numbers in found:
        held = _decoded(rows, numbers, decision.hex())
        if held is not None:
            return held
    return None
