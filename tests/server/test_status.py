"""The error table, row by row, over a real socket."""

from __future__ import annotations

import concurrent.futures
import logging

import grpc
import pytest

from banditroute.core import errors
from banditroute.server.status import DETAIL_BYTES, INTERNAL_MESSAGE, MESSAGE_BYTES, TABLE, ShuttingDown, clip, status_of
from banditroute.v1 import router_pb2 as pb
from banditroute.v1.router_pb2_grpc import RouterServiceStub

from .conftest import Failure, failure
from .fake import FakeEngine

Code = grpc.StatusCode
VIOLATIONS = [errors.FieldViolation("features[a]", "unknown"), errors.FieldViolation("max_cost_usd", "is negative")]

ROWS: list[tuple[Exception, grpc.StatusCode, str, set[str]]] = [
    (errors.InvalidRequest(VIOLATIONS), Code.INVALID_ARGUMENT, "INVALID_FIELDS", {"BadRequest"}),
    (errors.MalformedDecisionId("not an id"), Code.INVALID_ARGUMENT, "DECISION_ID_MALFORMED", {"BadRequest"}),
    (errors.ForgedDecisionId("altered"), Code.INVALID_ARGUMENT, "DECISION_ID_FORGED", {"BadRequest"}),
    (errors.ForeignDecisionId("another log's"), Code.INVALID_ARGUMENT, "DECISION_ID_FOREIGN", {"BadRequest"}),
    (errors.UnknownCategory("poems", ["chat"]), Code.NOT_FOUND, "UNKNOWN_CATEGORY", {"ResourceInfo"}),
    (errors.UnknownModel("m", ["a", "b"], category="chat"), Code.NOT_FOUND, "UNKNOWN_MODEL", {"ResourceInfo"}),
    (errors.LastArm("m", ["chat"]), Code.FAILED_PRECONDITION, "LAST_ARM", {"PreconditionFailure"}),
    (
        errors.NoEligibleModel("chat", {"a": "not allowed", "b": "too dear"}),
        Code.FAILED_PRECONDITION,
        "NO_ELIGIBLE_MODEL",
        {"PreconditionFailure"},
    ),
    (errors.FeedbackWindowOver("8 days old"), Code.FAILED_PRECONDITION, "FEEDBACK_WINDOW_OVER", {"PreconditionFailure"}),
    (errors.EtagMismatch("changed since"), Code.ABORTED, "ETAG_MISMATCH", set()),
    (errors.Overloaded("busy"), Code.RESOURCE_EXHAUSTED, "OVERLOADED", {"RetryInfo"}),
    (errors.StaleState("behind"), Code.UNAVAILABLE, "STALE_STATE", {"RetryInfo"}),
    (errors.StoreUnavailable("disk full"), Code.UNAVAILABLE, "STORE_UNAVAILABLE", {"RetryInfo"}),
    (errors.StoreError("broken"), Code.UNAVAILABLE, "STORE_UNAVAILABLE", {"RetryInfo"}),
    (errors.StoreClosed("closed"), Code.UNAVAILABLE, "SHUTTING_DOWN", set()),
    (ShuttingDown("draining"), Code.UNAVAILABLE, "SHUTTING_DOWN", set()),
    (concurrent.futures.CancelledError(), Code.UNAVAILABLE, "SHUTTING_DOWN", set()),
    (KeyError("hunter2"), Code.INTERNAL, "INTERNAL", set()),
    (TimeoutError("hunter2"), Code.INTERNAL, "INTERNAL", set()),
    (errors.ConfigError("<dict>", []), Code.INTERNAL, "INTERNAL", set()),
]


@pytest.mark.parametrize(("error", "code", "reason", "details"), ROWS, ids=lambda value: type(value).__name__)
def test_each_row_reaches_the_client(
    router: RouterServiceStub, engine: FakeEngine, error: Exception, code: grpc.StatusCode, reason: str, details: set[str]
) -> None:
    engine.errors = [error]
    found = failure(router.Route, pb.RouteRequest(category="chat"))
    assert (found.code, found.reason) == (code.value[0], reason)
    assert found.info and found.info.domain == "banditroute"
    assert set(found.details) == {"ErrorInfo", *details}
    assert found.message
    assert router.Route(pb.RouteRequest(category="chat")).model == "cheap"  # still serving


def test_every_row_of_the_table_is_tested() -> None:
    tested = {type(error) for error, *_ in ROWS}
    assert {kind.__name__ for kind in TABLE} - {kind.__name__ for kind in tested} == {"NotConfirmed"}  # test_feedback has it


def test_all_violations_are_named(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.errors = [errors.InvalidRequest(VIOLATIONS)]
    assert failure(router.Route, pb.RouteRequest()).fields == ["features[a]", "max_cost_usd"]


def test_a_bad_id_names_its_field(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.errors = [errors.ForgedDecisionId("altered")]
    assert failure(router.Feedback, pb.FeedbackRequest(decision_id="x")).fields == ["decision_id"]


def test_each_exclusion_is_named(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.errors = [errors.NoEligibleModel("chat", {"a": "not allowed", "b": "too dear"})]
    found = failure(router.Route, pb.RouteRequest()).details["PreconditionFailure"]
    assert [(v.type, v.subject, v.description) for v in found.violations] == [
        ("MODEL_EXCLUDED", "a", "not allowed"),
        ("MODEL_EXCLUDED", "b", "too dear"),
    ]


def test_an_unknown_category_is_a_named_resource(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.errors = [errors.UnknownCategory("poems", ["chat"])]
    found = failure(router.Route, pb.RouteRequest())
    assert found.details["ResourceInfo"].resource_name == "poems"
    assert found.info and dict(found.info.metadata) == {"category": "poems"}


def test_an_uncaught_exception_keeps_its_secret(
    router: RouterServiceStub, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.errors = [KeyError("hunter2")]
    with caplog.at_level(logging.ERROR):
        found = failure(router.Route, pb.RouteRequest())
    assert found.message == INTERNAL_MESSAGE
    assert "hunter2" not in str(found.details)
    assert "hunter2" in caplog.text
    assert "Route" in caplog.text


def test_many_violations_fit_into_a_trailer(router: RouterServiceStub, engine: FakeEngine) -> None:
    many = [errors.FieldViolation(f"features[{'é' * 200}{i}]", "日本" * 500) for i in range(1000)]
    engine.errors = [errors.InvalidRequest(many)]
    found = failure(router.Route, pb.RouteRequest())
    assert found.reason == "INVALID_FIELDS"
    violations = found.details["BadRequest"].field_violations
    assert violations[-1].description == f"{1001 - len(violations)} more violations"
    assert found.details["BadRequest"].ByteSize() <= DETAIL_BYTES + 100
    assert len(found.message.encode()) <= MESSAGE_BYTES


def test_forty_violations_are_all_told() -> None:
    many = [errors.FieldViolation(f"signals[{i}].rating.value", "must be from min to max (1 to 5), is 6") for i in range(40)]
    assert len(Failure(status_of(errors.InvalidRequest(many), method="Feedback")).fields) == 40


def test_many_exclusions_fit_into_a_trailer(router: RouterServiceStub, engine: FakeEngine) -> None:
    engine.errors = [errors.NoEligibleModel("chat", {f"model-{i}": "not allowed " * 9 for i in range(256)})]
    found = failure(router.Route, pb.RouteRequest())
    assert found.reason == "NO_ELIGIBLE_MODEL"
    assert found.details["PreconditionFailure"].violations[-1].description.endswith(" more")


def test_clip_cuts_whole_characters() -> None:
    assert clip("abc", 3) == "abc"
    assert clip("ééééé", 6) == "é…"
    assert clip("\ud800") == "?"
