"""The engine over its log: starting again, configuration and operators, which state answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engines import DOCUMENT, Clock, opened, refolded, report, state_of, teach

from banditroute.config import load
from banditroute.core.errors import (
    EtagMismatch,
    InvalidRequest,
    StaleState,
    StoreInUse,
    StoreKeyMismatch,
    StoreUnavailable,
    UnknownCategory,
)
from banditroute.core.fold import FOLD_VERSION
from banditroute.core.types import Disposition, RouteQuery
from banditroute.engine import Engine
from banditroute.log.checkpoint import decode, encode
from banditroute.log.sqlite import SqliteLog
from banditroute.wiring import KEYS_FILE


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


# --- starting again ---


@pytest.mark.parametrize("checkpoint_every", [7, 50, 10_000])
def test_checkpoint_and_tail_equal_the_whole_refolded_bit_for_bit(clock: Clock, tmp_path: Path, checkpoint_every: int) -> None:
    for part in range(3):
        engine = opened(clock, tmp_path, checkpoint_every=checkpoint_every)
        teach(engine, clock, 60, seed=part)
        before = state_of(engine)
        if part == 1:  # as after a crash: the tail lies behind the last periodic checkpoint
            engine._log.close()
        engine.close()
    log = SqliteLog(tmp_path, clock, read_only=True)
    assert encode(refolded(list(log.read(0, 10**6)))) == before
    checkpoint = log.newest_checkpoint(oldest=FOLD_VERSION, newest=FOLD_VERSION)
    assert checkpoint is not None
    assert checkpoint.body == before
    assert encode(decode(checkpoint.body)) == checkpoint.body
    log.close()
    engine = opened(clock, tmp_path)
    assert state_of(engine) == before
    engine.close()


def test_the_log_is_trimmed_behind_checkpoints(clock: Clock, tmp_path: Path) -> None:
    engine = opened(clock, tmp_path, checkpoint_every=20, log_retention_events=30)
    teach(engine, clock, 100)
    before = state_of(engine)
    with pytest.raises(StoreUnavailable, match="trimmed"):
        engine._log.read(0, 10)
    engine.close()
    engine = opened(clock, tmp_path)
    assert state_of(engine) == before
    engine.close()


def test_ids_and_idempotency_survive_a_restart(clock: Clock, tmp_path: Path) -> None:
    engine = opened(clock, tmp_path)
    decision_id = engine.route(RouteQuery("code")).id
    assert engine.submit(report(decision_id, 0.5)).result().disposition is Disposition.APPLIED
    engine.close()
    engine = opened(clock, tmp_path)
    before = state_of(engine)
    assert engine.submit(report(decision_id, 0.5)).result().disposition is Disposition.DUPLICATE
    engine.catch_up()
    assert state_of(engine) == before
    engine.close()


def test_operator_weights_survive_reload_and_restart(clock: Clock, tmp_path: Path) -> None:
    engine = opened(clock, tmp_path)
    engine.set_weights("chat", {"cost_weight": 2.5, "latency_weight": 0.0}, reason="dear", actor="ann")
    engine.reload(load({**DOCUMENT, "feedback_window_s": 86400}).shared)
    assert engine.category("chat").cost_weight == 2.5
    engine.close()
    engine = opened(clock, tmp_path)
    assert engine.category("chat").overridden_fields == ("cost_weight", "latency_weight")
    assert engine.category("chat").cost_weight == 2.5
    cleared, _ = engine.set_weights("chat", {"cost_weight": None}, reason="", actor="ann")
    assert (cleared.cost_weight, cleared.overridden_fields) == (0.2, ("latency_weight",))
    engine.close()


def test_a_state_directory_has_one_owner_and_its_own_keys(clock: Clock, tmp_path: Path) -> None:
    engine = opened(clock, tmp_path / "one")
    with pytest.raises(StoreInUse, match="one"):
        opened(clock, tmp_path / "one")
    engine.close()
    opened(clock, tmp_path / "two").close()
    (tmp_path / "two" / KEYS_FILE).replace(tmp_path / "one" / KEYS_FILE)
    with pytest.raises(StoreKeyMismatch):
        opened(clock, tmp_path / "one")
    with pytest.raises(StoreKeyMismatch, match="restore it"):
        opened(clock, tmp_path / "two")


# --- configuration and operators ---


def test_a_configuration_is_an_event_only_when_it_differs(engine: Engine) -> None:
    assert engine.info().log_position == 1
    assert engine.reload(load(DOCUMENT).shared) is None
    assert engine.reload(load({**DOCUMENT, "feedback_window_s": 86400}).shared) == 2
    assert [row.body["replaces"] for row in engine.journal()] == [1, 0]
    assert engine.info().config_fingerprint == engine.journal(limit=1)[0].body["fingerprint"]


def test_weights_are_checked_whole(engine: Engine) -> None:
    with pytest.raises(UnknownCategory):
        engine.set_weights("talk", {"cost_weight": 1.0}, reason="", actor="")
    wrong: list[tuple[dict[str, float | None], list[str]]] = [
        ({}, ["update_mask"]),
        ({"colour": 1.0}, ["update_mask"]),
        ({"cost_weight": -1.0, "latency_weight": 100.5}, ["category.cost_weight", "category.latency_weight"]),
        ({"cost_weight": float("nan")}, ["category.cost_weight"]),
        ({"cost_weight": float("inf")}, ["category.cost_weight"]),
    ]
    for changes, fields in wrong:
        with pytest.raises(InvalidRequest) as caught:
            engine.set_weights("chat", changes, reason="", actor="")
        assert [violation.field for violation in caught.value.violations] == fields
    assert engine.info().log_position == 1


def test_an_etag_guards_against_a_change_in_between(engine: Engine) -> None:
    etag = engine.category("chat").etag
    after, _ = engine.set_weights("chat", {"cost_weight": 1.0}, reason="", actor="ann", etag=etag)
    assert after.etag != etag
    with pytest.raises(EtagMismatch, match=after.etag):
        engine.set_weights("chat", {"cost_weight": 2.0}, reason="", actor="bob", etag=etag)
    engine.set_weights("code", {"cost_weight": 2.0}, reason="", actor="bob")
    assert engine.category("chat").etag == after.etag


def test_what_changes_nothing_is_no_event(engine: Engine) -> None:
    assert engine.set_weights("chat", {"cost_weight": 1.0}, reason="", actor="", validate_only=True)[1] is None
    assert engine.category("chat").cost_weight == 0.2
    assert engine.set_weights("chat", {"cost_weight": 1.0}, reason="", actor="")[1] == 2
    assert engine.set_weights("chat", {"cost_weight": 1.0}, reason="", actor="")[1] is None
    assert engine.set_weights("chat", {"latency_weight": None}, reason="", actor="")[1] is None
    assert engine.info().log_position == 2


# --- which state answers ---


def test_a_position_may_be_asked_for(engine: Engine) -> None:
    query = RouteQuery("code")
    position = engine.submit(report(engine.route(query).id, 0.5)).result().state_position
    assert engine.snapshot.state.position < position
    assert engine.route(query, min_state_position=position).state_position == position  # in process it folds first
    with pytest.raises(StaleState):
        engine.route(query, min_state_position=position + 1, timeout_s=0.0)


def test_route_waits_for_the_folding_thread(threaded: Engine) -> None:
    query = RouteQuery("code")
    for _ in range(50):
        position = threaded.submit(report(threaded.route(query).id, 0.5)).result().state_position
        assert threaded.route(query, min_state_position=position, timeout_s=60.0).state_position >= position


def test_who_waits_for_a_position_when_the_engine_closes_gets_no_older_one(clock: Clock) -> None:
    engine = opened(clock)
    with ThreadPoolExecutor(1) as pool:
        started = threading.Event()

        def wait() -> None:
            started.set()
            engine.route(RouteQuery("code"), min_state_position=10**6, timeout_s=60.0)

        waiting = pool.submit(wait)
        started.wait()
        engine.close()
        with pytest.raises(StaleState):
            waiting.result(60.0)
