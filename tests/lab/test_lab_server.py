"""One trace through the gRPC server, over a socket, and through the lab: the same decisions, and in the end the same state."""

from __future__ import annotations

from typing import Any

import grpc

from banditroute.config import load
from banditroute.core.state import State
from banditroute.core.types import RouteQuery
from banditroute.lab.course import Course, make_course
from banditroute.lab.datasets import Dataset
from banditroute.lab.delivery import DIRTY, make_mail
from banditroute.lab.happenings import Absent, Degraded
from banditroute.lab.learners import router_of
from banditroute.lab.plays import played
from banditroute.lab.router_policy import INPUT_TOKENS, SECONDS_PER_REQUEST, START_TIME
from banditroute.log.checkpoint import encode
from banditroute.server import Server, ServerSettings
from banditroute.v1 import router_pb2 as pb
from banditroute.v1 import router_pb2_grpc
from banditroute.wiring import open_engine

SEED, REQUESTS = 7, 400


class Remote:
    """A learner that only speaks the contract."""

    def __init__(self, stub: router_pb2_grpc.RouterServiceStub, clock: list[float]) -> None:
        self._stub, self._clock = stub, clock
        self._ids: dict[int, str] = {}
        self._position = 0
        self.propensities: list[float] = []
        self.reload: Any = None

    def enter(self, phase: Any) -> None:
        self.reload(phase)

    def pick(self, request: int, category: int) -> int:
        self._clock[0] += SECONDS_PER_REQUEST
        answer = self._stub.Route(
            pb.RouteRequest(
                category=f"c{category}",
                input_token_count=INPUT_TOKENS,
                output_token_count=0,
                min_state_position=self._position,
            ),
            timeout=10,
        )
        self._ids[request] = answer.decision_id
        self.propensities.append(answer.propensity)
        return int(answer.model[1:])

    def tell(self, request: int, *, score: float, cost_usd: float) -> None:
        answer = self._stub.Feedback(
            pb.FeedbackRequest(
                decision_id=self._ids[request],
                signals=[pb.Signal(eval_score=score, source="replay")],
                attempts=[pb.Attempt(usage=pb.Usage(cost_usd=cost_usd))],
            ),
            timeout=10,
        )
        self._position = answer.state_position

    def tell_failed(self, request: int) -> None:
        raise AssertionError("nothing fails here")


def unchained(state: State) -> bytes:
    """The state but for its chain value: the lab has no chain."""
    return encode(state._replace(chain=b""))


def course_of(toy: Dataset) -> Course:
    happens = [Degraded(model="cheap", loss=0.4, start=200), Absent(model="dear", start=0, end=100)]
    return make_course(toy, happens, requests=REQUESTS, seed=1, cost_weight=0.1)


def test_the_same_trace_makes_the_same_decisions(toy: Dataset) -> None:
    course = course_of(toy)
    delivery = DIRTY
    mail = make_mail(delivery, course, seed=1)
    with router_of(course, seed=SEED, recording=True) as lab:
        config = lab._config(*lab._configured)
        in_lab, _ = played(course, lab, mail, delivery)
        propensities = lab.propensities()
        state = unchained(lab.engine.snapshot.state)

    clock = [START_TIME]
    engine = open_engine(load(config), store="memory:", clock=lambda: clock[0], seed=SEED, threaded=True)
    settings = ServerSettings(drain_s=0.0, grace_s=5.0)
    server = Server(engine, listen="127.0.0.1:0", admin_listen="127.0.0.1:0", settings=settings)
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            remote = Remote(router_pb2_grpc.RouterServiceStub(channel), clock)
            configured = [config]

            def reload(phase: Any) -> None:
                wanted = lab._config(phase.list_costs_usd.tolist(), phase.present.tolist())
                if wanted != configured[-1]:
                    configured.append(wanted)
                    engine.reload(load(wanted).shared)

            remote.reload = reload
            over_socket, _ = played(course, remote, mail, delivery)
        assert len(configured) == 2
        assert over_socket.tolist() == in_lab.tolist()
        assert remote.propensities == [propensities[step, model] for step, model in enumerate(in_lab.tolist())]
        engine.route(RouteQuery("c0"), min_state_position=engine.info().log_position, timeout_s=30.0)  # the last is folded
        assert unchained(engine.snapshot.state) == state
    finally:
        server.stop()
        engine.close()
