"""The log in one SQLite file: the embedded default.

WAL with synchronous=FULL: a commit returns when it is on the disk. One writer thread commits whatever
has come in since its last commit in one transaction (group commit), so that many waiting callers share
one fsync. One process owns a state directory (`flock`); others may open it read-only.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from banditroute.core.errors import (
    ConfigReplaced,
    EventsTrimmed,
    EventsVanished,
    FeedbackWindowOver,
    StoreClosed,
    StoreError,
    StoreKeyMismatch,
    StoreUnavailable,
)
from banditroute.core.settings import canonical_json
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
    Tip,
    made_event,
    merged_feedback,
)
from banditroute.log.leases import Leases
from banditroute.log.ownership import Ownership
from banditroute.log.sqlite_file import connect, prepared, store_errors

LOG_FILE = "log.db"
GROUP_SIZE = 512
MAX_QUEUED = 10_000
RECENT_EVENTS = 8192

_KEEP_RECORD = """INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (decision)
                  DO UPDATE SET expire_us = max(expire_us, excluded.expire_us), body = excluded.body"""
_NEWEST_CONFIG = f"SELECT max(position) FROM journal WHERE kind = '{EventKind.CONFIG.value}'"  # noqa: S608
_ON_LOG = "checkpoints.chain = (SELECT chain FROM events WHERE events.position = checkpoints.position)"


class _Work(NamedTuple):
    """Something to be done inside the writer's transaction; its outcome goes to `future`."""

    future: Future[Any]
    run: Callable[[_Batch], Any]


class _Batch:
    """What one transaction has done so far, and what becomes true only if it commits."""

    def __init__(self, tip: Tip, time_us: int, now_us: int) -> None:
        self.tip = tip
        self.time_us = max(time_us, now_us)
        self.events: list[Event] = []
        self.ordinals: dict[str, int] = {}


class SqliteLog(EventLog):
    """See `EventLog`. `clock` gives Unix seconds.

    Raises (on opening):
        StoreInUse: another process owns the directory.
        StoreTooNew: the file has a newer format.
        StoreUnavailable: it cannot be opened; in read-only mode also where it does not exist.
    """

    def __init__(self, directory: Path, clock: Callable[[], float], *, read_only: bool = False) -> None:
        self._clock = clock
        self._read_only = read_only
        self._changed = threading.Condition()
        self._closed = False
        self._leases = Leases(clock)
        path = directory / LOG_FILE
        with ExitStack() as undo:
            self._owned = None if read_only else undo.enter_context(closing(Ownership(directory)))
            if read_only and not path.exists():
                raise StoreUnavailable(f"no log in {directory}: nothing was served from there yet")
            with store_errors():
                self._writer = undo.enter_context(closing(connect(path, read_only=read_only)))
                self._prepare(path)
                self._reader = undo.enter_context(closing(connect(path, read_only=True)))
            undo.pop_all()
        self._reading = threading.Lock()
        self._recent: deque[Event] = deque(maxlen=RECENT_EVENTS)
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="banditroute-log", daemon=True)
        if not read_only:
            self._thread.start()

    # --- opening and closing ---

    def _prepare(self, path: Path) -> None:
        db = self._writer
        meta = prepared(db, path, read_only=self._read_only)
        self._purged = bytes.fromhex(meta.get("purged", ""))
        self.log_id, self.epoch = meta["log_id"], int(meta["epoch"])
        row = db.execute("SELECT position, chain, append_time_us FROM events ORDER BY position DESC LIMIT 1").fetchone()
        self._tip = Tip(row[0], row[1]) if row else Tip(0, b"")
        self._time_us: int = row[2] if row else 0
        self._ordinals: dict[str, int] = dict(db.execute("SELECT category, count FROM ordinals"))

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if not self._read_only:
            self._queue.put(None)
            self._thread.join()
        with self._reading:
            self._reader.close()
        self._writer.close()
        if self._owned is not None:
            self._owned.close()

    def _submit(self, run: Callable[[_Batch], Any]) -> Future[Any]:
        if self._read_only:
            raise StoreUnavailable("the log was opened read-only")
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # what is on its way to the disk cannot be called back
        with self._changed:
            if self._closed:
                raise StoreClosed("the log is closed")
            if self._queue.qsize() >= MAX_QUEUED:
                raise StoreUnavailable("the log is behind: too much waits to be written; try again")
            self._queue.put(_Work(future, run))
        return future

    # --- the writer thread ---

    def _write(self) -> None:
        going = True
        while going:
            works = [self._queue.get()]
            while len(works) < GROUP_SIZE and not self._queue.empty():
                works.append(self._queue.get())
            going = None not in works
            self._commit([work for work in works if work is not None])

    def _commit(self, works: Sequence[_Work]) -> None:
        """One transaction for all of `works`: each succeeds or fails on its own, the disk fails all."""
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            batch = _Batch(self._tip, self._time_us, int(self._clock() * 1e6))
            with store_errors():
                self._writer.execute("BEGIN IMMEDIATE")
                for work in works:
                    try:
                        outcomes.append((work.future, work.run(batch), None))
                    except (FeedbackWindowOver, ConfigReplaced, StoreKeyMismatch, ValueError) as error:
                        outcomes.append((work.future, None, error))
                self._writer.executemany("INSERT OR REPLACE INTO ordinals VALUES (?, ?)", batch.ordinals.items())
                self._writer.execute("COMMIT")
        except Exception as error:
            with suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            if len(works) > 1 and not isinstance(error, StoreError):  # one of them cannot be written: find it
                for work in works:
                    self._commit([work])
                return
            outcomes = [(work.future, None, error) for work in works]
        else:
            with self._changed:
                self._ordinals.update(batch.ordinals)
                self._tip, self._time_us = batch.tip, batch.time_us
                self._recent.extend(batch.events)
                self._changed.notify_all()
        for future, result, failure in outcomes:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _push(self, batch: _Batch, kind: EventKind, body: Mapping[str, Any]) -> Event:
        event, raw = made_event(batch.tip, append_time_us=batch.time_us, kind=kind, body=body)
        self._writer.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", (*event[:4], raw.decode(), event.chain))
        batch.tip = Tip(event.position, event.chain)
        batch.events.append(event)
        return event

    # --- appending ---

    def append(self, kind: EventKind, body: Mapping[str, Any], *, replaces: int | None = None) -> Future[Event]:
        def run(batch: _Batch) -> Event:
            if replaces is not None:
                (newest,) = self._writer.execute(_NEWEST_CONFIG).fetchone()
                if replaces != (newest or 0):
                    raise ConfigReplaced(f"the configuration was changed at position {newest or 0}")
            event = self._push(batch, kind, body)
            if kind in JOURNALLED:
                self._note(Transition(event.position, 0, event.append_time_us, event.kind, body))
            return event

        return self._submit(run)

    def append_feedback(self, feedback: FeedbackAppend) -> Future[FeedbackReceipt]:
        category = feedback.decision["category"]

        def run(batch: _Batch) -> FeedbackReceipt:
            if batch.time_us > feedback.expire_us:
                raise FeedbackWindowOver("the decision's feedback window is over")
            row = self._writer.execute("SELECT body FROM records WHERE decision = ?", (feedback.key,)).fetchone()
            record = None if row is None else json.loads(row[0])
            if record is None and feedback.key[:6] <= self._purged:
                raise FeedbackWindowOver(PURGED)
            ordinal = batch.ordinals.get(category, self._ordinals.get(category, 0)) + 1
            merged = merged_feedback(
                feedback, record, position=batch.tip.position + 1, append_time_us=batch.time_us, ordinal=ordinal
            )
            if merged.body is not None:
                self._push(batch, EventKind.FEEDBACK, merged.body)
                if record is None:
                    batch.ordinals[category] = ordinal
            if merged.body is not None or merged.merge.touched:
                kept = (feedback.key, feedback.expire_us + SKEW_US, canonical_json(merged.merge.record))
                self._writer.execute(_KEEP_RECORD, kept)
            return merged.receipt()

        return self._submit(run)

    # --- reading ---

    def _query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._reading:
            if self._closed:
                raise StoreClosed("the log is closed")
            with store_errors():
                return self._reader.execute(sql, parameters).fetchall()

    def read(self, after: int, limit: int, *, chain: bytes | None = None) -> Sequence[Event]:
        with self._changed:
            if self._closed:
                raise StoreClosed("the log is closed")
            if self._recent and self._recent[0].position <= after + (chain is None):
                if chain is not None and self._chain_of_recent(after) != chain:
                    raise EventsVanished(f"event {after} is not the one that was read before")
                start = after + 1 - self._recent[0].position
                return [self._recent[i] for i in range(start, min(start + limit, len(self._recent)))]
        end = self.tip().position  # before the query: what is appended meanwhile is no gap
        rows = self._query("SELECT * FROM events WHERE position > ? ORDER BY position LIMIT ?", (after, limit))
        if (rows and rows[0][0] != after + 1) or (not rows and limit > 0 and end > after):
            first = rows[0][0] if rows else end + 1
            raise EventsTrimmed(f"events behind {after} were trimmed: start from a checkpoint", first_position=first)
        if chain is not None and after > 0:
            found = self._query("SELECT chain FROM events WHERE position = ?", (after,))
            if not found or found[0][0] != chain:
                raise EventsVanished(f"event {after} is not the one that was read before")
        return [Event(p, time, kind, version, json.loads(body), chain) for p, time, kind, version, body, chain in rows]

    def _chain_of_recent(self, position: int) -> bytes | None:
        at = position - self._recent[0].position
        return self._recent[at].chain if 0 <= at < len(self._recent) else None

    def wait(self, after: int, timeout_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._tip.position > after, timeout_s)
            if self._closed:
                raise StoreClosed("the log is closed")
            return self._tip.position > after

    def tip(self) -> Tip:
        if self._closed:
            raise StoreClosed("the log is closed")
        return self._tip

    def record(self, key: bytes) -> Mapping[str, Any] | None:
        rows = self._query("SELECT body FROM records WHERE decision = ?", (key,))
        return json.loads(rows[0][0]) if rows else None

    # --- checkpoints, journal, housekeeping ---

    def save_checkpoint(self, checkpoint: Checkpoint) -> str | None:
        def run(_: _Batch) -> str | None:
            held = self._writer.execute("SELECT chain FROM events WHERE position = ?", (checkpoint.position,)).fetchone()
            if held is None or held[0] != checkpoint.chain:
                return None
            self._writer.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?)", checkpoint)
            kept = f"SELECT position FROM checkpoints WHERE {_ON_LOG} ORDER BY position DESC LIMIT ?"  # noqa: S608
            self._writer.execute(f"DELETE FROM checkpoints WHERE position NOT IN ({kept})", (KEPT_CHECKPOINTS,))  # noqa: S608
            return checkpoint.digest

        digest: str | None = self._submit(run).result()
        return digest

    def newest_checkpoint(self, *, oldest: int, newest: int) -> Checkpoint | None:
        rows = self._query(
            f"SELECT * FROM checkpoints WHERE fold_version BETWEEN ? AND ? AND {_ON_LOG} "  # noqa: S608
            "ORDER BY position DESC LIMIT 1",
            (oldest, newest),
        )
        return Checkpoint(*rows[0]) if rows else None

    def _note(self, line: Transition) -> bool:
        row = (self.epoch, line.position, line.index, line.append_time_us, line.kind, canonical_json(line.body))
        return self._writer.execute("INSERT OR IGNORE INTO journal VALUES (?, ?, ?, ?, ?, ?)", row).rowcount == 1

    def record_transitions(self, transitions: Sequence[Transition]) -> Sequence[Transition]:
        new: list[Transition] = self._submit(lambda _: [line for line in transitions if self._note(line)]).result()
        return new

    def journal(self, *, before: JournalKey | None, limit: int) -> Sequence[JournalRow]:
        return self._lines("< (?, ?, ?) ORDER BY epoch DESC, position DESC, idx DESC", before or (2**62, 0, 0), limit)

    def journal_after(self, after: JournalKey | None, limit: int) -> Sequence[JournalRow]:
        return self._lines("> (?, ?, ?) ORDER BY epoch, position, idx", after or (-1, 0, 0), limit)

    def _lines(self, which: str, key: JournalKey, limit: int) -> list[JournalRow]:
        rows = self._query(f"SELECT * FROM journal WHERE (epoch, position, idx) {which} LIMIT ?", (*key, limit))  # noqa: S608
        return [JournalRow(epoch, at, index, time, kind, json.loads(body)) for epoch, at, index, time, kind, body in rows]

    def claim(self, name: str, owner: str, lease_s: float) -> bool:
        if self._closed:
            raise StoreClosed("the log is closed")
        return self._leases.claim(name, owner, lease_s)

    def cursor(self, name: str) -> JournalKey | None:
        rows = self._query("SELECT value FROM meta WHERE name = ?", (f"cursor:{name}",))
        return _key_in(rows[0]) if rows else None

    def save_cursor(self, name: str, key: JournalKey) -> None:
        def run(_: _Batch) -> None:
            row = self._writer.execute("SELECT value FROM meta WHERE name = ?", (f"cursor:{name}",)).fetchone()
            if row is None or _key_in(row) < key:
                self._writer.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"cursor:{name}", json.dumps(key)))

        self._submit(run).result()

    def trim(self, position: int) -> int:
        def run(_: _Batch) -> int:
            sql = f"SELECT max(position) FROM checkpoints WHERE {_ON_LOG}"  # noqa: S608
            (newest,) = self._writer.execute(sql).fetchone()
            return self._writer.execute("DELETE FROM events WHERE position <= ?", (min(position, (newest or 1) - 1),)).rowcount

        count: int = self._submit(run).result()
        if count:
            with self._changed:
                self._recent.clear()  # what was trimmed must not be read any more
        return count

    def purge_records(self) -> int:
        def run(batch: _Batch) -> int:
            (newest,) = self._writer.execute("SELECT max(decision) FROM records WHERE expire_us < ?", (batch.time_us,)).fetchone()
            if newest is None:
                return 0
            self._purged = max(self._purged, newest[:6])  # before the commit: refusing too early does no harm
            self._writer.execute("INSERT OR REPLACE INTO meta VALUES ('purged', ?)", (self._purged.hex(),))
            return self._writer.execute("DELETE FROM records WHERE expire_us < ?", (batch.time_us,)).rowcount

        count: int = self._submit(run).result()
        return count

    def key_checks(self, mine: Sequence[str]) -> None:
        def run(_: _Batch) -> None:
            known = {name for (name,) in self._writer.execute("SELECT name FROM meta WHERE name LIKE 'key_check:%'")}
            wanted = {f"key_check:{check}" for check in mine}
            if known and not known & wanted:
                raise StoreKeyMismatch(
                    "this state directory was made with other signing keys: restore its keys.json (or signing_keys_file), "
                    "or start with an empty directory"
                )
            self._writer.executemany("INSERT OR IGNORE INTO meta VALUES (?, '')", [(name,) for name in wanted])

        self._submit(run).result()


def _key_in(row: Sequence[str]) -> JournalKey:
    epoch, position, index = json.loads(row[0])
    return epoch, position, index
