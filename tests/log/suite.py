"""What all parts of the conformance suite share."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from banditroute.core.settings import canonical_json
from banditroute.core.types import Attempt, Disposition, Event, EventKind, Signal, SignalKind
from banditroute.log.base import Checkpoint, EventLog, FeedbackAppend, chained

START = 1_800_000_000.0
WINDOW_US = 7 * 86_400 * 10**6
APPLIED, DUPLICATE, CORRECTED, STALE = Disposition.APPLIED, Disposition.DUPLICATE, Disposition.CORRECTED, Disposition.STALE
DURABLE = "durable"


class Clock:
    """Seconds since 1970, as far as the test says."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def evaluated(value: float, source: str = "", weight: float = 1.0) -> Signal:
    return Signal(SignalKind.EVAL_SCORE, value, source, weight)


def feedback(
    number: int,
    *signals: Signal,
    attempts: tuple[Attempt, ...] = (),
    category: str = "chat",
    observe_s: float | None = None,
    expire_us: int | None = None,
) -> FeedbackAppend:
    """Feedback on the decision `number`; `observe_s` in seconds after START."""
    return FeedbackAppend(
        key=key_of(number),
        decision={"category": category, "model": "a", "context": [0.5]},
        signals=signals,
        attempts=attempts,
        observe_us=None if observe_s is None else int((START + observe_s) * 1e6),
        expire_us=int(START * 1e6) + WINDOW_US if expire_us is None else expire_us,
    )


def appended(log: EventLog, count: int) -> list[Event]:
    return [log.append(EventKind.OPERATOR, {"n": i}).result() for i in range(count)]


def checkpoint_at(event: Event, *, version: int = 1, body: bytes = b"state", chain: bytes | None = None) -> Checkpoint:
    return Checkpoint(event.position, event.chain if chain is None else chain, version, "digest", body)


def assert_chained(events: list[Event], previous: bytes = b"") -> None:
    """Positions are dense and every chain value follows from the one before."""
    for before, event in itertools.pairwise(events):
        assert event.position == before.position + 1
        assert event.append_time_us >= before.append_time_us
    for event in events:
        raw = canonical_json(event.body).encode()
        previous = chained(previous, position=event.position, append_time_us=event.append_time_us, kind=event.kind, body=raw)
        assert event.chain == previous


def all_events(log: EventLog) -> list[Event]:
    return list(log.read(0, 10**6))


class StoreSuite(abc.ABC):
    """A fresh store per test. `MISSING` names the capabilities that a backend lacks, with the reason."""

    MISSING: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def open(self, place: Path, clock: Callable[[], float]) -> EventLog:
        """Opens the store that `place` stands for, made if there is none."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def log(self, tmp_path: Path, clock: Clock) -> Iterator[EventLog]:
        log = self.open(tmp_path, clock)
        yield log
        log.close()

    def needs(self, capability: str) -> None:
        if capability in self.MISSING:
            pytest.skip(f"{capability}: {self.MISSING[capability]}")
