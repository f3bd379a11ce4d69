from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from banditroute.core.errors import NoEligibleModel, StaleState
from banditroute.core.types import RouteQuery
from banditroute.server import ServerSettings
from banditroute.v1 import router_pb2 as pb
from banditroute.v1.router_pb2_grpc import RouterServiceStub

from .conftest import Failure, Serve, failure
from .fake import FakeEngine


def test_every_field_reaches_the_engine(router: RouterServiceStub, engine: FakeEngine) -> None:
    router.Route(
        pb.RouteRequest(
            category="chat",
            features={"a": 1.5, "b": -2.0},
            input_token_count=0,
            output_token_count=20,
            allowed_models=["m", "n"],
            excluded_models=["o"],
            required_tags=["us"],
            max_cost_usd=0.0,
            labels={"team": "x"},
            request_key="key",
        )
    )
    assert engine.queries == [
        RouteQuery("chat", {"a": 1.5, "b": -2.0}, 0, 20, ("m", "n"), ("o",), ("us",), 0.0, "key", {"team": "x"})
    ]


def test_what_is_unset_stays_unset(router: RouterServiceStub, engine: FakeEngine) -> None:
    router.Route(pb.RouteRequest(category="chat"))
    assert engine.queries == [RouteQuery("chat")]


def test_the_whole_decision_is_answered(router: RouterServiceStub) -> None:
    answer = router.Route(pb.RouteRequest(category="chat"))
    assert answer.decision_id == "id-chat"
    assert (answer.model, list(answer.fallback_models)) == ("cheap", ["dear"])
    assert (answer.propensity, answer.expected_quality, answer.expected_cost_usd) == (0.75, 0.7, 0.001)
    assert answer.decision_reason == pb.DECISION_REASON_BEST
    assert answer.state_position == 5
    assert (answer.expire_time.seconds, answer.expire_time.nanos) == (1_000_000_000, 500_000_000)
    assert not answer.candidates


def test_explain_lists_every_candidate(router: RouterServiceStub) -> None:
    answer = router.Route(pb.RouteRequest(category="chat", explain=True))
    assert [candidate.model for candidate in answer.candidates] == ["dear", "cheap", "barred"]
    cheap, barred = answer.candidates[1], answer.candidates[2]
    assert cheap == pb.Candidate(
        model="cheap",
        eligible=True,
        quality_mean=0.7,
        quality_stddev=0.05,
        expected_cost_usd=0.001,
        utility_mean=0.65,
        propensity=0.75,
        lifecycle=pb.LIFECYCLE_LIVE,
    )
    assert not barred.eligible
    assert barred.exclusion_reason == pb.EXCLUSION_REASON_TAG_MISSING


def test_a_batch_fails_item_by_item(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.errors = [NoEligibleModel("a", {"m": "not allowed"}), KeyError("hunter2")]
    results = router.BatchRoute(pb.BatchRouteRequest(requests=[pb.RouteRequest(category=c) for c in "abc"])).results
    assert [result.WhichOneof("result") for result in results] == ["status", "status", "response"]
    assert Failure(results[0].status).reason == "NO_ELIGIBLE_MODEL"
    assert Failure(results[1].status).reason == "INTERNAL"
    assert "hunter2" not in str(results[1])
    assert results[2].response.decision_id == "id-c"


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_has_1_to_100_requests(router: RouterServiceStub, engine: FakeEngine, count: int) -> None:
    found = failure(router.BatchRoute, pb.BatchRouteRequest(requests=[pb.RouteRequest()] * count))
    assert (found.reason, found.fields) == ("INVALID_FIELDS", ["requests"])
    assert not engine.queries


def test_a_batch_of_100_is_answered(router: RouterServiceStub) -> None:
    assert len(router.BatchRoute(pb.BatchRouteRequest(requests=[pb.RouteRequest()] * 100)).results) == 100


def test_ten_megabytes_are_refused_and_the_server_goes_on(router: RouterServiceStub, engine: FakeEngine) -> None:
    found = failure(router.Route, pb.RouteRequest(request_key="x" * 10_000_000))
    assert found.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert not engine.queries
    assert router.Route(pb.RouteRequest(category="chat")).model == "cheap"


def test_a_reached_position_is_answered_at_once(router: RouterServiceStub, engine: FakeEngine) -> None:
    assert router.Route(pb.RouteRequest(category="chat", min_state_position=5)).state_position == 5
    assert engine.timeouts == []


def test_route_waits_for_its_position(router: RouterServiceStub, engine: FakeEngine) -> None:
    waiting = router.Route.future(pb.RouteRequest(category="chat", min_state_position=6), timeout=10)
    assert engine.waiting.acquire(timeout=10)
    engine.advance.set()
    assert waiting.result().model == "cheap"


def test_the_wait_ends_within_a_second_and_the_deadline(router: RouterServiceStub, engine: FakeEngine) -> None:
    found = failure(router.Route, pb.RouteRequest(category="chat", min_state_position=6))
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE.value[0], "STALE_STATE")
    first, second = engine.timeouts
    assert first == 0.0
    assert second is not None and 0.0 < second <= 1.0


def test_a_batch_waits_for_all_its_positions_together(router: RouterServiceStub, engine: FakeEngine) -> None:
    requests = [pb.RouteRequest(category="chat", min_state_position=6)] * 3
    results = router.BatchRoute(pb.BatchRouteRequest(requests=requests)).results
    assert {Failure(result.status).reason for result in results} == {"STALE_STATE"}
    assert sum(timeout or 0.0 for timeout in engine.timeouts) <= 1.0 + 1e-6


def test_waiting_routes_take_permits_and_others_do_not(
    serve: Serve, connect: Callable[[int], grpc.Channel], engine: FakeEngine
) -> None:
    port = serve(settings=ServerSettings(max_concurrent_feedback=1, drain_s=0.0)).port
    router = RouterServiceStub(connect(port))
    engine.hold = True
    stuck = router.Feedback.future(pb.FeedbackRequest(decision_id="d"), timeout=30)
    assert engine.submitted.acquire(timeout=10)
    assert failure(router.Route, pb.RouteRequest(category="chat", min_state_position=6)).reason == "OVERLOADED"
    assert router.Route(pb.RouteRequest(category="chat", min_state_position=5)).model == "cheap"
    engine.settle()
    assert stuck.result().state_position == 7


def test_too_many_requests_at_once_are_refused(serve: Serve, connect: Callable[[int], grpc.Channel], engine: FakeEngine) -> None:
    settings = ServerSettings(max_concurrent_requests=2, max_concurrent_feedback=2, drain_s=0.0)
    router = RouterServiceStub(connect(serve(settings=settings).port))
    engine.hold = True
    stuck = [router.Feedback.future(pb.FeedbackRequest(decision_id="d"), timeout=30) for _ in range(2)]
    for _ in stuck:
        assert engine.submitted.acquire(timeout=10)
    found = failure(router.Route, pb.RouteRequest(category="chat"))
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "OVERLOADED")
    engine.settle()
    for call in stuck:
        call.result()
    assert router.Route(pb.RouteRequest(category="chat")).model == "cheap"


def test_permits_come_back_after_failures(serve: Serve, connect: Callable[[int], grpc.Channel], engine: FakeEngine) -> None:
    settings = ServerSettings(max_concurrent_requests=1, max_concurrent_feedback=1, drain_s=0.0)
    router = RouterServiceStub(connect(serve(settings=settings).port))
    for _ in range(3):
        engine.errors = [StaleState("behind")]
        assert failure(router.Feedback, pb.FeedbackRequest(decision_id="d")).reason == "STALE_STATE"


def test_many_clients_at_once(router: RouterServiceStub) -> None:
    start = threading.Barrier(8)

    def work(number: int) -> set[str]:
        start.wait(10)
        return {router.Route(pb.RouteRequest(category=f"c{number}"), timeout=30).decision_id for _ in range(25)}

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [{f"id-c{number}"} for number in range(8)]
