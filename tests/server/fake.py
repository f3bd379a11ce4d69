"""An engine to serve from: answers at once, fails when told to, and keeps what it was given."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from banditroute.core.errors import EtagMismatch, StaleState, UnknownCategory
from banditroute.core.types import (
    ArmReport,
    Candidate,
    CategoryReport,
    Decision,
    Disposition,
    EngineInfo,
    Exclusion,
    FeedbackReceipt,
    FeedbackReport,
    JournalRow,
    Plan,
    Reason,
    RouteQuery,
)
from banditroute.server.port import EnginePort

CHEAP = Candidate("cheap", None, 0.7, 0.05, 0.001, 0.65, 0.75)
DEAR = Candidate("dear", None, 0.9, 0.02, 0.02, 0.6, 0.25)
BARRED = Candidate("barred", Exclusion.TAG_MISSING, 0.8, 0.1, 0.01, 0.5, 0.0)
PLAN = Plan(("cheap", "dear"), (0.75, 0.25), (CHEAP, DEAR), (DEAR, CHEAP, BARRED), (0.001, 0.02), (0.75, 0.25), (math.inf, 3.0))
ARMS = (
    ArmReport("cheap", 0.7, 0.05, 0.001, 1.5, 0.65, 0.75, 12.5, 20, 1, 2),
    ArmReport("dear", 0.9, 0.02, 0.02, None, 0.6, 0.25, 3.0, 4, 0, 0),
)


def category(name: str, **changes: Any) -> CategoryReport:
    return CategoryReport(name, 0.3, 0.1, ("cost_weight",), 0.02, 10.5, ARMS, "etag-1", 24)._replace(**changes)


def receipt(report: FeedbackReport, position: int = 7) -> FeedbackReceipt:
    applied = Disposition.APPLIED
    return FeedbackReceipt(applied, (applied,) * len(report.signals), (Disposition.DUPLICATE,) * len(report.attempts), position)


class FakeEngine:
    def __init__(self) -> None:
        self.errors: list[Exception] = []
        """The next calls raise these, in turn."""
        self.queries: list[RouteQuery] = []
        self.reports: list[FeedbackReport] = []
        self.weights: list[tuple[str, dict[str, float | None], dict[str, Any]]] = []
        self.arms: list[tuple[str, str, str, dict[str, Any]]] = []
        self.hold = False
        """Feedback stays pending until `settle`."""
        self.submitted = threading.Semaphore(0)
        """Released once for each report taken."""
        self.pending: list[tuple[FeedbackReport, Future[FeedbackReceipt]]] = []
        self.position = 5
        self.advance = threading.Event()
        """Set, waiting routes find their position reached."""
        self.waiting = threading.Semaphore(0)
        self.timeouts: list[float | None] = []
        self.known = [category("chat"), category("summarise")]
        self.rows: list[JournalRow] = []
        self.grown = threading.Condition()
        self.following = threading.Semaphore(0)
        """Released each time that somebody begins to wait for a line."""
        self.components = {"log": True, "fold": True}
        self.ready = True
        self.closed = 0

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def route(self, query: RouteQuery, *, min_state_position: int = 0, timeout_s: float | None = None) -> Decision:
        self.queries.append(query)
        self._fail()
        if min_state_position > self.position:
            self.timeouts.append(timeout_s)
            if timeout_s:
                self.waiting.release()
                self.advance.wait(timeout_s)
            if not self.advance.is_set():
                raise StaleState(f"the state is at position {self.position}")
        return Decision(
            "id-" + query.category,
            "cheap",
            ("dear",),
            0.75,
            Reason.BEST,
            0.7,
            0.001,
            self.position,
            1e9 + 0.5,
            query.category,
            PLAN,
        )

    def submit(self, report: FeedbackReport) -> Future[FeedbackReceipt]:
        self._fail()
        self.reports.append(report)
        future: Future[FeedbackReceipt] = Future()
        if self.hold:
            self.pending.append((report, future))
        else:
            future.set_result(receipt(report))
        self.submitted.release()
        return future

    def settle(self) -> None:
        while self.pending:
            report, future = self.pending.pop()
            future.set_result(receipt(report))

    def category(self, name: str) -> CategoryReport:
        self._fail()
        for known in self.known:
            if known.name == name:
                return known
        raise UnknownCategory(name, [known.name for known in self.known])

    def categories(self) -> Sequence[CategoryReport]:
        self._fail()
        return self.known

    def set_weights(
        self,
        category: str,
        changes: Mapping[str, float | None],
        *,
        reason: str,
        actor: str,
        etag: str = "",
        validate_only: bool = False,
    ) -> tuple[CategoryReport, int | None]:
        found = self.category(category)
        if etag and etag != found.etag:
            raise EtagMismatch("the category was changed since it was read: read it again")
        self.weights.append((category, dict(changes), {"reason": reason, "actor": actor, "validate_only": validate_only}))
        return found, None if validate_only else 9

    def _change_arm(self, action: str, model: str, category: str, **said: Any) -> tuple[Sequence[CategoryReport], int | None]:
        self._fail()
        self.arms.append((action, model, category, said))
        return self.known, None if said["validate_only"] else 9

    def pause_arm(
        self, model: str, category: str = "", *, reason: str, actor: str, validate_only: bool = False
    ) -> tuple[Sequence[CategoryReport], int | None]:
        return self._change_arm("pause", model, category, reason=reason, actor=actor, validate_only=validate_only)

    def resume_arm(
        self, model: str, category: str = "", *, reason: str, actor: str, validate_only: bool = False
    ) -> tuple[Sequence[CategoryReport], int | None]:
        return self._change_arm("resume", model, category, reason=reason, actor=actor, validate_only=validate_only)

    def reset_arm(
        self, model: str, category: str = "", *, reason: str, actor: str, validate_only: bool = False
    ) -> tuple[Sequence[CategoryReport], int | None]:
        return self._change_arm("reset", model, category, reason=reason, actor=actor, validate_only=validate_only)

    def journal(self, *, before: tuple[int, int, int] | None = None, limit: int = 100) -> Sequence[JournalRow]:
        self._fail()
        rows = {(row.epoch, row.position, row.index): row for row in self.rows}
        return [rows[key] for key in sorted(rows, reverse=True) if before is None or key < before][:limit]

    def tell(self, *rows: JournalRow) -> None:
        """More lines for who follows the journal."""
        with self.grown:
            self.rows.extend(rows)
            self.grown.notify_all()

    def journal_end(self, ended: Callable[[], bool]) -> tuple[int, int, int] | None:
        self._fail()
        return 1, max((row.position for row in self.rows), default=0), 2**32 - 1

    def journal_after(self, key: tuple[int, int, int], *, limit: int, ended: Callable[[], bool]) -> Sequence[JournalRow]:
        self._fail()
        with self.grown:
            self.following.release()
            while not (found := [row for row in self.rows if (row.epoch, row.position, row.index) > key]) and not ended():
                self.grown.wait()
            return found[:limit]

    def wake_journal(self) -> None:
        with self.grown:
            self.grown.notify_all()

    def info(self) -> EngineInfo:
        self._fail()
        return EngineInfo("1.2.3", 4, "log-id", 1, 10, 9, 1e9 + 0.25, 2, 3, "fingerprint")

    def health(self) -> Mapping[str, bool]:
        self._fail()
        return self.components

    def wait_ready(self, timeout_s: float) -> bool:
        return self.ready

    def close(self) -> None:
        self.closed += 1


def as_port(engine: FakeEngine) -> EnginePort:
    """Checked by the type checker: the fake has the interface."""
    return engine
