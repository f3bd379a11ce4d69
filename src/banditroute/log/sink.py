"""The decision sink: what was decided and why, kept beside the learning path for `explain`, `evaluate` and `export`.

Bounded, batched, and never in the way: a full queue or a failing store drops rows, counts them and says so in the log.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from banditroute import logs
from banditroute.log.sink_codec import KeptDecision, PlanPacker, SinkRow, Waiting, asked, encoded

FLUSH_INTERVAL_S = 0.2
BATCH_ROWS = 500
BREATH_S = 0.0001
TELL_INTERVAL_S = 60.0

log = logs.logger("banditroute.sink")

Cursor = Any
"""JSON data that says how far a reader has come; only the reader's own kind of store knows what is in it."""


class BatchWriter(Protocol):
    """Where batches go, and how long they are kept there. Used by one thread at a time."""

    def write(self, *, first_ms: int, last_ms: int, rows: str, numbers: bytes) -> None:
        """Keeps a batch (see `log.sink_codec`) whose decisions were made between these Unix times in milliseconds.

        Raises anything where it cannot: then nothing of the batch is kept.
        """

    def close(self) -> None:
        """Lets go of the store. Once only."""


class StoredBatch(NamedTuple):
    """A batch as it was written, for `sink_codec.decoded`. `cursor` stands behind it; `lost_count` batches between the one
    before and this one are kept no longer (0 where the store cannot know)."""

    cursor: Cursor
    lost_count: int
    rows: str
    numbers: bytes


class SinkReader(Protocol):
    """Reads what a sink wrote, also while it writes. Every method raises StoreUnavailable where the store cannot be read."""

    @property
    def exists(self) -> bool:
        """Whether there is a sink to read."""

    def batches(self, after: Cursor | None, *, since_ms: int = 0) -> Iterator[StoredBatch]:
        """The batches behind the cursor (None: from the first) that were there at the call, in the order in which they were
        written; those whose decisions were all made before `since_ms` are left out."""

    def count_after(self, after: Cursor | None) -> int:
        """About how many batches lie behind the cursor."""

    def find(self, decision: bytes) -> KeptDecision | None:
        """The decision with this 16-byte key; None where it is not kept. StoreUnavailable where its batch is damaged."""


class DecisionSink:
    """Decisions on their way into a store, written by one thread.

    Args:
        writer: the store; closed with the sink.
        queue_rows: how many rows may wait.
    """

    def __init__(self, writer: BatchWriter, *, queue_rows: int) -> None:
        self._writer = writer
        self._limit = queue_rows
        self._rows: deque[Waiting] = deque()
        self._packed = PlanPacker().packed
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self.dropped = 0
        self._told, self._told_at = 0, float("-inf")
        self._thread = threading.Thread(target=self._run, name="banditroute-sink", daemon=True)
        self._thread.start()

    def put(self, row: SinkRow) -> None:
        """Takes a row, or drops and counts it if the queue is full. Never blocks, never raises."""
        if len(self._rows) >= self._limit:
            self.dropped += 1
            return
        decision, time_ms, reason, query, plan, choice = row
        try:
            self._rows.append(Waiting(decision, time_ms, int(reason), asked(query), self._packed(plan), query.category, choice))
        except Exception:
            self.dropped += 1

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
            if self.dropped > self._told and time.monotonic() - self._told_at >= TELL_INTERVAL_S:
                log.warning(
                    "decisions were dropped; explain knows them from their ids only", count=self.dropped - self._told, cause=cause
                )
                self._told, self._told_at = self.dropped, time.monotonic()

    def _write(self, batch: list[Waiting]) -> None:
        times = [row.time_ms for row in batch]
        rows, numbers = encoded(batch, breathe=lambda: time.sleep(BREATH_S))
        self._writer.write(first_ms=min(times), last_ms=max(times), rows=rows, numbers=numbers)

    def close(self) -> None:
        """Writes what waits and closes the store. Idempotent."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self.flush()
            self._writer.close()
