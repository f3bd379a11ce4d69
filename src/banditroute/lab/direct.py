"""The engine on the shortest way round: a simulation decides and learns by the functions that serve, one call after the other.

What is left out is what crosses processes and disks: signing and verifying ids, checks of what the lab itself made, the
events' JSON and chain, futures, locks, and waiting for the log. The state's chain value is empty after feedback, therefore; all
else in it, and every decision and propensity, is what `Router` comes to (`tests/lab/test_lab_direct.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from banditroute.config import load
from banditroute.core.fold import FOLD_VERSION
from banditroute.core.types import Attempt, Event, EventKind, FeedbackReport, Plan, RouteQuery, Signal
from banditroute.log.base import FeedbackAppend, Tip
from banditroute.log.memory import MemoryLog
from banditroute.tokens import DecisionToken, as_sent
from banditroute.wiring import open_engine

PURGE_EVERY = 10_000
"""Events after which records of decisions too old for feedback are let go."""


class Unkept(MemoryLog):
    """A log in memory that hands feedback events over instead of keeping them. Positions, times, ordinals and records are those
    of any log; configurations and operators' changes are appended and read as ever. For one thread."""

    def take(self, feedback: FeedbackAppend) -> Event | None:
        """The event that the feedback makes; None where it changes nothing.

        Raises:
            FeedbackWindowOver
        """
        now = self._now()
        merged = self._merged(feedback, now)
        self._keep(feedback, merged)
        if merged.body is None:
            return None
        self._trimmed = position = self._tip.position + 1
        self._events.clear()
        self._tip = Tip(position, b"")
        if position % PURGE_EVERY == 0:
            self.purge_records()
        return Event(position, now, EventKind.FEEDBACK, FOLD_VERSION, merged.body, b"")


class Direct:
    """An engine on a log in memory, a simulated clock (Unix seconds) and a seed. For one thread.

    `engine` is for all that is no decision and no feedback. Raises ConfigError where the configuration is refused.
    """

    def __init__(self, config: Mapping[str, Any], *, clock: Callable[[], float], seed: int) -> None:
        self._clock = clock
        self._log = Unkept(clock, log_id=f"seed-{seed}")
        self.engine = open_engine(load(config), store="memory:", clock=clock, seed=seed, threaded=False, log=self._log)

    def route(self, query: RouteQuery) -> tuple[DecisionToken, Plan]:
        """`Router.route`: what the decision's id would say, and the plan that it was drawn from.

        Raises:
            UnknownCategory, NoEligibleModel.
        """
        snapshot = self.engine.snapshot
        plan, _, token = self.engine.decide(query, snapshot, snapshot.view(query.category), self._clock())
        return as_sent(token), plan

    def feedback(self, token: DecisionToken, signals: tuple[Signal, ...], attempts: tuple[Attempt, ...] = ()) -> None:
        """`Router.feedback`, observed now.

        Raises:
            FeedbackWindowOver
        """
        event = self._log.take(self.engine.taken(FeedbackReport("", signals, attempts), token))
        if event is not None:
            self.engine.fold(event)
