"""The log in one SQLite file: the embedded default.

WAL with synchronous=FULL: a commit returns when it is on the disk. One thread writes, in groups (see `sqlite_writer`). One
process owns a state directory (`flock`); others may open it read-only. Where a supervisor's workers share it, they open it as
`sqlite_shared.SharedSqliteLog`.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Protocol

from banditroute.core.errors import (
    ConfigReplaced,
    EventsTrimmed,
    EventsVanished,
    FeedbackWindowOver,
    StoreClosed,
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
from banditroute.log.sqlite_writer import Batch, GroupWriter

LOG_FILE = "log.db"
RECENT_EVENTS = 8192

_KEEP_RECORD = """INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (decision)
                  DO UPDATE SET expire_us = max(expire_us, excluded.expire_us), body = excluded.body"""
_NEWEST_CONFIG = f"SELECT max(position) FROM journal WHERE kind = '{EventKind.CONFIG.value}'"  # noqa: S608
_ON_LOG = "checkpoints.chain = (SELECT chain FROM events WHERE events.position = checkpoints.position)"


class Closable(Protocol):
    """What is held for as long as a log is open."""

    def close(self) -> object: ...


class SqliteLog(EventLog):
    """See `EventLog`. `clock` gives Unix seconds.

    Raises (on opening):
        StoreInUse: another process owns the directory.
        StoreTooNew: the file has a newer format.
        StoreUnavailable: it cannot be opened; in read-only mode also where it does not exist.
    """

    recent_events: ClassVar[int] = RECENT_EVENTS
    """How many of the newest events are read from memory."""

    def __init__(self, directory: Path, clock: Callable[[], float], *, read_only: bool = False) -> None:
        self._clock = clock
        self._time_us = 0
        self._turn: AbstractContextManager[object] = nullcontext()
        self._read_only = read_only
        self._changed = threading.Condition()
        self._closed = False
        self._leases = Leases(clock)
        path = directory / LOG_FILE
        with ExitStack() as undo:
            self._owned = None if read_only else undo.enter_context(closing(self._hold(directory)))
            if read_only and not path.exists():
                raise StoreUnavailable(f"no log in {directory}: nothing was served from there yet")
            with store_errors(), self._turn:
                self._writer = undo.enter_context(closing(connect(path, read_only=read_only)))
                self._prepare(path)
                self._reader = undo.enter_context(closing(connect(path, read_only=True)))
            undo.pop_all()
        self._reading = threading.Lock()
        self._recent: deque[Event] = deque(maxlen=self.recent_events)
        self._group = (
            None if read_only else GroupWriter(self._writer, turn=self._turn, begin=self._begun, committed=self._committed)
        )

    # --- opening and closing ---

    def _hold(self, directory: Path) -> Closable:
        return Ownership(directory)

    def _prepare(self, path: Path) -> None:
        meta = prepared(self._writer, path, read_only=self._read_only)
        self.log_id, self.epoch = meta["log_id"], int(meta["epoch"])
        self._look()

    def _look(self) -> None:
        """Reads what the writer must know of all that was written before."""
        db = self._writer
        row = db.execute("SELECT value FROM meta WHERE name = 'purged'").fetchone()
        self._purged = bytes.fromhex(row[0]) if row else b""
        row = db.execute("SELECT position, chain, append_time_us FROM events ORDER BY position DESC LIMIT 1").fetchone()
        self._tip = Tip(row[0], row[1]) if row else Tip(0, b"")
        self._time_us = max(self._time_us, row[2] if row else 0)
        self._ordinals: dict[str, int] = dict(db.execute("SELECT category, count FROM ordinals"))

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if self._group is not None:
            self._group.close()
        with self._reading:
            self._reader.close()
        self._writer.close()
        if self._owned is not None:
            self._owned.close()

    def _submit(self, run: Callable[[Batch], Any]) -> Future[Any]:
        if self._group is None:
            raise StoreUnavailable("the log was opened read-only")
        return self._group.submit(run)

    # --- in the writer's thread ---

    def _begun(self) -> Batch:
        return Batch(self._tip, self._time_us, int(self._clock() * 1e6))

    def _committed(self, batch: Batch) -> None:
        with self._changed:
            self._ordinals.update(batch.ordinals)
            self._tip, self._time_us = batch.tip, batch.time_us
            self._recent.extend(batch.events)
            self._changed.notify_all()

    def _push(self, batch: Batch, kind: EventKind, body: Mapping[str, Any]) -> Event:
        event, raw = made_event(batch.tip, append_time_us=batch.time_us, kind=kind, body=body)
        self._writer.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", (*event[:4], raw.decode(), event.chain))
        batch.tip = Tip(event.position, event.chain)
        batch.events.append(event)
        return event

    # --- appending ---

    def append(self, kind: EventKind, body: Mapping[str, Any], *, replaces: int | None = None) -> Future[Event]:
        def run(batch: Batch) -> Event:
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

        def run(batch: Batch) -> FeedbackReceipt:
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
        def run(_: Batch) -> str | None:
            held = self._writer.execute("SELECT chain FROM events WHERE position = ?", (checkpoint.position,)).fetchone()
            if held is None or held[0] != checkpoint.chain:
                return None
            if (other := self._kept_instead(checkpoint)) is not None:
                return other
            self._writer.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?)", checkpoint)
            kept = f"SELECT position FROM checkpoints WHERE {_ON_LOG} ORDER BY position DESC LIMIT ?"  # noqa: S608
            self._writer.execute(f"DELETE FROM checkpoints WHERE position NOT IN ({kept})", (KEPT_CHECKPOINTS,))  # noqa: S608
            return checkpoint.digest

        digest: str | None = self._submit(run).result()
        return digest

    def _kept_instead(self, checkpoint: Checkpoint) -> str | None:
        """The digest of what another process saved for this place."""
        return None

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
        def run(_: Batch) -> None:
            row = self._writer.execute("SELECT value FROM meta WHERE name = ?", (f"cursor:{name}",)).fetchone()
            if row is None or _key_in(row) < key:
                self._writer.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"cursor:{name}", json.dumps(key)))

        self._submit(run).result()

    def trim(self, position: int) -> int:
        def run(_: Batch) -> int:
            sql = f"SELECT max(position) FROM checkpoints WHERE {_ON_LOG}"  # noqa: S608
            (newest,) = self._writer.execute(sql).fetchone()
            return self._writer.execute("DELETE FROM events WHERE position <= ?", (min(position, (newest or 1) - 1),)).rowcount

        count: int = self._submit(run).result()
        if count:
            with self._changed:
                self._recent.clear()  # what was trimmed must not be read any more
        return count

    def purge_records(self) -> int:
        def run(batch: Batch) -> int:
            (newest,) = self._writer.execute("SELECT max(decision) FROM records WHERE expire_us < ?", (batch.time_us,)).fetchone()
            if newest is None:
                return 0
            self._purged = max(self._purged, newest[:6])  # before the commit: refusing too early does no harm
            self._writer.execute("INSERT OR REPLACE INTO meta VALUES ('purged', ?)", (self._purged.hex(),))
            return self._writer.execute("DELETE FROM records WHERE expire_us < ?", (batch.time_us,)).rowcount

        count: int = self._submit(run).result()
        return count

    def key_checks(self, mine: Sequence[str]) -> None:
        def run(_: Batch) -> None:
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
