"""A model's outage over real sockets: what a client and an operator see of it. The server's clock is the test's."""

from __future__ import annotations

import pytest

from banditroute.client import AdminClient, Client
from banditroute.config import load
from banditroute.server import Server, ServerSettings
from banditroute.v1 import admin_pb2, router_pb2
from banditroute.wiring import open_engine


class Clock:
    now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_client_sees_a_model_go_and_come_back() -> None:
    clock = Clock()
    document = {
        "models": {"best": {}, "other": {}},
        "categories": {"chat": {"models": ["best", "other"]}},
        "priors": {"chat": {name: {"quality": q, "effective_sample_size": 25} for name, q in (("best", 0.9), ("other", 0.4))}},
    }
    engine = open_engine(load(document), store="memory:", clock=clock, seed=1, threaded=True)
    server = Server(engine, listen="127.0.0.1:0", admin_listen="127.0.0.1:0", settings=ServerSettings(drain_s=0.0, grace_s=1.0))
    server.start()
    assert engine.wait_ready(30.0)
    with Client(f"127.0.0.1:{server.port}", timeout_s=30.0) as client, AdminClient(f"127.0.0.1:{server.admin_port}") as admin:
        position = 0

        def asked(**fields: object) -> router_pb2.RouteResponse:
            return client.route("chat", explain=True, min_state_position=position, **fields)  # type: ignore[arg-type]

        def called(error: str | None) -> None:
            nonlocal position
            position = client.feedback(asked(allowed_models=["best"]).decision_id, model="best", error=error).state_position

        def state() -> admin_pb2.Arm:
            asked()  # has folded what was told
            return next(arm for arm in admin.get_category("chat").arms if arm.model == "best")

        for _ in range(5):
            assert "best" in (asked().model, *asked().fallback_models)
            called("unavailable")
        answer = asked()
        assert (answer.model, list(answer.fallback_models)) == ("other", [])
        (out,) = [each for each in answer.candidates if not each.eligible]
        assert (out.model, out.exclusion_reason) == ("best", router_pb2.EXCLUSION_REASON_BREAKER_OPEN)
        assert state().breaker_state == admin_pb2.BREAKER_STATE_OPEN
        assert state().breaker_open_until_time.seconds == int(clock.now) + 15
        newest = admin.list_events(limit=1)[0]
        assert (newest.kind, newest.position) == ("breaker_opened", position)
        assert newest.summary.startswith("The breaker of best opened for 15 s: ")

        clock.now += 15.0
        answers = [asked() for _ in range(100)]
        probe = next(each for each in answers if each.model == "best")
        assert probe.propensity == pytest.approx(0.05, abs=1e-12)
        assert probe.decision_reason == router_pb2.DECISION_REASON_PROBE
        assert {tuple(each.fallback_models) for each in answers if each.model == "other"} == {("best",)}
        assert state().breaker_state == admin_pb2.BREAKER_STATE_HALF_OPEN
        assert not state().HasField("breaker_open_until_time")

        for _ in range(3):
            called("none")
        assert state().breaker_state == admin_pb2.BREAKER_STATE_CLOSED
        assert asked().model == "best"
        assert admin.list_events(limit=1)[0].kind == "breaker_closed"
    server.stop()
