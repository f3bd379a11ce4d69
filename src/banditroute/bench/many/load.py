"""Callers who go on whatever happens, and what the log holds of what they were told."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Self

from banditroute.client import Client, RequestFailed
from banditroute.core.fold import learn
from banditroute.core.state import INITIAL
from banditroute.core.types import Event, EventKind
from banditroute.log.checkpoint import encode
from banditroute.tokens import TokenSigner

ROUTING, TELLING = 2, 4
"""Threads that only route, and threads that tell how it went."""
ROUTE_PAUSE_S = 0.002
CALL_TIMEOUT_S = 5.0


class Answer(NamedTuple):
    """A call that succeeded: when it began and when it was answered (monotonic seconds)."""

    began: float
    ended: float


class Load:
    """Routes and tells from several threads until stopped; notes every answer and every refusal."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self.acknowledged: dict[str, Answer] = {}
        self.unsure: set[str] = set()
        """Decisions whose feedback was not answered: it may be in the log or not."""
        self.routes: list[Answer] = []
        self.route_errors: list[str] = []
        self.feedback_errors: Counter[str] = Counter()
        kinds = [False] * ROUTING + [True] * TELLING
        self._threads = [threading.Thread(target=self._run, args=(tells,), daemon=True) for tells in kinds]
        for thread in self._threads:
            thread.start()

    def _run(self, tells: bool) -> None:
        while not self._stop.is_set():
            category = "code" if next(self._numbers) % 2 else "chat"
            began = time.monotonic()
            try:
                decision_id = self._client.route(category, timeout_s=CALL_TIMEOUT_S).decision_id
            except RequestFailed as error:
                self.route_errors.append(str(error))
                continue
            self.routes.append(Answer(began, time.monotonic()))
            if tells:
                self._tell(decision_id)
            else:
                self._stop.wait(ROUTE_PAUSE_S)

    def _tell(self, decision_id: str) -> None:
        began = time.monotonic()
        try:
            self._client.feedback(decision_id, eval_score=0.5, cost_usd=0.001, timeout_s=CALL_TIMEOUT_S)
        except RequestFailed as error:
            self.unsure.add(decision_id)
            self.feedback_errors[error.reason or error.code.name] += 1
        else:
            self.unsure.discard(decision_id)
            self.acknowledged[decision_id] = Answer(began, time.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Returns when no call is under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def say_again(self) -> None:
        """What was not answered, once more, as callers do."""
        for decision_id in sorted(self.unsure):
            self._tell(decision_id)

    def acknowledged_since(self, moment: float) -> bool:
        """Whether feedback that was given after `moment` was."""
        return any(each.began >= moment for each in list(self.acknowledged.values()))

    def silences(self, first: float, last: float) -> tuple[float, float]:
        """The longest time without an answer to Route and without one to feedback, in seconds, between two moments."""
        return _longest(self.routes, first, last), _longest(list(self.acknowledged.values()), first, last)


def _longest(answers: Sequence[Answer], first: float, last: float) -> float:
    moments = sorted(each.ended for each in answers if first <= each.ended <= last)
    return max(after - before for before, after in itertools.pairwise([first, *moments, last]))


def counted(events: Sequence[Event], load: Load, signer: TokenSigner) -> dict[str, int]:
    """How much of what was acknowledged the log lacks, and how many decisions it counts twice."""
    found = Counter(event.body["decision"]["id"] for event in events if event.kind == EventKind.FEEDBACK)
    mine = {decision_id: signer.verify(decision_id).decision.hex() for decision_id in list(load.acknowledged)}
    return {
        "acknowledged": len(mine),
        "lost": sum(key not in found for key in mine.values()),
        "double_counted": sum(count > 1 for count in found.values()),
    }


def digest_of(events: Sequence[Event]) -> str:
    """Of the state that a single process folds from these events."""
    state = INITIAL
    for event in events:
        state, _ = learn(state, event)
    return hashlib.sha256(encode(state)).hexdigest()
