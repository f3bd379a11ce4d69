"""WatchEvents: what it gives, who may watch, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from grpc_status import rpc_status

from banditroute.client import AdminClient, RequestFailed
from banditroute.core.errors import StoreUnavailable
from banditroute.server import ServerSettings
from banditroute.v1 import admin_pb2 as pb
from banditroute.v1.admin_pb2_grpc import AdminServiceStub

from .conftest import Failure, Serve
from .fake import FakeEngine
from .test_admin import row

Connect = Callable[[int], grpc.Channel]


def watch(admin: AdminServiceStub, after: tuple[int, int, int] | None = None) -> Any:
    """A stream that the server has taken on, or refused."""
    key = None if after is None else pb.EventKey(epoch=after[0], position=after[1], index=after[2])
    call: Any = admin.WatchEvents(pb.WatchEventsRequest(start_after=key), timeout=60)
    call.initial_metadata()
    return call


def next_keys(call: Any, count: int) -> list[tuple[int, int, int]]:
    found = [next(call).event for _ in range(count)]
    return [(event.epoch, event.position, event.index) for event in found]


def ending(call: Any) -> Failure:
    """How a stream ends that gives nothing more."""
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    error: Any = caught.value
    return Failure(rpc_status.from_call(error) or status_pb2.Status(code=error.code().value[0], message=error.details()))


def test_lines_behind_the_key_and_then_those_that_come(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.rows = [row(1), row(2), row(2, "event_skipped", 1), row(3)]
    call = watch(admin, (1, 2, 0))
    assert next_keys(call, 2) == [(1, 2, 1), (1, 3, 0)]
    engine.tell(row(4, "operator", actor="ada"), row(5))
    first = next(call).event
    assert (first.position, first.kind, first.actor) == (4, "operator", "ada")
    assert next_keys(call, 1) == [(1, 5, 0)]


def test_without_a_key_only_what_comes_from_now_on(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.rows = [row(1), row(2)]
    call = watch(admin)
    engine.tell(row(3))
    assert next_keys(call, 1) == [(1, 3, 0)]


def test_from_the_very_first(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.rows = [row(1), row(2)]
    assert next_keys(watch(admin, (0, 0, 0)), 2) == [(1, 1, 0), (1, 2, 0)]


def test_more_than_is_read_at_a_time(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.rows = [row(position) for position in range(1, 1002)]
    assert next_keys(watch(admin, (0, 0, 0)), 1001) == [(1, position, 0) for position in range(1, 1002)]


def test_a_key_that_cannot_be_is_refused(admin: AdminServiceStub) -> None:
    found = ending(watch(admin, (2**63, 2**64 - 1, 0)))
    assert (found.reason, found.fields) == ("INVALID_FIELDS", ["start_after.epoch", "start_after.position"])


def test_a_failure_ends_the_stream_with_its_status(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.errors = [StoreUnavailable("disk full")]
    assert ending(watch(admin, (1, 1, 0))).reason == "STORE_UNAVAILABLE"
    engine.errors = [KeyError("hunter2")]
    found = ending(watch(admin, (1, 1, 0)))
    assert found.reason == "INTERNAL"
    assert "hunter2" not in found.message


def test_too_many_are_refused_and_the_others_still_answered(
    serve: Serve, connect: Connect, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banditroute.server.lifecycle.MAX_WATCHES", 3)
    admin = AdminServiceStub(connect(serve().admin_port))
    calls = [watch(admin) for _ in range(3)]
    found = ending(watch(admin))
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "OVERLOADED")
    assert "all 3 callers that may watch" in found.message
    assert admin.GetServerInfo(pb.GetServerInfoRequest(), timeout=60).version == "1.2.3"
    engine.tell(row(1))
    assert [next_keys(call, 1) for call in calls] == [[(1, 1, 0)]] * 3

    calls.pop().cancel()  # makes room, as soon as the server has heard of it
    assert first_when_let_in(admin) == [(1, 1, 0)]


def first_when_let_in(admin: AdminServiceStub) -> list[tuple[int, int, int]]:
    while True:
        try:
            return next_keys(watch(admin, (0, 0, 0)), 1)
        except grpc.RpcError as error:
            refused: Any = error
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_drain_ends_all_and_is_not_held_up(serve: Serve, connect: Connect, engine: FakeEngine) -> None:
    server = serve(settings=ServerSettings(drain_s=0.0, grace_s=600.0))
    admin = AdminServiceStub(connect(server.admin_port))
    calls = [watch(admin) for _ in range(3)]
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    for call in calls:
        found = ending(call)
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE.value[0], "SHUTTING_DOWN")
    stopping.join(60)
    assert engine.closed == 1


def test_a_client_goes_on_when_its_connection_is_renewed(serve: Serve, engine: FakeEngine) -> None:
    """The server asks every connection to reconnect now and then; a stream ends with it."""
    port = serve(settings=ServerSettings(drain_s=0.0, grace_s=0.1, max_connection_age_s=0.1)).admin_port
    engine.rows = [row(1)]
    lost: list[RequestFailed] = []
    with AdminClient(f"127.0.0.1:{port}") as client, ThreadPoolExecutor(1) as pool:
        events = client.watch_events(after=(0, 0, 0), lost=lost.append)
        assert next(events).position == 1
        coming = pool.submit(next, events)
        for _ in range(4):  # the first line, waiting behind it, and two connections more
            assert engine.following.acquire(timeout=60)
        engine.tell(row(2))
        assert coming.result(60).position == 2
        events.close()
    assert not [failure for failure in lost if failure.code is not grpc.StatusCode.UNAVAILABLE]
