"""Webhooks over a real socket: signed, repeated until taken, at least once, and nobody else's trouble."""

from __future__ import annotations

import hashlib
import hmac
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from engines import Clock, bare
from receiving import HttpReceiver, Received

from banditroute.core.errors import StoreUnavailable
from banditroute.core.types import EventKind, RouteQuery
from banditroute.engine import Engine
from banditroute.journal import LAST_INDEX
from banditroute.log.base import JournalKey
from banditroute.log.memory import MemoryLog
from banditroute.receivers import Receiver
from banditroute.webhook import Webhook, signature

SECRET = b"0123456789abcdef-a-secret"
Hook = Callable[..., Webhook]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE_S", "MAX_PAUSE_S"):
        monkeypatch.setattr(f"banditroute.webhook.{name}", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Log(MemoryLog):
    """Says which cursors were saved, and fails to save them when told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.full = False
        self.saved: queue.SimpleQueue[JournalKey] = queue.SimpleQueue()
        self.unsaved: queue.SimpleQueue[JournalKey] = queue.SimpleQueue()

    def save_cursor(self, name: str, key: JournalKey) -> None:
        if self.full:
            self.unsaved.put(key)
            raise StoreUnavailable("full")
        super().save_cursor(name, key)
        self.saved.put(key)


@pytest.fixture
def log(clock: Clock) -> Log:
    return Log(clock)


@pytest.fixture
def engine(log: Log, clock: Clock) -> Iterator[Engine]:
    made = bare(log, clock, threaded=True)
    assert made.wait_ready(60.0)
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as made:
        yield made


@pytest.fixture
def hook(engine: Engine, log: Log, clock: Clock, receiver: HttpReceiver) -> Iterator[Hook]:
    """Starts webhooks to `receiver` that have been at the journal's start, unless told otherwise; closes them at the end."""
    made: list[Webhook] = []

    def start(name: str = "test", url: str = "", events: frozenset[str] | None = None, *, first: bool = False) -> Webhook:
        if not first and log.cursor(f"webhook:{name}") is None:
            MemoryLog.save_cursor(log, f"webhook:{name}", (1, 0, 0))
        told = Receiver(name, url or receiver.url + "/hook?token=hunter2", SECRET, events)
        webhook = Webhook(told, event_log=log, tail=engine.tail, clock=clock)
        webhook.start()
        made.append(webhook)
        return webhook

    yield start
    receiver.going.set()
    for webhook in made:
        webhook.close()


def verified(received: Received) -> int:
    """Checks the signature as a receiver would; its time."""
    parts = dict(part.split("=") for part in received.headers["x-banditroute-signature"].split(","))
    signed = f"{parts['t']}.".encode() + received.body
    assert hmac.compare_digest(parts["v1"], hmac.new(SECRET, signed, hashlib.sha256).hexdigest())
    return int(parts["t"])


def set_weight(engine: Engine, weight: float) -> int:
    position = engine.set_weights("chat", {"cost_weight": weight}, reason="budget", actor="ada")[1]
    assert position is not None
    return position


def test_the_documented_signature() -> None:
    """docs/howto/webhooks.md shows these numbers."""
    found = signature(b"0123456789abcdef", b'{"kind":"config"}', time_s=1_700_000_000)
    assert found == "t=1700000000,v1=29c11e304fcfdb1f33d25d2a504b0c831327163b75e2c33a60f2bde1476d4be0"


def test_a_line_as_it_is_sent(engine: Engine, log: Log, clock: Clock, receiver: HttpReceiver, hook: Hook) -> None:
    hook()
    assert receiver.next().data["kind"] == "config"
    clock.now += 1.5
    set_weight(engine, 3.0)
    received = receiver.next()
    assert verified(received) == int(clock.now)
    assert received.headers["content-type"] == "application/json"
    assert received.headers["idempotency-key"] == f"{log.log_id}-1-2-0"
    assert received.headers["user-agent"].startswith("banditroute/")
    assert received.data == {
        "key": {"log_id": log.log_id, "epoch": 1, "position": 2, "index": 0},
        "time": "2027-01-15T08:00:01.500000Z",
        "kind": "operator",
        "summary": "ada set cost_weight from 0.2 to 3.0 in category chat.",
        "actor": "ada",
        "change_reason": "budget",
        "details": {
            "action": "set_weights",
            "category": "chat",
            "changes": {"cost_weight": 3.0},
            "previous": {"cost_weight": 0.2},
            "reason": "budget",
            "actor": "ada",
        },
    }


def test_all_in_order_and_once(engine: Engine, log: Log, receiver: HttpReceiver, hook: Hook) -> None:
    webhook = hook()
    for weight in range(1, 4):
        set_weight(engine, weight)
    log.append(EventKind.OPERATOR, {"action": "dance"}).result()
    keys = [receiver.next().key for _ in range(6)]
    assert keys == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (5, 1)]
    webhook.close()
    hook()  # the next start
    set_weight(engine, 9)
    assert receiver.next().key == (6, 0)
    assert receiver.none_left()


def test_the_first_start_tells_no_history(engine: Engine, log: Log, receiver: HttpReceiver, hook: Hook) -> None:
    webhook = hook(first=True)
    assert log.saved.get(timeout=60.0) == (1, 1, LAST_INDEX)
    webhook.close()  # before anything was sent: what comes now is not history
    set_weight(engine, 2)
    hook()
    assert receiver.next().key == (2, 0)
    assert receiver.none_left()


def test_nothing_since_the_start_is_history(engine: Engine, receiver: HttpReceiver, hook: Hook) -> None:
    """Not even what came before the webhook's thread had its first look."""
    set_weight(engine, 1)
    hook(first=True)
    assert receiver.next().key == (2, 0)


def test_only_the_kinds_asked_for(engine: Engine, log: Log, receiver: HttpReceiver, hook: Hook) -> None:
    hook(events=frozenset({"event_skipped"}))
    set_weight(engine, 1)
    log.append(EventKind.OPERATOR, {"action": "dance"}).result()
    received = receiver.next()
    assert (received.key, received.data["kind"]) == ((3, 1), "event_skipped")
    assert receiver.none_left()


def test_failures_are_repeated_with_the_same_key_and_a_new_time(
    engine: Engine, clock: Clock, receiver: HttpReceiver, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    receiver.answers = [500, 503, 404, 302, 429]
    receiver.going.clear()
    webhook = hook()
    first = receiver.next()
    clock.now += 100.0
    receiver.going.set()
    others = [receiver.next() for _ in range(5)]
    assert {each.headers["idempotency-key"] for each in others} == {first.headers["idempotency-key"]}
    assert {each.body for each in others} == {first.body}
    assert {verified(each) for each in others} == {verified(first) + 100}
    set_weight(engine, 1)
    assert receiver.next().key == (2, 0)
    assert receiver.none_left()
    told = [record.msg for record in caplog.records if record.name == "banditroute.webhook"]
    assert [(line["event"], line.get("cause"), line["attempts"]) for line in told if isinstance(line, dict)] == [
        ("webhook failed; trying again", 500, 1),
        ("webhook failed; trying again", 503, 2),
        ("webhook failed; trying again", 302, 4),
        ("webhook taken after failures", None, 6),
    ]
    assert webhook.refused_count == 0


def test_a_receiver_that_is_not_there_is_waited_for(
    engine: Engine,
    receiver: HttpReceiver,
    hook: Hook,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = threading.Event()
    post = Webhook._post

    def counted(self: Webhook, client: Any, row: Any) -> int | str:
        answer = post(self, client, row)
        if isinstance(answer, str):
            assert answer.startswith("ConnectError")
            failed.set()
        return answer

    monkeypatch.setattr(Webhook, "_post", counted)
    with HttpReceiver() as gone:
        pass
    webhook = hook(name="other", url=gone.url + "/hunter2?token=hunter2")
    assert failed.wait(60.0)
    webhook.close()
    assert "ConnectError" in caplog.text
    assert "hunter2" not in caplog.text
    hook(name="other")  # moved to where there is somebody, by another start
    assert receiver.next().key == (1, 0)


@pytest.mark.parametrize("status", [400, 410, 422])
def test_what_is_refused_for_good_is_counted_told_and_left(
    engine: Engine, receiver: HttpReceiver, hook: Hook, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    receiver.answers = [status]
    webhook = hook()
    set_weight(engine, 1)
    assert [receiver.next().key for _ in range(2)] == [(1, 0), (2, 0)]
    assert webhook.refused_count == 1
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert isinstance(line.msg, dict)
    assert (line.msg["event"], line.msg["status"], line.msg["refused_count"]) == (
        "webhook refused for good; going on with the next",
        status,
        1,
    )


def test_a_crash_between_delivery_and_cursor_delivers_again(engine: Engine, log: Log, receiver: HttpReceiver, hook: Hook) -> None:
    webhook = hook()
    assert receiver.next().key == (1, 0)
    while log.saved.get(timeout=60.0) != (1, 1, 0):
        pass
    log.full = True
    set_weight(engine, 1)
    second = receiver.next()
    assert second.key == (2, 0)
    assert log.unsaved.get(timeout=60.0) == (1, 2, 0)
    webhook.close()
    assert receiver.none_left()
    log.full = False
    hook()
    again = receiver.next()
    assert again.headers["idempotency-key"] == second.headers["idempotency-key"]
    set_weight(engine, 2)
    assert receiver.next().key == (3, 0)


def test_a_log_that_fails_for_a_while_loses_and_repeats_nothing(
    engine: Engine, log: Log, receiver: HttpReceiver, hook: Hook
) -> None:
    log.full = True
    hook()
    for _ in range(3):  # from where it is, which cannot be saved
        assert log.unsaved.get(timeout=60.0) == (1, 0, 0)
    log.full = False
    set_weight(engine, 1)
    assert [receiver.next().key for _ in range(2)] == [(1, 0), (2, 0)]
    while log.saved.get(timeout=60.0) != (1, 2, 0):
        pass
    log.full = True
    set_weight(engine, 2)
    assert receiver.next().key == (3, 0)
    for _ in range(3):
        assert log.unsaved.get(timeout=60.0) == (1, 3, 0)
    log.full = False
    set_weight(engine, 3)
    assert receiver.next().key == (4, 0)
    assert receiver.none_left()


def test_a_dead_receiver_holds_nothing_else_up(
    engine: Engine, receiver: HttpReceiver, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banditroute.webhook.CLOSE_WAIT_S", 0.01)
    with HttpReceiver() as dead:
        dead.going.clear()
        stuck = hook(name="dead", url=dead.url)
        assert dead.next().key == (1, 0)
        hook()
        position = set_weight(engine, 1)
        assert [receiver.next().key for _ in range(2)] == [(1, 0), (position, 0)]
        assert engine.route(RouteQuery("code"), min_state_position=position, timeout_s=60.0).model
        stuck.close()
        assert dead.none_left()


class TestClaims:
    def test_one_of_two_processes_delivers_and_the_other_takes_over(
        self, engine: Engine, receiver: HttpReceiver, hook: Hook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("banditroute.webhook.LEASE_S", 0.01)  # how often to look; on the test's clock it does not pass
        first = hook()
        assert receiver.next().key == (1, 0)
        hook()
        set_weight(engine, 1)
        assert receiver.next().key == (2, 0)
        first.close()  # gives its claim up
        for weight in range(2, 6):
            set_weight(engine, weight)
        assert [receiver.next().key for _ in range(4)] == [(3, 0), (4, 0), (5, 0), (6, 0)]
        assert receiver.none_left()

    def test_a_claim_that_is_lost_meanwhile_is_noticed(
        self, engine: Engine, log: Log, clock: Clock, receiver: HttpReceiver, hook: Hook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receiver.answers = [500]
        receiver.going.clear()
        webhook = hook()
        assert receiver.next().key == (1, 0)
        monkeypatch.setattr("banditroute.webhook.LEASE_S", 0.01)
        clock.now += 1000.0
        assert log.claim("webhook:test", "another process", 3600.0)
        log.save_cursor("webhook:test", (1, 1, 0))  # which delivers
        receiver.going.set()
        set_weight(engine, 1)
        log.claim("webhook:test", "another process", 0.0)
        assert receiver.next().key == (2, 0)
        webhook.close()
        assert receiver.none_left()


def test_secrets_are_in_no_log(engine: Engine, receiver: HttpReceiver, hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    """httpx's own lines, which hold URLs, are silenced where banditroute's logging is set up: see test_logs."""
    caplog.set_level(logging.DEBUG, "banditroute")
    receiver.answers = [500, 301, 410]
    hook()
    set_weight(engine, 1)
    for _ in range(4):
        receiver.next()
    told = caplog.text
    assert "webhook" in told
    assert SECRET.decode() not in told
    assert "hunter2" not in told


def test_an_error_of_our_own_ends_nothing(
    engine: Engine, receiver: HttpReceiver, hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [RuntimeError("broken")]
    post = Webhook._post

    def failing(self: Webhook, client: Any, row: Any) -> int | str:
        if broken:
            raise broken.pop()
        return post(self, client, row)

    monkeypatch.setattr(Webhook, "_post", failing)
    hook()
    assert receiver.next().key == (1, 0)
    assert "webhook failed; trying again" in caplog.text


def test_a_client_that_cannot_be_made_is_tried_again(
    engine: Engine, receiver: HttpReceiver, hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as with a certificate bundle or a proxy in the environment that is none."""
    broken = [ValueError("no proxy"), ValueError("no proxy")]
    made = httpx.Client

    def making(**given: Any) -> httpx.Client:
        if broken:
            raise broken.pop()
        return made(**given)

    monkeypatch.setattr("banditroute.webhook.httpx.Client", making)
    hook()
    assert receiver.next().key == (1, 0)
    assert caplog.text.count("webhook failed; trying again") == 2
