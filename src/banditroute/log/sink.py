"""The decision sink: what was decided and why, kept beside the learning path for `explain`.

Bounded, batched, and never in the way: a full queue or a failing disk drops rows and counts them.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import deque
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from banditroute.core.errors import StoreUnavailable
from banditroute.core.types import Plan, Reason, RouteQuery

SINK_FILE = "decisions.db"
FLUSH_INTERVAL_S = 0.2
BATCH_ROWS = 2000
PURGE_INTERVAL_S = 3600.0

_SCHEMA = """CREATE TABLE IF NOT EXISTS decisions (decision BLOB PRIMARY KEY, time_ms INTEGER NOT NULL, reason INTEGER NOT NULL,
             request TEXT NOT NULL, candidates TEXT NOT NULL) WITHOUT ROWID"""


class SinkRow(NamedTuple):
    """One decision, as Route leaves it behind: nothing is encoded on Route's path."""

    decision: bytes
    time_ms: int
    reason: Reason
    query: RouteQuery
    plan: Plan


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
        self._rows: deque[SinkRow] = deque()
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._purged = 0.0
        self.dropped = 0
        with ExitStack() as undo:
            try:
                self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
                undo.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute(_SCHEMA)
            except sqlite3.Error as error:
                raise StoreUnavailable(f"{self._path} cannot be used: {error}") from error
            undo.pop_all()
        self._thread = threading.Thread(target=self._run, name="banditroute-sink", daemon=True)
        self._thread.start()

    def put(self, row: SinkRow) -> None:
        """Takes a row, or drops and counts it if the queue is full. Never blocks, never raises."""
        if len(self._rows) >= self._limit:
            self.dropped += 1
        else:
            self._rows.append(row)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_INTERVAL_S):
            self.flush()

    def flush(self) -> None:
        """Writes all rows that wait."""
        with self._writing:
            while self._rows:
                batch = [self._rows.popleft() for _ in range(min(BATCH_ROWS, len(self._rows)))]
                try:
                    self._write(batch)
                except Exception:
                    self.dropped += len(batch)
                    with suppress(sqlite3.Error):
                        if self._db.in_transaction:
                            self._db.execute("ROLLBACK")

    def _write(self, batch: list[SinkRow]) -> None:
        texts: dict[int, str] = {}  # a plan often serves many decisions
        rows = []
        for decision, time_ms, reason, query, plan in batch:
            text = texts.get(id(plan))
            if text is None:
                text = texts[id(plan)] = json.dumps(plan.candidates)
            rows.append((decision, time_ms, int(reason), _request_json(query), text))
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR IGNORE INTO decisions VALUES (?, ?, ?, ?, ?)", rows)
        newest = batch[-1].time_ms
        if time.monotonic() - self._purged > PURGE_INTERVAL_S:
            self._db.execute("DELETE FROM decisions WHERE time_ms < ?", (newest - self._retention_ms,))
            self._purged = time.monotonic()
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Writes what waits and closes the file. Idempotent."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self.flush()
            self._db.close()


_PLAIN = RouteQuery(category="")._asdict()


def _request_json(query: RouteQuery) -> str:
    """What was asked beyond the category."""
    asked = {name: value for name, value in query._asdict().items() if name != "category" and value != _PLAIN[name]}
    return json.dumps(asked) if asked else "{}"


CANDIDATE_FIELDS = ("model", "exclusion", "quality_mean", "quality_stddev", "expected_cost_usd", "utility_mean", "propensity")


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
            row = db.execute("SELECT reason, request, candidates FROM decisions WHERE decision = ?", (decision,)).fetchone()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path} cannot be read now: {error}") from error
    if row is None:
        return None
    candidates = [dict(zip(CANDIDATE_FIELDS, values, strict=True)) for values in json.loads(row[2])]
    return {"reason": Reason(row[0]).name, "request": json.loads(row[1]), "candidates": candidates}
