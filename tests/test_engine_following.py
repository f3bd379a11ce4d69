"""The engine in a thread, with a store that fails, with events that it cannot fold, and its sink."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engines import DOCUMENT, Clock, bare, opened, report, state_of, teach

from banditroute.config import load
from banditroute.core.errors import (
    FoldHalted,
    StaleState,
    StoreClosed,
    StoreUnavailable,
)
from banditroute.core.fold import FOLD_VERSION
from banditroute.core.types import Disposition, Event, EventKind, RouteQuery
from banditroute.engine import Engine
from banditroute.log.memory import MemoryLog
from banditroute.log.sqlite import SqliteLog


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Iterator[Engine]:
    made = opened(clock)
    yield made
    made.close()


@pytest.fixture
def threaded(clock: Clock) -> Iterator[Engine]:
    made = opened(clock, threaded=True)
    assert made.wait_ready(60.0)
    yield made
    made.close()


# --- following in a thread ---


def test_a_threaded_engine_sees_its_own_changes(threaded: Engine) -> None:
    assert threaded.health() == {"log": True, "fold": True}
    assert threaded.set_weights("chat", {"cost_weight": 3.0}, reason="", actor="")[0].cost_weight == 3.0
    assert threaded.reload(load({**DOCUMENT, "feedback_window_s": 86400}).shared) == 3
    assert threaded.snapshot.state.settings.feedback_window_us == 86400 * 10**6


def test_a_threaded_restart_is_ready_at_once(clock: Clock, tmp_path: Path) -> None:
    engine = opened(clock, tmp_path, checkpoint_every=10)
    teach(engine, clock, 35)
    before = state_of(engine)
    engine._log.close()
    engine.close()
    again = opened(clock, tmp_path, threaded=True)
    assert again.wait_ready(60.0)
    assert state_of(again) == before
    again.close()


def test_routing_while_it_learns(threaded: Engine) -> None:
    """Routers make views of the snapshots that the folding thread replaces."""

    def work(thread: int) -> None:
        for i in range(100):
            query = RouteQuery("chat", {"length": float(i % 9)}) if thread % 2 else RouteQuery("code")
            threaded.submit(report(threaded.route(query).id, 0.5, str(thread))).result()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert threaded.route(RouteQuery("code"), min_state_position=801, timeout_s=60.0).state_position == 801
    assert threaded.health() == {"log": True, "fold": True}
    assert threaded.snapshot.state.feedback_count == 800
    assert threaded.snapshot.state.skipped_count == 0


def test_a_closed_engine(clock: Clock) -> None:
    engine = opened(clock, threaded=True)
    assert engine.wait_ready(60.0)
    decision_id = engine.route(RouteQuery("code")).id
    engine.close()
    engine.close()
    assert engine.health() == {"log": False, "fold": False}
    with pytest.raises(StoreClosed):
        engine.submit(report(decision_id, 0.5))
    with pytest.raises(StoreClosed):
        engine.set_weights("chat", {"cost_weight": 1.0}, reason="", actor="")


def test_before_the_log_is_folded_callers_are_told_to_try_again(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that a category is unknown, or a window over: that would be final."""
    go_on = threading.Event()
    read = MemoryLog.read

    def slow_read(log: MemoryLog, after: int, limit: int, *, chain: bytes | None = None) -> Any:
        go_on.wait()
        return read(log, after, limit, chain=chain)

    with opened_and_closed(clock) as other:
        decision_id = other.route(RouteQuery("code")).id
        monkeypatch.setattr(MemoryLog, "read", slow_read)
        engine = opened(clock, threaded=True)
        try:
            assert not engine.wait_ready(0.0)
            assert engine.health()["fold"] is False
            with pytest.raises(StaleState, match="starting"):
                engine.route(RouteQuery("code"))
            with pytest.raises(StoreUnavailable, match="starting"):
                engine.submit(report(decision_id, 0.5))
        finally:
            go_on.set()
        assert engine.wait_ready(60.0)
        assert engine.submit(report(decision_id, 0.5)).result().disposition is Disposition.APPLIED
        engine.close()


class opened_and_closed:
    def __init__(self, clock: Clock) -> None:
        self._engine = opened(clock)

    def __enter__(self) -> Engine:
        return self._engine

    def __exit__(self, *_: object) -> None:
        self._engine.close()


# --- events that cannot be applied ---


def test_an_event_that_cannot_be_applied_is_journalled_and_skipped(engine: Engine) -> None:
    engine._log.append(EventKind.OPERATOR, {"action": "dance"}).result()
    engine.catch_up()
    row = engine.journal()[0]
    assert (row.position, row.index, row.kind) == (2, 1, "event_skipped")
    assert "dance" in row.body["reason"]
    assert engine.info().skipped_event_count == 1
    assert engine.submit(report(engine.route(RouteQuery("code")).id, 0.5)).result().disposition is Disposition.APPLIED


def test_a_skipped_event_is_journalled_even_if_the_store_fails_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise StoreUnavailable("full")

    engine._log.append(EventKind.OPERATOR, {"action": "dance"}).result()
    with monkeypatch.context() as patched, pytest.raises(StoreUnavailable):
        patched.setattr(engine._log, "record_transitions", full)
        engine.catch_up()
    engine.catch_up()
    assert [row.kind for row in engine.journal()] == ["event_skipped", "operator", "config"]
    assert engine.info().skipped_event_count == 1


class NewerLog(MemoryLog):
    """A log into which a newer version has written one event at `newer`."""

    newer = 10**9

    def read(self, after: int, limit: int, *, chain: bytes | None = None) -> list[Event]:
        events = super().read(after, limit, chain=chain)
        return [e._replace(fold_version=FOLD_VERSION + 1) if e.position == self.newer else e for e in events]


@pytest.mark.parametrize("with_thread", [False, True])
def test_an_event_of_a_newer_version_stops_the_fold_and_not_the_routing(clock: Clock, with_thread: bool) -> None:
    log = NewerLog(clock)
    engine = bare(log, clock, threaded=with_thread)
    assert engine.wait_ready(60.0)
    ids = [engine.route(RouteQuery("code")).id for _ in range(3)]
    log.newer = 3
    if with_thread:
        receipts = [engine.submit(report(decision_id, 0.5)).result() for decision_id in ids]
        assert engine._follower._thread is not None
        engine._follower._thread.join(60.0)
    else:
        receipts = [engine.submit(report(decision_id, 0.5)).result() for decision_id in ids]
        with pytest.raises(FoldHalted, match=r"event 3 .* upgrade"):
            engine.catch_up()
    assert [receipt.state_position for receipt in receipts] == [2, 3, 4]
    assert engine.health() == {"log": True, "fold": False}
    assert engine.snapshot.state.position == 2  # what came before it is folded
    assert engine.route(RouteQuery("code")).state_position == 2
    assert engine.submit(report(ids[0], 0.5)).result().disposition is Disposition.DUPLICATE
    engine.close()
    checkpoint = log._checkpoints[-1]
    assert checkpoint.position == 2


def test_a_halted_start_is_seen_at_once(clock: Clock) -> None:
    log = NewerLog(clock)
    log.append(EventKind.OPERATOR, {}).result()
    log.newer = 1
    engine = bare(log, clock, threaded=True)
    assert not engine.wait_ready(60.0)
    assert engine.health()["fold"] is False
    engine.close()


# --- a store that fails ---


def test_a_full_disk_refuses_feedback_and_routing_goes_on(clock: Clock, tmp_path: Path) -> None:
    engine = opened(clock, tmp_path)
    teach(engine, clock, 5)
    before, position = state_of(engine), engine.info().log_position
    log = engine._log
    assert isinstance(log, SqliteLog)
    log._writer.execute("PRAGMA max_page_count = 1")  # no more than there is
    refused: list[str] = []
    while len(refused) < 3:
        decision_id = engine.route(RouteQuery("code")).id
        future = engine.submit(report(decision_id, 0.5))
        if isinstance(future.exception(60.0), StoreUnavailable):
            refused.append(decision_id)
        else:
            position, before = position + 1, b""
    assert engine.health()["log"] is False
    engine.catch_up()
    assert engine.info().log_position == position == engine.snapshot.state.position
    assert not before or state_of(engine) == before
    log._writer.execute("PRAGMA max_page_count = 100000")
    for decision_id in refused:
        assert engine.submit(report(decision_id, 0.5)).result().disposition is Disposition.APPLIED
    assert engine.health()["log"] is True
    engine.close()


def test_health_returns_with_the_store_even_without_traffic(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unhealthy server gets no feedback that could show that the store is well again."""
    monkeypatch.setattr("banditroute.follower.IDLE_WAIT_S", 0.001)
    saved = threading.Event()

    class Failing(MemoryLog):
        def save_checkpoint(self, checkpoint: Any) -> None:
            super().save_checkpoint(checkpoint)
            saved.set()

    engine = bare(Failing(clock), clock, threaded=True)
    assert engine.wait_ready(60.0)
    engine._follower.store_ok = False
    assert saved.wait(60.0)
    engine.close()


def test_a_checkpoint_that_cannot_be_saved_fails_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(clock, checkpoint_every=2)

    def full(_: object) -> None:
        raise StoreUnavailable("full")

    with monkeypatch.context() as patched:
        patched.setattr(engine._log, "save_checkpoint", full)
        teach(engine, clock, 10)
        assert engine.health() == {"log": False, "fold": True}
    teach(engine, clock, 10)
    assert engine._log.newest_checkpoint(oldest=FOLD_VERSION, newest=FOLD_VERSION) is not None
    engine.close()


# --- the sink ---


def test_decisions_reach_the_sink_and_closing_waits_for_them(clock: Clock, tmp_path: Path) -> None:
    from banditroute.log.sink_sqlite import SqliteSinkReader

    engine = opened(clock, tmp_path, decision_sink={"enabled": True})
    made = [engine.route(RouteQuery("code", input_tokens=i)) for i in range(20)]
    keys = [engine.signer.verify(decision.id).decision for decision in made]
    engine.close()
    for i, (key, decision) in enumerate(zip(keys, made, strict=True)):
        found = SqliteSinkReader(tmp_path).find(key)
        assert found is not None
        assert found.request == {"input_tokens": i}
        assert found.category == "code"
        assert found.chosen is not None
        assert (found.chosen.model, found.chosen.propensity) == (decision.model, decision.propensity)


def test_a_full_sink_does_not_stop_routing(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banditroute.log.sink.FLUSH_INTERVAL_S", 3600.0)
    engine = opened(clock, tmp_path, decision_sink={"enabled": True, "queue_rows": 5})
    for _ in range(12):
        engine.route(RouteQuery("code"))
    assert engine.info().dropped_decision_count == 7
    engine.close()
