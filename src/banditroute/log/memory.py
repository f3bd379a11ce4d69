"""The log in memory: for tests, simulations and trying things out. Durable as long as the process."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from banditroute.core.errors import (
    ConfigReplaced,
    EventsTrimmed,
    EventsVanished,
    FeedbackWindowOver,
    StoreClosed,
    StoreKeyMismatch,
)
from banditroute.core.types import Event, EventKind, FeedbackReceipt, JournalRow, Transition
from banditroute.log.base import (
    JOURNALLED,
    KEPT_CHECKPOINTS,
    PURGED,
    SKEW_US,
    Checkpoint,
    EventLog,
    FeedbackAppend,
    JournalKey,
    Merged,
    Tip,
    made_event,
    merged_feedback,
)
from banditroute.log.leases import Leases


class MemoryLog(EventLog):
    """See `EventLog`. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float], *, log_id: str | None = None) -> None:
        self.log_id = log_id or uuid.uuid4().hex
        self.epoch = 1
        self._clock = clock
        self._lock = threading.Condition()
        self._events: list[Event] = []
        self._trimmed = self._config = 0
        self._tip = Tip(0, b"")
        self._time_us = 0
        self._ordinals: dict[str, int] = {}
        self._purged = b""
        self._records: dict[bytes, tuple[int, Mapping[str, Any]]] = {}
        self._journal: dict[JournalKey, JournalRow] = {}
        self._cursors: dict[str, JournalKey] = {}
        self._leases = Leases(clock)
        self._checkpoints: list[Checkpoint] = []
        self._key_checks: set[str] = set()
        self._closed = False

    def _open(self) -> None:
        if self._closed:
            raise StoreClosed("the log is closed")

    def _now(self) -> int:
        self._time_us = max(self._time_us, int(self._clock() * 1e6))
        return self._time_us

    def _push(self, event: Event) -> None:
        self._events.append(event)
        self._tip = Tip(event.position, event.chain)
        self._lock.notify_all()

    def append(self, kind: EventKind, body: Mapping[str, Any], *, replaces: int | None = None) -> Future[Event]:
        future: Future[Event] = Future()
        with self._lock:
            self._open()
            if replaces is not None and replaces != self._config:
                future.set_exception(ConfigReplaced(f"the configuration was changed at position {self._config}"))
                return future
            event, _ = made_event(self._tip, append_time_us=self._now(), kind=kind, body=body)
            self._push(event)
            if kind is EventKind.CONFIG:
                self._config = event.position
            if kind in JOURNALLED:
                self._note(JournalRow(self.epoch, event.position, 0, event.append_time_us, event.kind, body))
        future.set_result(event)
        return future

    def append_feedback(self, feedback: FeedbackAppend) -> Future[FeedbackReceipt]:
        future: Future[FeedbackReceipt] = Future()
        with self._lock:
            self._open()
            now = self._now()
            try:
                merged = self._merged(feedback, now)
            except FeedbackWindowOver as error:
                future.set_exception(error)
                return future
            if merged.body is not None:
                event, _ = made_event(self._tip, append_time_us=now, kind=EventKind.FEEDBACK, body=merged.body)
                self._push(event)
            self._keep(feedback, merged)
        future.set_result(merged.receipt())
        return future

    def _merged(self, feedback: FeedbackAppend, now: int) -> Merged:
        """Feedback merged into its decision's record, as the next event would have it. Raises FeedbackWindowOver."""
        if now > feedback.expire_us:
            raise FeedbackWindowOver("the decision's feedback window is over")
        _, record = self._records.get(feedback.key, (0, None))
        if record is None and feedback.key[:6] <= self._purged:
            raise FeedbackWindowOver(PURGED)
        ordinal = self._ordinals.get(feedback.decision["category"], 0) + 1
        return merged_feedback(feedback, record, position=self._tip.position + 1, append_time_us=now, ordinal=ordinal)

    def _keep(self, feedback: FeedbackAppend, merged: Merged) -> None:
        """The record, once its event is in the log."""
        if merged.body is None and not merged.merge.touched:
            return
        category, record = feedback.decision["category"], merged.merge.record
        self._ordinals[category] = max(self._ordinals.get(category, 0), record["ordinal"])
        held_until, _ = self._records.get(feedback.key, (0, None))
        self._records[feedback.key] = (max(held_until, feedback.expire_us + SKEW_US), record)

    def read(self, after: int, limit: int, *, chain: bytes | None = None) -> Sequence[Event]:
        with self._lock:
            self._open()
            if after < self._trimmed:
                raise EventsTrimmed(
                    f"events up to {self._trimmed} were trimmed: start from a checkpoint", first_position=self._trimmed + 1
                )
            if chain is not None and after > self._trimmed and self._chain_at(after) != chain:
                raise EventsVanished(f"event {after} is not the one that was read before")
            return self._events[after - self._trimmed : after - self._trimmed + limit]

    def wait(self, after: int, timeout_s: float) -> bool:
        with self._lock:
            self._lock.wait_for(lambda: self._closed or self._tip.position > after, timeout_s)
            self._open()
            return self._tip.position > after

    def tip(self) -> Tip:
        self._open()
        return self._tip

    def record(self, key: bytes) -> Mapping[str, Any] | None:
        self._open()
        found = self._records.get(key)
        return None if found is None else found[1]

    def save_checkpoint(self, checkpoint: Checkpoint) -> str | None:
        with self._lock:
            self._open()
            if not self._holds(checkpoint):
                return None
            kept = [c for c in self._checkpoints if c.position != checkpoint.position]
            self._checkpoints = sorted(c for c in (*kept, checkpoint) if self._holds(c))[-KEPT_CHECKPOINTS:]
            return checkpoint.digest

    def newest_checkpoint(self, *, oldest: int, newest: int) -> Checkpoint | None:
        with self._lock:
            self._open()
            for checkpoint in reversed(self._checkpoints):
                if oldest <= checkpoint.fold_version <= newest and self._holds(checkpoint):
                    return checkpoint
        return None

    def _holds(self, checkpoint: Checkpoint) -> bool:
        return self._chain_at(checkpoint.position) == checkpoint.chain

    def _chain_at(self, position: int) -> bytes | None:
        at = position - self._trimmed - 1
        return self._events[at].chain if 0 <= at < len(self._events) else None

    def record_transitions(self, transitions: Sequence[Transition]) -> Sequence[Transition]:
        with self._lock:
            self._open()
            rows = [(t, JournalRow(self.epoch, t.position, t.index, t.append_time_us, t.kind, t.body)) for t in transitions]
            return [transition for transition, row in rows if self._note(row)]

    def _note(self, row: JournalRow) -> bool:
        return self._journal.setdefault((row.epoch, row.position, row.index), row) is row

    def journal(self, *, before: JournalKey | None, limit: int) -> Sequence[JournalRow]:
        with self._lock:
            self._open()
            keys = sorted((key for key in self._journal if before is None or key < before), reverse=True)
            return [self._journal[key] for key in keys[:limit]]

    def journal_after(self, after: JournalKey | None, limit: int) -> Sequence[JournalRow]:
        with self._lock:
            self._open()
            keys = sorted(key for key in self._journal if after is None or key > after)
            return [self._journal[key] for key in keys[:limit]]

    def claim(self, name: str, owner: str, lease_s: float) -> bool:
        self._open()
        return self._leases.claim(name, owner, lease_s)

    def cursor(self, name: str) -> JournalKey | None:
        self._open()
        return self._cursors.get(name)

    def save_cursor(self, name: str, key: JournalKey) -> None:
        with self._lock:
            self._open()
            self._cursors[name] = max(key, self._cursors.get(name, key))

    def trim(self, position: int) -> int:
        with self._lock:
            self._open()
            newest = max((c.position for c in self._checkpoints if self._holds(c)), default=1)
            count = max(0, min(position, newest - 1) - self._trimmed)
            del self._events[:count]
            self._trimmed += count
            return count

    def purge_records(self) -> int:
        with self._lock:
            self._open()
            now = self._now()
            gone = [key for key, (expire_us, _) in self._records.items() if expire_us < now]
            for key in gone:
                del self._records[key]
                self._purged = max(self._purged, key[:6])
            return len(gone)

    def key_checks(self, mine: Sequence[str]) -> None:
        with self._lock:
            self._open()
            if self._key_checks and not self._key_checks & set(mine):
                raise StoreKeyMismatch("this log was made with other signing keys")
            self._key_checks |= set(mine)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
