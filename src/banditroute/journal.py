"""The journal for those who follow it: in the order of its keys, each line once, none left out.

Lines of configurations and operators are in the journal as soon as they are appended; what the fold derives comes later
and may belong before them. So a line is given only once everything up to its position is folded and noted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from banditroute import logs
from banditroute.core.errors import StoreClosed
from banditroute.core.types import JournalRow, Transition
from banditroute.log.base import EventLog, JournalKey

LAST_INDEX = 2**32 - 1
"""Behind every line of its position."""
WARNINGS = frozenset({"event_skipped", "demoted", "degraded", "relapsed", "below_floor", "breaker_opened"})
"""Kinds of derived lines that somebody should look at."""

log = logs.logger("banditroute.journal")


def key_of(row: JournalRow) -> JournalKey:
    return row.epoch, row.position, row.index


def tell(lines: Iterable[Transition]) -> None:
    """A log line for each derived line of the journal."""
    for line in lines:
        say = log.warning if line.kind in WARNINGS else log.info
        say(line.kind.replace("_", " "), position=line.position, index=line.index, details=dict(line.body))


class JournalTail:
    """Gives the journal's lines as they settle. Thread-safe; `settle` and `begin` are for whoever folds.

    Whoever waits passes `ended`, which says whether it need not wait any more, and calls `wake` when that changes.
    """

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._changed = threading.Condition()
        self._settled = 0
        self._growth = 0
        self._start: JournalKey | None = None
        self._closed = False

    def settle(self, position: int, *, grew: bool) -> None:
        """Everything up to `position` is folded and noted. `grew`: there may be lines that were not given before."""
        self._settled = position
        if grew:  # most of what is folded is feedback, and concerns nobody here
            with self._changed:
                self._growth += 1
                self._changed.notify_all()

    def begin(self) -> None:
        """What was in the log at the start is folded."""
        with self._changed:
            self._start = self._log.epoch, self._settled, LAST_INDEX
            self._changed.notify_all()

    def start(self, ended: Callable[[], bool]) -> JournalKey | None:
        """The key that only lines since the start lie behind. Waits for it to be over; None where `ended` comes first.

        Raises:
            StoreClosed
        """
        self._wait(lambda: self._start is not None or ended())
        return self._start

    def end(self, ended: Callable[[], bool]) -> JournalKey | None:
        """The key that only lines from now on lie behind; otherwise as `start`."""
        started = self.start(ended)
        return None if started is None else (started[0], self._settled, LAST_INDEX)

    def after(self, key: JournalKey, *, limit: int, ended: Callable[[], bool]) -> list[JournalRow]:
        """Up to `limit` lines behind `key`, oldest first. Waits for the first one; empty only where `ended`.

        Raises:
            StoreClosed, StoreUnavailable.
        """
        while True:
            growth = self._growth  # read before the lines: what comes in between is not waited for
            until = self._log.epoch, self._settled
            rows = [row for row in self._log.journal_after(key, limit) if (row.epoch, row.position) <= until]
            if rows or ended():
                return rows
            self._await_growth(growth, ended)

    def _await_growth(self, since: int, ended: Callable[[], bool]) -> None:
        self._wait(lambda: self._growth != since or ended())

    def _wait(self, over: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or over())
            if self._closed:
                raise StoreClosed("the log is closed")

    def wake(self) -> None:
        """Lets everybody who waits look at their `ended`."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any longer. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
