from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from banditroute.core.errors import ForgedDecisionId, InvalidRequest, StoreUnavailable
from banditroute.core.types import Attempt, ErrorKind, FeedbackReceipt, FeedbackReport, Signal, SignalKind
from banditroute.server import ServerSettings
from banditroute.server.convert import decode_feedback
from banditroute.v1 import router_pb2 as pb
from banditroute.v1.router_pb2_grpc import RouterServiceStub

from .conftest import Failure, Serve, failure
from .fake import FakeEngine

INF, NAN = math.inf, math.nan


def rating(value: float, low: float, high: float) -> pb.FeedbackRequest:
    return pb.FeedbackRequest(decision_id="d", signals=[pb.Signal(rating=pb.Rating(value=value, min=low, max=high))])


def usage(**fields: Any) -> pb.FeedbackRequest:
    return pb.FeedbackRequest(decision_id="d", attempts=[pb.Attempt(usage=pb.Usage(**fields))])


def observed(seconds: int, nanos: int = 0) -> pb.FeedbackRequest:
    signals = [pb.Signal(accepted=True)]
    return pb.FeedbackRequest(decision_id="d", signals=signals, observe_time=Timestamp(seconds=seconds, nanos=nanos))


def test_every_field_reaches_the_engine(router: RouterServiceStub, engine: FakeEngine) -> None:
    answer = router.Feedback(
        pb.FeedbackRequest(
            decision_id="d",
            signals=[
                pb.Signal(rating=pb.Rating(value=4, min=1, max=5), source="user"),
                pb.Signal(eval_score=0.25, weight=2.0, model="m"),
                pb.Signal(accepted=True),
                pb.Signal(accepted=False),
                pb.Signal(retried=True),
                pb.Signal(retried=False),
            ],
            attempts=[
                pb.Attempt(model="m", error_kind=pb.ERROR_KIND_TIMEOUT, shadow=True),
                pb.Attempt(
                    usage=pb.Usage(
                        input_token_count=0,
                        output_token_count=2,
                        cached_input_token_count=3,
                        cost_usd=0.0,
                        latency=Duration(seconds=1, nanos=500_000_000),
                        time_to_first_token=Duration(nanos=250_000_000),
                    )
                ),
            ],
            observe_time=Timestamp(seconds=1_700_000_000, nanos=500_000_000),
        )
    )
    assert engine.reports == [
        FeedbackReport(
            "d",
            (
                Signal(SignalKind.RATING, 0.75, "user"),
                Signal(SignalKind.EVAL_SCORE, 0.25, "", 2.0, "m"),
                Signal(SignalKind.ACCEPTED, 1.0),
                Signal(SignalKind.ACCEPTED, 0.0),
                Signal(SignalKind.RETRIED, 0.0),
                Signal(SignalKind.RETRIED, 1.0),
            ),
            (Attempt("m", ErrorKind.TIMEOUT, True), Attempt("", ErrorKind.NONE, False, 0, 2, 3, 0.0, 1.5, 0.25)),
            1_700_000_000.5,
        )
    ]
    assert answer.disposition == pb.DISPOSITION_APPLIED
    assert list(answer.signal_dispositions) == [pb.DISPOSITION_APPLIED] * 6
    assert list(answer.attempt_dispositions) == [pb.DISPOSITION_DUPLICATE] * 2
    assert answer.state_position == 7


def test_what_is_unset_stays_unset() -> None:
    request = pb.FeedbackRequest(decision_id="d", attempts=[pb.Attempt(), pb.Attempt(shadow=True, usage=pb.Usage())])
    assert decode_feedback(request) == FeedbackReport("d", (), (Attempt(), Attempt(shadow=True)), None)


WIRE_ONLY: list[tuple[pb.FeedbackRequest, list[str]]] = [
    (pb.FeedbackRequest(decision_id="d", signals=[pb.Signal(source="x")]), ["signals[0].kind"]),
    (rating(6, 1, 5), ["signals[0].rating.value"]),
    (rating(0, 1, 5), ["signals[0].rating.value"]),
    (rating(3, 5, 1), ["signals[0].rating.max"]),
    (rating(3, 3, 3), ["signals[0].rating.max"]),
    (rating(NAN, INF, -INF), ["signals[0].rating.value", "signals[0].rating.min", "signals[0].rating.max"]),
    (rating(0, -1.7e308, 1.7e308), ["signals[0].rating.max"]),
    (pb.FeedbackRequest(decision_id="d", attempts=[pb.Attempt(error_kind=99)]), ["attempts[0].error_kind"]),  # type: ignore[arg-type]
    (usage(latency=Duration(seconds=-1)), ["attempts[0].usage.latency"]),
    (usage(latency=Duration(nanos=-1)), ["attempts[0].usage.latency"]),
    (usage(latency=Duration(seconds=1, nanos=-1)), ["attempts[0].usage.latency"]),
    (usage(latency=Duration(seconds=2**62)), ["attempts[0].usage.latency"]),
    (usage(time_to_first_token=Duration(nanos=2_000_000_000)), ["attempts[0].usage.time_to_first_token"]),
    (observed(2**62), ["observe_time"]),
    (observed(-(2**62)), ["observe_time"]),
    (observed(1, -1), ["observe_time"]),
    (observed(1, 1_000_000_000), ["observe_time"]),
]


@pytest.mark.parametrize(("request_", "fields"), WIRE_ONLY)
def test_what_the_domain_has_no_words_for_is_refused(request_: pb.FeedbackRequest, fields: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_feedback(request_)
    assert [violation.field for violation in caught.value.violations] == fields


def test_all_is_told_at_once(router: RouterServiceStub, engine: FakeEngine) -> None:
    """The engine's own findings too, though it was never asked."""
    found = failure(
        router.Feedback,
        pb.FeedbackRequest(
            decision_id="d",
            signals=[
                pb.Signal(),
                pb.Signal(rating=pb.Rating(value=9, min=1, max=5), weight=-1),
                pb.Signal(eval_score=2.0),
                pb.Signal(),
            ],
            attempts=[pb.Attempt(error_kind=42, usage=pb.Usage(cost_usd=-1.0, latency=Duration(seconds=-3)))],  # type: ignore[arg-type]
            observe_time=Timestamp(nanos=-5),
        ),
    )
    assert found.reason == "INVALID_FIELDS"
    assert sorted(found.fields) == [
        "attempts[0].error_kind",
        "attempts[0].usage.cost_usd",
        "attempts[0].usage.latency",
        "observe_time",
        "signals[0].kind",
        "signals[1].rating.value",
        "signals[1].weight",
        "signals[2].eval_score",
        "signals[3].kind",
    ]
    assert not engine.reports


def test_ratings_of_any_scale_fit_between_0_and_1() -> None:
    for low, high in ((0.1, 0.7), (-5, 3), (1e-300, 1e300)):
        for value in (low, high, (low + high) / 3 if low < (low + high) / 3 < high else low):
            assert 0.0 <= decode_feedback(rating(value, low, high)).signals[0].value <= 1.0


def test_a_batch_fails_item_by_item(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.errors = [ForgedDecisionId("altered")]
    requests = [pb.FeedbackRequest(decision_id="a"), rating(9, 1, 5), rating(4, 1, 5)]
    results = router.BatchFeedback(pb.BatchFeedbackRequest(requests=requests)).results
    assert Failure(results[0].status).reason == "DECISION_ID_FORGED"
    assert Failure(results[1].status).fields == ["signals[0].rating.value"]
    assert results[2].response.disposition == pb.DISPOSITION_APPLIED


def test_a_batch_is_submitted_whole_before_it_is_waited_for(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.hold = True
    requests = [pb.FeedbackRequest(decision_id=d) for d in "abc"]
    call = router.BatchFeedback.future(pb.BatchFeedbackRequest(requests=requests), timeout=30)
    for _ in requests:
        assert engine.submitted.acquire(timeout=10)
    engine.pending.pop()[1].set_exception(StoreUnavailable("disk full"))
    engine.settle()
    results = call.result().results
    assert [result.WhichOneof("result") for result in results] == ["response", "response", "status"]
    assert Failure(results[2].status).reason == "STORE_UNAVAILABLE"


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_has_1_to_100_requests(router: RouterServiceStub, engine: FakeEngine, count: int) -> None:
    found = failure(router.BatchFeedback, pb.BatchFeedbackRequest(requests=[pb.FeedbackRequest()] * count))
    assert (found.reason, found.fields) == ("INVALID_FIELDS", ["requests"])
    assert not engine.reports


def test_a_failing_log_is_told(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.hold = True
    call = router.Feedback.future(pb.FeedbackRequest(decision_id="d"), timeout=30)
    assert engine.submitted.acquire(timeout=10)
    engine.pending.pop()[1].set_exception(StoreUnavailable("disk full"))
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert call.details() == "disk full"


def test_cancelled_by_a_closing_log(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.hold = True
    call = router.Feedback.future(pb.FeedbackRequest(decision_id="d"), timeout=30)
    assert engine.submitted.acquire(timeout=10)
    engine.pending.pop()[1].cancel()
    assert call.code() is grpc.StatusCode.UNAVAILABLE


def test_beyond_its_permits_feedback_is_refused_and_route_is_not(
    serve: Serve, connect: Callable[[int], grpc.Channel], engine: FakeEngine
) -> None:
    router = RouterServiceStub(connect(serve(settings=ServerSettings(max_concurrent_feedback=2, drain_s=0.0)).port))
    engine.hold = True
    stuck = [router.Feedback.future(pb.FeedbackRequest(decision_id="d"), timeout=30) for _ in range(2)]
    for _ in stuck:
        assert engine.submitted.acquire(timeout=10)
    for method, request in (
        (router.Feedback, pb.FeedbackRequest(decision_id="d")),
        (router.BatchFeedback, pb.BatchFeedbackRequest(requests=[pb.FeedbackRequest(decision_id="d")])),
    ):
        found = failure(method, request)
        assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "OVERLOADED")
        assert "RetryInfo" in found.details
    assert router.Route(pb.RouteRequest(category="chat")).model == "cheap"
    engine.settle()
    assert [call.result().state_position for call in stuck] == [7, 7]


def test_a_stuck_log_costs_a_call_its_deadline_and_gives_the_permit_back(
    serve: Serve, connect: Callable[[int], grpc.Channel], engine: FakeEngine
) -> None:
    router = RouterServiceStub(connect(serve(settings=ServerSettings(max_concurrent_feedback=1, drain_s=0.0)).port))
    engine.hold = True
    assert failure(router.Feedback, rating(4, 1, 5), timeout=0.3).code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    engine.hold = False
    while True:  # the handler may notice its deadline after the client did
        call: Any = router.Feedback.future(rating(4, 1, 5), timeout=30)
        if call.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            break
    assert call.result().state_position == 7


def test_an_unconfirmed_feedback_says_so(
    serve: Serve, connect: Callable[[int], grpc.Channel], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call without a deadline is answered all the same."""
    monkeypatch.setattr("banditroute.server.servicer.MAX_FEEDBACK_WAIT_S", 0.05)
    router = RouterServiceStub(connect(serve().port))
    engine.hold = True
    found = failure(router.Feedback, rating(4, 1, 5), timeout=None)
    assert (found.code, found.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED.value[0], "FEEDBACK_NOT_CONFIRMED")
    batch = router.BatchFeedback(pb.BatchFeedbackRequest(requests=[rating(4, 1, 5)] * 2))
    assert {Failure(result.status).reason for result in batch.results} == {"FEEDBACK_NOT_CONFIRMED"}


def test_a_timeout_inside_the_log_is_not_the_calls(router: RouterServiceStub, engine: FakeEngine) -> None:
    failed: Future[FeedbackReceipt] = Future()
    failed.set_exception(TimeoutError("hunter2"))
    engine.submit = lambda report: failed  # type: ignore[method-assign]
    assert failure(router.Feedback, rating(4, 1, 5)).reason == "INTERNAL"
