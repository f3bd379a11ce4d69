"""`banditroute health` against servers in this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from redis_servers import free_port
from server.fake import FakeEngine

from banditroute.cli.health import MEANINGS
from banditroute.server import Server, ServerSettings
from banditroute.server.health import ROUTER_SERVICE, SERVICES
from cli.conftest import Run


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def server(engine: FakeEngine) -> Iterator[Server]:
    started = Server(engine, listen="127.0.0.1:0", admin_listen="127.0.0.1:0", settings=ServerSettings(drain_s=0.0, grace_s=1.0))
    started.start()
    yield started
    started.stop()


def test_every_service_has_a_meaning() -> None:
    assert set(MEANINGS) == set(SERVICES)


def test_a_well_server_by_either_listener(run: Run, server: Server) -> None:
    for port in (server.port, server.admin_port):
        ran = run("health", "--address", f"127.0.0.1:{port}", "--json")
        assert ran.code == 0
        assert ran.data["services"] == dict.fromkeys(SERVICES, "SERVING")
    shown = run("health", "--address", f"127.0.0.1:{server.port}").out
    assert shown.startswith(f"127.0.0.1:{server.port}: SERVING\n")
    assert all((name or '""') in shown for name in SERVICES)


def test_the_service_that_is_asked_for_decides(run: Run, server: Server, engine: FakeEngine) -> None:
    engine.components = {"log": False, "fold": True}
    server._health.poll()
    at = ("health", "--address", f"127.0.0.1:{server.port}")
    assert run(*at).code == 0
    assert run(*at, "--service", ROUTER_SERVICE).code == 0
    ran = run(*at, "--service", "log", "--json")
    assert (ran.code, ran.data["status"]) == (1, "NOT_SERVING")
    ran = run(*at, "--service", "nobody")
    assert (ran.code, "nobody" in ran.out, "SERVICE_UNKNOWN" in ran.out) == (1, True, True)


def test_a_server_that_drains_is_not_well(run: Run, server: Server) -> None:
    server._health.drain()
    ran = run("health", "--address", f"127.0.0.1:{server.port}", "--json")
    assert (ran.code, set(ran.data["services"].values())) == (1, {"NOT_SERVING"})


def test_nobody_there(run: Run) -> None:
    ran = run("health", "--address", f"127.0.0.1:{free_port()}")
    assert (ran.code, ran.out) == (1, "")
    assert "UNAVAILABLE" in ran.err
    assert "is a server running there?" in ran.err


def test_somebody_who_says_nothing(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        at = f"127.0.0.1:{mute.getsockname()[1]}"
        ran = run("health", "--address", at, "--timeout-s", "0.2")
    assert (ran.code, ran.err) == (1, f"error: nobody answered at {at} within 0.2 s\n")


def test_no_address(run: Run) -> None:
    assert run("health", "--address", "nowhere").code == 2
