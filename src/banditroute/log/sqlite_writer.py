"""The thread that writes a SQLite log.

It commits whatever has come in since its last commit in one transaction (group commit), so that many waiting callers share
one fsync.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

from banditroute.core.errors import (
    ConfigReplaced,
    FeedbackWindowOver,
    StoreClosed,
    StoreError,
    StoreKeyMismatch,
    StoreUnavailable,
)
from banditroute.core.types import Event
from banditroute.log.base import Tip
from banditroute.log.sqlite_file import store_errors

GROUP_SIZE = 512
MAX_QUEUED = 10_000

Outcome = tuple[Future[Any], Any, BaseException | None]


class Batch:
    """What one transaction has done so far, and what becomes true only if it commits."""

    def __init__(self, tip: Tip, time_us: int, now_us: int) -> None:
        self.tip = tip
        self.time_us = max(time_us, now_us)
        self.events: list[Event] = []
        self.ordinals: dict[str, int] = {}


class Work(NamedTuple):
    """Something to be done inside the writer's transaction; its outcome goes to `future`."""

    future: Future[Any]
    run: Callable[[Batch], Any]


class GroupWriter:
    """See the module's text.

    Args:
        db: the connection, used by this thread alone from now on.
        turn: held while a transaction runs: where others write too, it is whose turn it is.
        begin: called when a transaction has begun, for its `Batch`.
        committed: called when it is durable, before anybody is told.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        turn: AbstractContextManager[object],
        begin: Callable[[], Batch],
        committed: Callable[[Batch], object],
    ) -> None:
        self._db, self._turn = db, turn
        self._begin, self._committed = begin, committed
        self._entering = threading.Lock()
        self._closed = False
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="banditroute-log", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[Batch], Any]) -> Future[Any]:
        """Takes work; its future is settled when what it wrote is durable.

        Raises:
            StoreClosed
            StoreUnavailable: too much waits.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # what is on its way to the disk cannot be called back
        with self._entering:
            if self._closed:
                raise StoreClosed("the log is closed")
            if self._queue.qsize() >= MAX_QUEUED:
                raise StoreUnavailable("the log is behind: too much waits to be written; try again")
            self._queue.put(Work(future, run))
        return future

    def close(self) -> None:
        """Writes what waits. Idempotent."""
        with self._entering:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            works = [self._queue.get()]
            try:
                with self._turn:  # what comes in while others write goes along
                    while len(works) < GROUP_SIZE and not self._queue.empty():
                        works.append(self._queue.get())
                    outcomes = self._commit([work for work in works if work is not None])
            except StoreError as error:
                outcomes = [(work.future, None, error) for work in works if work is not None]
            for future, result, failure in outcomes:
                if failure is None:
                    future.set_result(result)
                else:
                    future.set_exception(failure)
            going = None not in works

    def _commit(self, works: Sequence[Work]) -> list[Outcome]:
        """One transaction for all of `works`: each succeeds or fails on its own, the disk fails all."""
        outcomes: list[Outcome] = []
        try:
            with store_errors():
                self._db.execute("BEGIN IMMEDIATE")
                batch = self._begin()
                for work in works:
                    try:
                        outcomes.append((work.future, work.run(batch), None))
                    except (FeedbackWindowOver, ConfigReplaced, StoreKeyMismatch, ValueError) as error:
                        outcomes.append((work.future, None, error))
                self._db.executemany("INSERT OR REPLACE INTO ordinals VALUES (?, ?)", batch.ordinals.items())
                self._db.execute("COMMIT")
        except Exception as error:
            with suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            if len(works) > 1 and not isinstance(error, StoreError):  # one of them cannot be written: find it
                return [outcome for work in works for outcome in self._commit([work])]
            return [(work.future, None, error) for work in works]
        self._committed(batch)
        return outcomes
