"""The decision sink in one SQLite file beside the log: a table row per batch, numbered without gaps."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from banditroute.core.errors import StoreUnavailable
from banditroute.log.sink import Cursor, StoredBatch
from banditroute.log.sink_codec import DamagedBatch, KeptDecision, decoded

SINK_FILE = "decisions.db"
PURGE_INTERVAL_S = 3600.0
PAGE_BATCHES = 64

# The newest batch is never removed, so SQLite gives no number twice. The file's id tells it from another one in its place.
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS batches (batch INTEGER PRIMARY KEY, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
       rows TEXT NOT NULL, numbers BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS batches_time ON batches (last_ms, first_ms)",
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)


class SqliteSinkWriter:
    """A `BatchWriter` into `directory`.

    Args:
        retention_s: how long batches are kept, in seconds.

    Raises:
        StoreUnavailable: the file cannot be opened; delete it to begin another.
    """

    def __init__(self, directory: Path, *, retention_s: float) -> None:
        path = directory / SINK_FILE
        self._retention_ms = int(retention_s * 1000)
        self._purged = float("-inf")
        with ExitStack() as undo:
            try:
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                undo.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                for statement in _SCHEMA:
                    self._db.execute(statement)
                self._db.execute("INSERT OR IGNORE INTO meta VALUES ('file_id', ?)", (uuid.uuid4().hex,))
            except sqlite3.Error as error:
                raise StoreUnavailable(f"{path} cannot be used: {error}") from error
            undo.pop_all()

    def write(self, *, first_ms: int, last_ms: int, rows: str, numbers: bytes) -> None:
        """Keeps a batch, and from time to time removes those that are too old. Raises sqlite3.Error."""
        try:
            self._db.execute("BEGIN IMMEDIATE")  # other workers may write too: wait for them
            values = (first_ms, last_ms, rows, numbers)
            self._db.execute("INSERT INTO batches (first_ms, last_ms, rows, numbers) VALUES (?, ?, ?, ?)", values)
            if time.monotonic() - self._purged > PURGE_INTERVAL_S:
                self._db.execute("DELETE FROM batches WHERE last_ms < ?", (last_ms - self._retention_ms,))
                self._purged = time.monotonic()
            self._db.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._db.close()


class SqliteSinkReader:
    """A `SinkReader` of `directory`. A cursor is ``{"file": id, "batch": number}``; of another file it stands before the first
    batch of this one. A file that was written before files had ids has the id ""."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / SINK_FILE

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def batches(self, after: Cursor | None, *, since_ms: int = 0) -> Iterator[StoredBatch]:
        """See `SinkReader`."""
        if not self.exists:
            return
        with self._opened() as db:
            file_id = _file_id(db)
            seen, lost = _place(after, file_id), 0
            (last,) = db.execute("SELECT ifnull(max(rowid), 0) FROM batches").fetchone()
            while True:
                # Pages: a reader that stayed in one transaction would keep the server's log of writes from being folded.
                page = db.execute(
                    "SELECT rowid, iif(last_ms >= ?, rows, NULL), iif(last_ms >= ?, numbers, NULL) FROM batches "
                    "WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?",
                    (since_ms, since_ms, seen, last, PAGE_BATCHES),
                ).fetchall()
                if not page:
                    return
                for number, rows, numbers in page:
                    lost += number - seen - 1
                    seen = number
                    if rows is not None:
                        yield StoredBatch({"file": file_id, "batch": number}, lost, rows, numbers)
                        lost = 0

    def count_after(self, after: Cursor | None) -> int:
        """See `SinkReader`."""
        if not self.exists:
            return 0
        with self._opened() as db:
            place = _place(after, _file_id(db))
            return int(db.execute("SELECT count(*) FROM batches WHERE rowid > ?", (place,)).fetchone()[0])

    def find(self, decision: bytes) -> KeptDecision | None:
        """See `SinkReader`."""
        if not self.exists:
            return None
        key, time_ms = decision.hex(), int.from_bytes(decision[:6], "big")
        with self._opened() as db:
            found = db.execute(
                "SELECT rows, numbers FROM batches WHERE last_ms >= ? AND first_ms <= ?", (time_ms, time_ms)
            ).fetchall()
        try:
            held = (row for rows, numbers in found if key in rows for row in decoded(rows, numbers))
            return next((row for row in held if row.decision == key), None)
        except DamagedBatch as error:
            raise StoreUnavailable(f"{self._path} holds the decision in a damaged batch: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True)) as db:
                yield db
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self._path} cannot be read now: {error}") from error


def _file_id(db: sqlite3.Connection) -> str:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return ""
    row: Any = db.execute("SELECT value FROM meta WHERE name = 'file_id'").fetchone()
    return "" if row is None else str(row[0])


def _place(after: Cursor | None, file_id: str) -> int:
    """The number of the last batch that was read."""
    return int(after["batch"]) if after is not None and after["file"] in ("", file_id) else 0
