from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from banditroute.server import ListenFailed, Server, ServerSettings
from banditroute.server.health import LIVE, ROUTER_SERVICE, SERVICES
from banditroute.v1 import router_pb2 as pb
from banditroute.v1.admin_pb2_grpc import AdminServiceStub
from banditroute.v1.router_pb2_grpc import RouterServiceStub

from .conftest import QUICK, Serve
from .fake import FakeEngine

Connect = Callable[[int], grpc.Channel]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(channel: grpc.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


def watch(channel: grpc.Channel, service: str = "") -> Iterator[Any]:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return iter(stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=30))


def test_a_ready_engine_serves_at_once_on_both_listeners(serve: Serve, connect: Connect) -> None:
    server = serve()
    for port in (server.port, server.admin_port):
        channel = connect(port)
        assert {service: health(channel, service) for service in SERVICES} == dict.fromkeys(SERVICES, SERVING)


def test_not_serving_until_the_log_is_folded(serve: Serve, connect: Connect, engine: FakeEngine) -> None:
    engine.ready = False
    channel = connect(serve().port)
    statuses = watch(channel)
    assert next(statuses).status == NOT_SERVING
    assert health(channel, LIVE) == SERVING
    engine.ready = True
    assert next(statuses).status == SERVING


def test_a_store_that_is_away_takes_no_replica_out_of_service(serve: Serve, connect: Connect, engine: FakeEngine) -> None:
    channel = connect(serve().port)
    statuses = watch(channel, "log")
    assert next(statuses).status == SERVING
    engine.components = {"log": False, "fold": True}
    assert next(statuses).status == NOT_SERVING
    assert [health(channel, service) for service in ("", LIVE, ROUTER_SERVICE, "fold")] == [SERVING] * 4
    engine.components = {"log": True, "fold": True}
    assert next(statuses).status == SERVING


def test_a_replica_that_stopped_folding_leaves_service_and_lives(serve: Serve, connect: Connect, engine: FakeEngine) -> None:
    channel = connect(serve().port)
    statuses = watch(channel)
    assert next(statuses).status == SERVING
    engine.components = {"log": True, "fold": False}
    assert next(statuses).status == NOT_SERVING
    assert [health(channel, service) for service in (ROUTER_SERVICE, "fold", "log", LIVE)] == [
        NOT_SERVING,
        NOT_SERVING,
        SERVING,
        SERVING,
    ]


def test_an_engine_that_cannot_answer_is_not_healthy(serve: Serve, connect: Connect, engine: FakeEngine) -> None:
    statuses = watch(connect(serve().port))
    assert next(statuses).status == SERVING
    engine.errors = [RuntimeError("broken")]
    assert next(statuses).status == NOT_SERVING
    assert next(statuses).status == SERVING


def test_health_answers_while_all_permits_are_held(serve: Serve, connect: Connect, engine: FakeEngine) -> None:
    settings = ServerSettings(max_concurrent_requests=2, max_concurrent_feedback=2, drain_s=0.0)
    port = serve(settings=settings).port
    router, engine.hold = RouterServiceStub(connect(port)), True
    stuck = [router.Feedback.future(pb.FeedbackRequest(decision_id="d"), timeout=30) for _ in range(2)]
    for _ in stuck:
        assert engine.submitted.acquire(timeout=10)
    assert health(connect(port)) == SERVING
    engine.settle()
    for call in stuck:
        call.result()


@pytest.mark.parametrize("reflection", [True, False])
def test_reflection_by_flag_on_both_listeners(serve: Serve, connect: Connect, reflection: bool) -> None:
    server = serve(reflection=reflection)
    for port, service in ((server.port, ROUTER_SERVICE), (server.admin_port, "banditroute.v1.AdminService")):
        channel = connect(port)
        if reflection:
            services = ProtoReflectionDescriptorDatabase(channel).get_services()
            assert set(services) == {service, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        else:
            with pytest.raises(grpc.RpcError) as caught:
                ProtoReflectionDescriptorDatabase(channel).get_services()
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_each_listener_has_its_own_service_only(serve: Serve, connect: Connect) -> None:
    server = serve()
    with pytest.raises(grpc.RpcError) as caught:
        RouterServiceStub(connect(server.admin_port)).Route(pb.RouteRequest(), timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_no_admin_listener_unless_asked(serve: Serve, connect: Connect) -> None:
    server = serve(admin_listen=None)
    assert server.admin_port == 0
    assert RouterServiceStub(connect(server.port)).Route(pb.RouteRequest(category="chat")).model == "cheap"


def test_two_servers_on_one_port(serve: Serve, connect: Connect) -> None:
    first = serve()
    address = f"127.0.0.1:{first.port}"
    second = FakeEngine()
    with pytest.raises(ListenFailed, match=address):
        Server(second, listen=address, settings=QUICK).start()
    assert second.closed == 0  # its owner closes it
    assert RouterServiceStub(connect(first.port)).Route(pb.RouteRequest(category="chat")).model == "cheap"


def test_a_taken_admin_port_leaves_nothing_bound(serve: Serve, engine: FakeEngine) -> None:
    taken = serve()
    free = serve(admin_listen=None)
    free.stop()
    failed = Server(engine, listen=f"127.0.0.1:{free.port}", admin_listen=f"127.0.0.1:{taken.admin_port}", settings=QUICK)
    with pytest.raises(ListenFailed, match=str(taken.admin_port)):
        failed.start()
    assert serve(listen=f"127.0.0.1:{free.port}").port == free.port


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "192.0.2.1:0"])
def test_an_impossible_address_is_named(engine: FakeEngine, address: str) -> None:
    with pytest.raises(ListenFailed, match=address):
        Server(engine, listen=address, settings=QUICK).start()


def test_a_drain_tells_waits_finishes_and_closes(serve: Serve, connect: Connect, engine: FakeEngine) -> None:
    server = serve(settings=ServerSettings(drain_s=0.0, grace_s=30.0))
    channel = connect(server.port)
    router, statuses = RouterServiceStub(channel), watch(connect(server.port), ROUTER_SERVICE)
    assert next(statuses).status == SERVING
    engine.hold = True
    running = router.Feedback.future(pb.FeedbackRequest(decision_id="d"), timeout=30)
    assert engine.submitted.acquire(timeout=10)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert next(statuses).status == NOT_SERVING
    assert engine.closed == 0
    assert list(statuses) == []  # a watch ends, and holds nothing up
    engine.settle()
    assert running.result().state_position == 7
    stopping.join(30)
    assert engine.closed == 1
    server.stop()
    assert engine.closed == 1


def test_calls_succeed_between_not_serving_and_the_stop(
    serve: Serve, connect: Connect, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pausing, go_on = threading.Event(), threading.Event()

    def pause(seconds: float) -> None:
        assert seconds == 1.5
        pausing.set()
        go_on.wait(30)

    server = serve(settings=ServerSettings(drain_s=1.5))
    channel = connect(server.port)
    with monkeypatch.context() as patched:
        patched.setattr("banditroute.server.lifecycle.time.sleep", pause)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert pausing.wait(10)
        assert health(channel) == NOT_SERVING
        assert RouterServiceStub(channel).Route(pb.RouteRequest(category="chat"), timeout=10).model == "cheap"
        go_on.set()
        stopping.join(30)
    with pytest.raises(grpc.RpcError) as caught:
        RouterServiceStub(channel).Route(pb.RouteRequest(category="chat"), timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_the_admin_listener_takes_a_whole_page(serve: Serve, connect: Connect, engine: FakeEngine) -> None:
    """Responses of the admin listener may be larger than the router's messages."""
    from banditroute.v1 import admin_pb2

    from .test_admin import row

    engine.rows = [row(1, document="x" * 2_000_000)]
    page = AdminServiceStub(connect(serve().admin_port)).ListEvents(admin_pb2.ListEventsRequest(), timeout=10)
    assert len(page.events[0].details_json) > 2_000_000


SCRIPT = """
import sys
from {package}.fake import FakeEngine
from banditroute.server import Server, ServerSettings, serve_until_signalled

engine, count = FakeEngine(), 0

def say(*words):
    print(*words, flush=True)

def reload():
    global count
    count += 1
    say("reload", count)
    if count == 1:
        raise ValueError("line 3: bad")

server = Server(engine, listen="127.0.0.1:0", settings=ServerSettings(drain_s=0.0))
serve_until_signalled(server, reload=reload, started=lambda server: say("started", server.port))
say("closed", engine.closed, sys.getswitchinterval())
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_signals(connect: Connect, end: signal.Signals) -> None:
    package = __package__ or ""
    script = SCRIPT.format(package=package)
    root = Path(__file__).parents[package.count(".") + 1]
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(root), *sys.path]!r}\n{script}"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            word, port = process.stdout.readline().split()
            assert word == "started"
            router = RouterServiceStub(connect(int(port)))
            for count in (1, 2):  # the first is refused, and the server goes on
                process.send_signal(signal.SIGHUP)
                assert process.stdout.readline() == f"reload {count}\n"
                assert router.Route(pb.RouteRequest(category="chat"), timeout=10).model == "cheap"
            process.send_signal(end)
            assert process.stdout.readline() == "closed 1 0.0005\n"
            assert process.wait(30) == 0
        finally:
            process.kill()
