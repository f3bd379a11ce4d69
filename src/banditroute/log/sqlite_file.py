"""The log's SQLite file: how it is opened, made and checked, and what its errors mean."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from banditroute.core.errors import StoreClosed, StoreTooNew, StoreUnavailable

FORMAT_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (position INTEGER PRIMARY KEY, append_time_us INTEGER NOT NULL, kind TEXT NOT NULL,
                     fold_version INTEGER NOT NULL, body TEXT NOT NULL, chain BLOB NOT NULL);
CREATE TABLE records (decision BLOB PRIMARY KEY, expire_us INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX records_expire ON records (expire_us);
CREATE TABLE ordinals (category TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (epoch INTEGER, position INTEGER, idx INTEGER, append_time_us INTEGER NOT NULL, kind TEXT NOT NULL,
                      body TEXT NOT NULL, PRIMARY KEY (epoch, position, idx)) WITHOUT ROWID;
CREATE TABLE checkpoints (position INTEGER PRIMARY KEY, chain BLOB NOT NULL, fold_version INTEGER NOT NULL,
                          digest TEXT NOT NULL, body BLOB NOT NULL);
"""


@contextmanager
def store_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise StoreClosed("the log is closed") from error
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the log cannot be used now ({error}): check the disk's free space and permissions") from error


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode={'ro' if read_only else 'rwc'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10.0)


def prepared(db: sqlite3.Connection, path: Path, *, read_only: bool) -> dict[str, str]:
    """Makes the tables where there are none, and reads the file's particulars.

    Raises:
        StoreTooNew: the file has a newer format.
        StoreUnavailable: it is empty, and may only be read.
    """
    db.execute("PRAGMA synchronous=FULL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > FORMAT_VERSION:
        raise StoreTooNew(f"{path} has format {version}, this banditroute knows up to {FORMAT_VERSION}: upgrade banditroute")
    if version == 0 and read_only:
        raise StoreUnavailable(f"{path} is empty: nothing was served from there yet")
    if not read_only:
        db.execute("PRAGMA journal_mode=WAL")
    if version == 0:
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                db.execute(statement)
        db.executemany("INSERT INTO meta VALUES (?, ?)", [("log_id", uuid.uuid4().hex), ("epoch", "1")])
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        db.execute("COMMIT")
    return dict(db.execute("SELECT name, value FROM meta"))
