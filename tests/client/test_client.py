from __future__ import annotations

import asyncio
import math
import socket
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

import banditroute.client
from banditroute.client import AdminClient, AsyncClient, Client, FieldViolation, RequestFailed, feedback_request, route_request
from banditroute.v1 import router_pb2

from .conftest import UNAVAILABLE, Scripted, refusal

Code = grpc.StatusCode


class Both:
    """The same calls through either client."""

    def __init__(self, address: str, *, asynchronous: bool) -> None:
        self._address = address
        self._asynchronous = asynchronous

    def __call__(self, method: str, *args: Any, options: dict[str, Any] | None = None, **fields: Any) -> Any:
        if not self._asynchronous:
            with Client(self._address, **(options or {})) as client:
                return getattr(client, method)(*args, **fields)

        async def call() -> Any:
            async with AsyncClient(self._address, **(options or {})) as client:
                return await getattr(client, method)(*args, **fields)

        return asyncio.run(call())


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, address: str) -> Both:
    return Both(address, asynchronous=request.param == "async")


def test_the_public_names_are_sorted_and_there() -> None:
    names = banditroute.client.__all__
    assert list(names) == sorted(names)
    assert all(hasattr(banditroute.client, name) for name in names)


def test_route_sends_every_field(call: Both, scripted: Scripted) -> None:
    answer = call(
        "route",
        "chat",
        features={"a": 1.0},
        input_tokens=0,
        output_tokens=2,
        allowed_models=("m",),
        excluded_models=["n"],
        required_tags=("us",),
        max_cost_usd=0.0,
        request_key="key",
        labels={"team": "x"},
        explain=True,
        min_state_position=3,
    )
    assert answer.model == "m"
    assert scripted.requests == [
        router_pb2.RouteRequest(
            category="chat",
            features={"a": 1.0},
            input_token_count=0,
            output_token_count=2,
            allowed_models=["m"],
            excluded_models=["n"],
            required_tags=["us"],
            max_cost_usd=0.0,
            request_key="key",
            labels={"team": "x"},
            explain=True,
            min_state_position=3,
        )
    ]


def test_feedback_sends_every_field(call: Both, scripted: Scripted) -> None:
    answer = call(
        "feedback",
        "d",
        rating=(4, 1, 5),
        eval_score=0.0,
        accepted=False,
        retried=True,
        error="timeout",
        cost_usd=0.0,
        input_tokens=0,
        output_tokens=1,
        cached_input_tokens=2,
        latency_s=1.25,
        time_to_first_token_s=0.5,
        source="user",
        model="m",
        shadow=True,
        weight=2.0,
        observe_time=1_700_000_000.5,
    )
    assert answer.state_position == 7
    (sent,) = scripted.requests
    assert isinstance(sent, router_pb2.FeedbackRequest)
    kinds = {signal.WhichOneof("kind"): signal for signal in sent.signals}
    assert set(kinds) == {"rating", "eval_score", "accepted", "retried"}
    assert kinds["rating"].rating == router_pb2.Rating(value=4, min=1, max=5)
    assert {(s.source, s.model, s.weight) for s in sent.signals} == {("user", "m", 2.0)}
    (attempt,) = sent.attempts
    assert (attempt.model, attempt.error_kind, attempt.shadow) == ("m", router_pb2.ERROR_KIND_TIMEOUT, True)
    usage = attempt.usage
    assert (usage.input_token_count, usage.output_token_count, usage.cached_input_token_count) == (0, 1, 2)
    assert usage.HasField("cost_usd")
    assert (usage.latency.seconds, usage.latency.nanos) == (1, 250_000_000)
    assert usage.time_to_first_token.nanos == 500_000_000
    assert (sent.observe_time.seconds, sent.observe_time.nanos) == (1_700_000_000, 500_000_000)


def test_what_is_not_given_is_not_sent() -> None:
    assert feedback_request("d", accepted=True) == router_pb2.FeedbackRequest(
        decision_id="d", signals=[router_pb2.Signal(accepted=True)]
    )
    assert feedback_request("d", error="none") == router_pb2.FeedbackRequest(decision_id="d", attempts=[router_pb2.Attempt()])


@pytest.mark.parametrize(("error", "kind"), [("none", 0), ("TIMEOUT", 1), ("rate_limited", 2), (6, 6)])
def test_errors_by_name_or_number(error: str | int, kind: int) -> None:
    assert feedback_request("d", error=error).attempts[0].error_kind == kind


def test_an_unknown_error_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'exploded'; one of bad_output, none, other, rate_limited"):
        feedback_request("d", error="exploded")


def test_times_that_are_no_numbers_are_refused() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises((ValueError, OverflowError)):
            feedback_request("d", latency_s=bad)


def test_times_before_zero_keep_their_form() -> None:
    sent = feedback_request("d", latency_s=-0.5, observe_time=-0.5)
    assert (sent.attempts[0].usage.latency.seconds, sent.attempts[0].usage.latency.nanos) == (0, -500_000_000)
    assert (sent.observe_time.seconds, sent.observe_time.nanos) == (-1, 500_000_000)


def test_unavailable_is_retried_with_one_key(call: Both, scripted: Scripted) -> None:
    scripted.refusals = [UNAVAILABLE, UNAVAILABLE]
    assert call("route", "chat").model == "m"
    keys = {request.request_key for request in scripted.requests if isinstance(request, router_pb2.RouteRequest)}
    assert len(scripted.requests) == 3
    assert len(keys) == 1
    assert keys != {""}


def test_two_routes_have_two_keys() -> None:
    assert route_request("chat").request_key != route_request("chat").request_key


def test_feedback_is_retried(call: Both, scripted: Scripted) -> None:
    scripted.refusals = [UNAVAILABLE]
    assert call("feedback", "d", accepted=True).state_position == 7
    assert scripted.requests[0] == scripted.requests[1]


@pytest.mark.parametrize("code", [code for code in Code if code not in (Code.OK, Code.UNAVAILABLE)], ids=lambda code: code.name)
def test_nothing_else_is_retried(call: Both, scripted: Scripted, code: grpc.StatusCode) -> None:
    scripted.refusals = [refusal(code, retry_s=0.001)]
    with pytest.raises(RequestFailed) as caught:
        call("route", "chat")
    assert caught.value.code is code
    assert len(scripted.requests) == 1


def test_attempts_are_limited(call: Both, scripted: Scripted) -> None:
    scripted.refusals = [UNAVAILABLE] * 9
    with pytest.raises(RequestFailed) as caught:
        call("route", "chat", options={"max_attempts": 3})
    assert caught.value.code is Code.UNAVAILABLE
    assert len(scripted.requests) == 3


def test_a_retry_that_the_deadline_does_not_allow_is_not_waited_for(call: Both, scripted: Scripted) -> None:
    scripted.refusals = [refusal(Code.UNAVAILABLE, retry_s=0.9)]
    with pytest.raises(RequestFailed) as caught:
        call("route", "chat", timeout_s=0.8)
    assert caught.value.retry_delay_s == pytest.approx(0.9)
    assert len(scripted.requests) == 1


def test_a_failure_says_all_and_hides_grpc(call: Both, scripted: Scripted) -> None:
    bad = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="max_cost_usd", description="is negative")]
    )
    scripted.refusals = [refusal(Code.INVALID_ARGUMENT, reason="INVALID_FIELDS", details=(bad,))]
    with pytest.raises(RequestFailed, match="INVALID_FIELDS: because") as caught:
        call("route", "chat")
    failed = caught.value
    assert (failed.code, failed.reason, failed.message) == (Code.INVALID_ARGUMENT, "INVALID_FIELDS", "because")
    assert failed.field_violations == (FieldViolation("max_cost_usd", "is negative"),)
    assert failed.metadata == {"key": "value"}
    assert failed.__cause__ is None
    assert failed.__context__ is None or failed.__suppress_context__


def test_a_server_that_is_not_there(address: str) -> None:
    with socket.socket() as taken:  # bound, never listening: refuses connections
        taken.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{taken.getsockname()[1]}"
        for asynchronous in (False, True):
            with pytest.raises(RequestFailed) as caught:
                Both(gone, asynchronous=asynchronous)("route", "chat", options={"max_attempts": 2})
            assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "")


def test_batches(call: Both, scripted: Scripted) -> None:
    mine = [router_pb2.RouteRequest(category="a"), router_pb2.RouteRequest(category="b", request_key="key")]
    (result,) = call("batch_route", mine).results
    assert RequestFailed.from_status(result.status).reason == "UNKNOWN_CATEGORY"
    (sent,) = scripted.requests
    assert isinstance(sent, router_pb2.BatchRouteRequest)
    assert sent.requests[0].request_key
    assert sent.requests[1].request_key == "key"
    assert not mine[0].request_key  # the caller's messages are left alone
    call("batch_feedback", [feedback_request("d", accepted=True)])
    assert scripted.requests[1] == router_pb2.BatchFeedbackRequest(requests=[feedback_request("d", accepted=True)])


def test_each_channel_is_a_connection(address: str, scripted: Scripted) -> None:
    with Client(address, channels=3) as client:
        for _ in range(6):
            client.route("chat")
    assert len(set(scripted.peers)) == 3


class TestAdmin:
    def test_categories_are_read_page_by_page(self, address: str, scripted: Scripted) -> None:
        scripted.refusals = [UNAVAILABLE]
        with AdminClient(address) as admin:
            assert [category.name for category in admin.list_categories()] == ["a", "b"]
            assert admin.get_category("c").name == "c"
            assert admin.get_server_info().version == "1.2.3"

    @pytest.mark.parametrize("limit", [0, 5, 700, 1500, 9000])
    def test_events_are_read_up_to_a_limit(self, address: str, limit: int) -> None:
        with AdminClient(address) as admin:
            found = [event.position for event in admin.list_events(limit=limit)]
        assert found == list(range(2500, max(0, 2500 - limit), -1))

    def test_an_update_masks_what_it_changes(self, address: str, scripted: Scripted) -> None:
        with AdminClient(address) as admin:
            changes = {"cost_weight": 0.0, "latency_weight": None}
            answer = admin.update_category("c", changes, reason="why", actor="ada", etag="e", validate_only=True)
        assert answer.state_position == 9
        (sent,) = scripted.requests
        assert str(sent).count("paths") == 2
        assert answer.category.HasField("cost_weight")
        assert not answer.category.HasField("latency_weight")

    def test_a_change_is_not_retried(self, address: str, scripted: Scripted) -> None:
        scripted.refusals = [UNAVAILABLE]
        with AdminClient(address) as admin, pytest.raises(RequestFailed):
            admin.update_category("c", {"cost_weight": 0.5}, reason="why")
        assert len(scripted.requests) == 1
