"""The SQLite log of workers: several processes of one machine write one file, and each reads what the others wrote.

Who writes takes turns by an advisory lock (`flock` on a file of its own) around each transaction: SQLite's own waiting is a
sleep that whoever writes again at once always wins. What is true at the log's end is read anew, inside the transaction,
where another process has written since. The lock is only about turns: that positions are dense and nothing is written twice
follows from SQLite's transactions.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from banditroute.core.errors import StoreClosed, StoreUnavailable
from banditroute.log.base import Checkpoint, Tip
from banditroute.log.sqlite import Closable, SqliteLog
from banditroute.log.sqlite_writer import Batch

TURN_FILE = "turn"
FIRST_LOOK_S, LONGER_EACH_TIME, LONGEST_LOOK_S = 0.002, 1.1, 0.04
"""How long between two looks for what others wrote: 20 ms when nothing came for 0.2 s, so that an idle worker costs next to
nothing."""


class Turn:
    """Whose turn it is to write, among all that opened the directory; ends with its holder.

    Raises:
        StoreUnavailable: the directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(directory / TURN_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"state directory {directory} cannot be used: {error.strerror}") from error

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreUnavailable(f"the log's lock cannot be taken: {error.strerror}") from error

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._handle)


class SharedSqliteLog(SqliteLog):
    """See `EventLog` and the module's text. Who owns the directory is not asked here: a supervisor does, for its workers.

    Raises (on opening):
        StoreTooNew, StoreUnavailable: as `SqliteLog`.
    """

    recent_events: ClassVar[int] = 0
    """What others write is not in this memory."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._version = -1
        self._look_s = FIRST_LOOK_S
        super().__init__(directory, clock)

    def _hold(self, directory: Path) -> Closable:
        self._turn = turn = Turn(directory)
        return turn

    # --- writing ---

    def _begun(self) -> Batch:
        (version,) = self._writer.execute("PRAGMA data_version").fetchone()  # another one since others committed
        if version != self._version:
            self._look()
            self._version = version
        return super()._begun()

    def _kept_instead(self, checkpoint: Checkpoint) -> str | None:
        row = self._writer.execute(
            "SELECT digest FROM checkpoints WHERE position = ? AND chain = ? AND fold_version = ?", checkpoint[:3]
        ).fetchone()
        return None if row is None else str(row[0])

    def claim(self, name: str, owner: str, lease_s: float) -> bool:
        def run(_: Batch) -> bool:
            now_us = int(self._clock() * 1e6)
            row = self._writer.execute("SELECT value FROM meta WHERE name = ?", (f"lease:{name}",)).fetchone()
            holder, until_us = json.loads(row[0]) if row else (owner, now_us)
            if holder != owner and now_us < until_us:
                return False
            lease = json.dumps([owner, now_us + int(lease_s * 1e6)])
            self._writer.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"lease:{name}", lease))
            return True

        taken: bool = self._submit(run).result()
        return taken

    # --- reading ---

    def tip(self) -> Tip:
        rows = self._query("SELECT position, chain FROM events ORDER BY position DESC LIMIT 1")
        return Tip(*rows[0]) if rows else Tip(0, b"")

    def wait(self, after: int, timeout_s: float) -> bool:
        """Looks for what others wrote every few milliseconds, less often the longer nothing comes; own appends wake it."""
        until = time.monotonic() + timeout_s
        while True:
            if self.tip().position > after:
                self._look_s = FIRST_LOOK_S
                return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._tip.position > after, min(left, self._look_s))
                if self._closed:
                    raise StoreClosed("the log is closed")
            self._look_s = min(LONGEST_LOOK_S, LONGER_EACH_TIME * self._look_s)
