"""What the server needs of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from banditroute.core.types import CategoryReport, Decision, EngineInfo, FeedbackReceipt, FeedbackReport, JournalRow, RouteQuery


class EnginePort(Protocol):
    """`banditroute.engine.Engine`, as far as the server sees it. Every method may be called from any thread."""

    def route(self, query: RouteQuery, *, min_state_position: int = 0, timeout_s: float | None = None) -> Decision:
        """Decides. With `timeout_s=0` it never waits for `min_state_position`.

        Raises InvalidRequest, UnknownCategory, NoEligibleModel, StaleState.
        """
        ...

    def submit(self, report: FeedbackReport) -> Future[FeedbackReceipt]:
        """Hands feedback to the log; the future resolves when it is durable, or raises StoreError or FeedbackWindowOver.

        Raises at once InvalidRequest, DecisionIdError, FeedbackWindowOver, StoreClosed, StoreUnavailable.
        """
        ...

    def category(self, name: str) -> CategoryReport:
        """Raises UnknownCategory."""
        ...

    def categories(self) -> Sequence[CategoryReport]:
        """All of them, sorted by name."""
        ...

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
        """Raises UnknownCategory, InvalidRequest, EtagMismatch, StoreError."""
        ...

    def pause_arm(
        self, model: str, category: str = "", *, reason: str, actor: str, validate_only: bool = False
    ) -> tuple[Sequence[CategoryReport], int | None]:
        """Raises UnknownCategory, UnknownModel, LastArm, StoreError."""
        ...

    def resume_arm(
        self, model: str, category: str = "", *, reason: str, actor: str, validate_only: bool = False
    ) -> tuple[Sequence[CategoryReport], int | None]:
        """Raises UnknownCategory, UnknownModel, StoreError."""
        ...

    def reset_arm(
        self, model: str, category: str = "", *, reason: str, actor: str, validate_only: bool = False
    ) -> tuple[Sequence[CategoryReport], int | None]:
        """Raises UnknownCategory, UnknownModel, StoreError."""
        ...

    def journal(self, *, before: tuple[int, int, int] | None = None, limit: int = 100) -> Sequence[JournalRow]:
        """Newest first, strictly before the key (epoch, position, index)."""
        ...

    def journal_end(self, ended: Callable[[], bool]) -> tuple[int, int, int] | None:
        """The key that only lines from now on lie behind; waits for the start to be over. None where `ended` comes first.

        Raises StoreClosed.
        """
        ...

    def journal_after(self, key: tuple[int, int, int], *, limit: int, ended: Callable[[], bool]) -> Sequence[JournalRow]:
        """Oldest first, strictly behind `key`. Waits for the first one; empty only where `ended`.

        Raises StoreClosed, StoreUnavailable.
        """
        ...

    def wake_journal(self) -> None:
        """Lets those who wait in `journal_end` and `journal_after` look at their `ended`."""
        ...

    def info(self) -> EngineInfo: ...

    def health(self) -> Mapping[str, bool]:
        """Component to whether it works."""
        ...

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether the log is folded to its end; with 0 it only looks."""
        ...

    def close(self) -> None: ...
