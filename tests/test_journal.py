"""The journal's tail: in the order of its keys, each line once, none left out; and its log lines."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engines import Clock, bare, opened, report

from banditroute.core.errors import StoreClosed, StoreUnavailable
from banditroute.core.types import EventKind, JournalRow, RouteQuery, Transition
from banditroute.engine import Engine
from banditroute.journal import LAST_INDEX, JournalTail, key_of
from banditroute.log.memory import MemoryLog
from banditroute.log.sqlite import SqliteLog

DANCE = {"action": "dance"}


def never() -> bool:
    return False


def now() -> bool:
    return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Iterator[Engine]:
    made = opened(clock)
    yield made
    made.close()


def keys(rows: list[JournalRow]) -> list[tuple[int, int]]:
    return [(row.position, row.index) for row in rows]


def test_a_line_is_given_once_all_before_it_are_noted(engine: Engine) -> None:
    """An operator's line is in the journal at once, and what the fold derives before it only later."""
    engine._log.append(EventKind.OPERATOR, DANCE).result()
    engine._log.append(EventKind.OPERATOR, DANCE).result()
    start = (1, 1, LAST_INDEX)
    assert keys(list(engine._log.journal_after(start, 10))) == [(2, 0), (3, 0)]
    assert engine.journal_after(start, limit=10, ended=now) == []
    engine.catch_up()
    assert keys(engine.journal_after(start, limit=10, ended=never)) == [(2, 0), (2, 1), (3, 0), (3, 1)]


def test_nothing_is_given_whose_derived_lines_could_not_be_noted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise StoreUnavailable("full")

    engine._log.append(EventKind.OPERATOR, DANCE).result()
    with monkeypatch.context() as patched, pytest.raises(StoreUnavailable):
        patched.setattr(engine._log, "record_transitions", full)
        engine.catch_up()
    assert engine.journal_after((1, 1, LAST_INDEX), limit=10, ended=now) == []
    engine.catch_up()
    assert keys(engine.journal_after((1, 1, LAST_INDEX), limit=10, ended=never)) == [(2, 0), (2, 1)]


def test_limits_and_keys(engine: Engine) -> None:
    for _ in range(3):
        engine._log.append(EventKind.OPERATOR, DANCE).result()
    engine.catch_up()
    seen: list[JournalRow] = []
    key = (0, 0, 0)
    while rows := engine.journal_after(key, limit=3, ended=now):
        assert len(rows) <= 3
        seen += rows
        key = key_of(rows[-1])
    assert keys(seen) == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1)]
    assert engine.journal_after((9, 0, 0), limit=3, ended=now) == []


def test_the_end_is_behind_all_that_is_folded(engine: Engine) -> None:
    engine._log.append(EventKind.OPERATOR, DANCE).result()
    assert engine.journal_end(never) == (1, 1, LAST_INDEX)
    engine.catch_up()
    assert engine.journal_end(never) == (1, 2, LAST_INDEX)
    assert engine.tail.start(never) == (1, 1, LAST_INDEX)


def test_the_end_waits_for_the_start(clock: Clock) -> None:
    tail = JournalTail(MemoryLog(clock))
    tail.settle(5, grew=True)
    assert tail.end(now) is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(tail.end, never)
        tail.settle(7, grew=True)
        tail.begin()
        assert waiting.result(60.0) == (1, 7, LAST_INDEX)


def test_who_waits_gets_the_next_line(clock: Clock) -> None:
    engine = opened(clock, threaded=True)
    assert engine.wait_ready(60.0)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(engine.journal_after, (1, 1, 0), limit=9, ended=never) for _ in range(4)]
        engine.set_weights("chat", {"cost_weight": 3.0}, reason="", actor="")
        assert [keys(each.result(60.0)) for each in waiting] == [[(2, 0)]] * 4
    engine.close()


def test_feedback_wakes_nobody(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(engine.tail, "settle", lambda position, *, grew: told.append(grew))
    engine.submit(report(engine.route(RouteQuery("code")).id, 0.5)).result()
    engine.catch_up()
    engine.set_weights("chat", {"cost_weight": 3.0}, reason="", actor="")
    assert told == [False, True]


class TestEnding:
    def test_by_the_waiters_own_word(self, engine: Engine) -> None:
        over = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(engine.journal_after, (1, 1, 0), limit=9, ended=over.is_set)
            over.set()
            engine.wake_journal()
            assert waiting.result(60.0) == []

    def test_with_the_engine(self, clock: Clock) -> None:
        engine = opened(clock)
        with ThreadPoolExecutor(2) as pool:
            waiting = pool.submit(engine.journal_after, (1, 1, 0), limit=9, ended=never)
            starting = pool.submit(JournalTail.end, engine.tail, never)
            assert starting.result(60.0)
            engine.close()
            with pytest.raises(StoreClosed):
                waiting.result(60.0)
        with pytest.raises(StoreClosed):
            engine.journal_end(never)


class TestLogLines:
    def told(self, caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
        return [(record.levelname, record.msg) for record in caplog.records if record.name == "banditroute.journal"]

    def test_each_derived_line_once_and_not_again_after_a_restart(
        self, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        engine = opened(clock, tmp_path)
        for _ in range(2):
            engine._log.append(EventKind.OPERATOR, DANCE).result()
        engine.catch_up()
        told = self.told(caplog)
        assert [(level, line["event"], line["position"], line["index"]) for level, line in told] == [
            ("WARNING", "event skipped", 2, 1),
            ("WARNING", "event skipped", 3, 1),
        ]
        assert "dance" in told[0][1]["details"]["reason"]
        engine._log.close()  # as if killed: no checkpoint, so that the next start folds all of it again
        engine.close()
        again = opened(clock, tmp_path)
        assert again.info().skipped_event_count == 2
        assert len(self.told(caplog)) == 2
        again.close()

    def test_not_while_it_cannot_be_noted(
        self, engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: object) -> None:
            raise StoreUnavailable("full")

        engine._log.append(EventKind.OPERATOR, DANCE).result()
        with monkeypatch.context() as patched, pytest.raises(StoreUnavailable):
            patched.setattr(engine._log, "record_transitions", full)
            engine.catch_up()
        assert self.told(caplog) == []
        engine.catch_up()
        assert len(self.told(caplog)) == 1

    def test_ordinary_ones_are_no_warnings(self, caplog: pytest.LogCaptureFixture) -> None:
        from banditroute.journal import tell

        caplog.set_level(logging.INFO)
        tell([Transition(4, 1, 0, "restored", {"model": "a"}), Transition(4, 2, 0, "demoted", {"event": "b"})])
        assert [(level, line["event"]) for level, line in self.told(caplog)] == [("INFO", "restored"), ("WARNING", "demoted")]


def test_a_checkpoint_settles_what_it_holds(clock: Clock, tmp_path: Path) -> None:
    engine = opened(clock, tmp_path)
    engine._log.append(EventKind.OPERATOR, DANCE).result()
    engine.catch_up()
    engine.close()
    again = opened(clock, tmp_path)
    assert isinstance(again._log, SqliteLog)
    assert keys(again.journal_after((0, 0, 0), limit=9, ended=never)) == [(1, 0), (2, 0), (2, 1)]
    again.close()


def test_what_lives_with_an_engine_is_closed_before_its_log(clock: Clock) -> None:
    engine = bare(MemoryLog(clock), clock)
    said: list[str] = []

    class Companion:
        def start(self) -> None:
            said.append("start")

        def close(self) -> None:
            said.append(f"close at {engine.info().log_position}")

    engine.attach(Companion())
    assert said == ["start"]
    engine.close()
    assert said == ["start", "close at 1"]
