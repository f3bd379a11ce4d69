from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from banditroute.core.errors import FieldViolation, InvalidRequest, LastArm
from banditroute.core.types import JournalRow
from banditroute.server import convert_admin
from banditroute.v1 import admin_pb2 as pb
from banditroute.v1.admin_pb2_grpc import AdminServiceStub

from .conftest import failure
from .fake import FakeEngine, category

BAD_TOKENS = [
    "x",
    "ünsinn",
    "[" * 5000,
    convert_admin.encode_page_token("events", 1, 2),
    convert_admin.encode_page_token("events", 1, 2, -1),
    convert_admin.encode_page_token("events", 1, 2, 2**63),
    convert_admin.encode_page_token("categories", "a", "b"),
    convert_admin.encode_page_token("other", "a"),
]


def row(position: int, kind: str = "config", index: int = 0, **body: Any) -> JournalRow:
    return JournalRow(1, position, index, 1_700_000_000_500_000 + position, kind, body)


def update(**changes: Any) -> pb.UpdateCategoryRequest:
    given: dict[str, Any] = {
        "category": pb.Category(name="chat", cost_weight=0.5),
        "update_mask": FieldMask(paths=["cost_weight"]),
        "change_reason": "cheaper now",
        "actor": "ada",
        **changes,
    }
    return pb.UpdateCategoryRequest(**given)


def test_get_category_answers_every_field(admin: AdminServiceStub) -> None:
    found = admin.GetCategory(pb.GetCategoryRequest(name="chat")).category
    assert (found.name, found.cost_weight, found.latency_weight) == ("chat", 0.3, 0.1)
    assert list(found.overridden_fields) == ["cost_weight"]
    assert found.cost_reference_usd == 0.02
    assert (found.latency_reference.seconds, found.latency_reference.nanos) == (10, 500_000_000)
    assert (found.etag, found.feedback_count) == ("etag-1", 24)
    cheap, dear = found.arms
    assert (cheap.model, cheap.quality_mean, cheap.quality_stddev, cheap.expected_cost_usd) == ("cheap", 0.7, 0.05, 0.001)
    assert (cheap.utility_mean, cheap.share, cheap.effective_sample_size) == (0.65, 0.75, 12.5)
    assert (cheap.feedback_count, cheap.error_count, cheap.off_policy_count) == (20, 1, 2)
    assert (cheap.expected_latency.seconds, cheap.expected_latency.nanos) == (1, 500_000_000)
    assert not dear.HasField("expected_latency")


def test_an_unknown_category_is_not_found(admin: AdminServiceStub) -> None:
    assert failure(admin.GetCategory, pb.GetCategoryRequest(name="poems")).reason == "UNKNOWN_CATEGORY"


def test_categories_come_in_pages(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.known = [category(name) for name in ("a", "b", "c", "d", "e")]
    pages, token = [], ""
    while True:
        page = admin.ListCategories(pb.ListCategoriesRequest(page_size=2, page_token=token))
        pages.append([found.name for found in page.categories])
        token = page.next_page_token
        if not token:
            break
    assert pages == [["a", "b"], ["c", "d"], ["e"]]


def test_a_full_last_page_has_no_token(admin: AdminServiceStub) -> None:
    page = admin.ListCategories(pb.ListCategoriesRequest(page_size=2))
    assert len(page.categories) == 2
    assert not page.next_page_token


def test_a_page_has_100_by_default_and_1000_at_most(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.known = [category(f"{i:04}", arms=()) for i in range(1001)]
    assert len(admin.ListCategories(pb.ListCategoriesRequest()).categories) == 100
    assert len(admin.ListCategories(pb.ListCategoriesRequest(page_size=5000)).categories) == 1000


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_bad_pages_are_refused(admin: AdminServiceStub, token: str) -> None:
    for method, request in (
        (admin.ListCategories, pb.ListCategoriesRequest(page_size=-1, page_token=token)),
        (admin.ListEvents, pb.ListEventsRequest(page_size=-1, page_token=token)),
    ):
        found = failure(method, request)
        assert (found.reason, found.fields) == ("INVALID_FIELDS", ["page_size", "page_token"])


def test_events_come_in_pages_newest_first(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.rows = [row(1), row(2), row(2, "event_skipped", 1), row(3)]
    first = admin.ListEvents(pb.ListEventsRequest(page_size=3))
    assert [(event.position, event.index) for event in first.events] == [(3, 0), (2, 1), (2, 0)]
    engine.rows.append(row(4))  # what is new does not move the pages
    second = admin.ListEvents(pb.ListEventsRequest(page_size=3, page_token=first.next_page_token))
    assert [(event.position, event.index) for event in second.events] == [(1, 0)]
    assert not second.next_page_token


def test_large_events_make_shorter_pages(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.rows = [row(i, document="x" * 1_400_000) for i in range(1, 6)]
    found: list[int] = []
    token = ""
    while True:
        page = admin.ListEvents(pb.ListEventsRequest(page_token=token))
        found.extend(event.position for event in page.events)
        token = page.next_page_token
        if not token:
            break
    assert found == [5, 4, 3, 2, 1]


def test_an_event_answers_every_field(admin: AdminServiceStub, engine: FakeEngine) -> None:
    body: dict[str, Any] = {
        "action": "set_weights",
        "category": "chat",
        "changes": {"cost_weight": 0.5},
        "previous": {"cost_weight": 0.3},
        "reason": "cheaper",
        "actor": "ada",
    }
    engine.rows = [row(4, "operator", **body)]
    (event,) = admin.ListEvents(pb.ListEventsRequest()).events
    assert (event.epoch, event.position, event.index, event.kind) == (1, 4, 0, "operator")
    assert (event.append_time.seconds, event.append_time.nanos) == (1_700_000_000, 500_004_000)
    assert (event.actor, event.change_reason) == ("ada", "cheaper")
    assert event.summary == "ada set cost_weight from 0.3 to 0.5 in category chat."
    assert json.loads(event.details_json) == body


def test_an_update_reaches_the_engine(admin: AdminServiceStub, engine: FakeEngine) -> None:
    answer = admin.UpdateCategory(update(etag="etag-1"))
    assert engine.weights == [("chat", {"cost_weight": 0.5}, {"reason": "cheaper now", "actor": "ada", "validate_only": False})]
    assert answer.category.name == "chat"
    assert answer.state_position == 9


def test_a_masked_field_that_is_unset_is_cleared(admin: AdminServiceStub, engine: FakeEngine) -> None:
    mask = FieldMask(paths=["latency_weight", "cost_weight"])
    admin.UpdateCategory(update(category=pb.Category(name="chat", latency_weight=0.0), update_mask=mask))
    assert engine.weights[0][1] == {"cost_weight": None, "latency_weight": 0.0}


def test_a_check_changes_nothing(admin: AdminServiceStub, engine: FakeEngine) -> None:
    assert not admin.UpdateCategory(update(validate_only=True)).HasField("state_position")
    assert engine.weights[0][2]["validate_only"] is True


def test_the_peer_acts_where_nobody_is_named(admin: AdminServiceStub, engine: FakeEngine) -> None:
    admin.UpdateCategory(update(actor=""))
    assert "127.0.0.1" in engine.weights[0][2]["actor"]


def test_a_changed_category_is_not_overwritten(admin: AdminServiceStub, engine: FakeEngine) -> None:
    found = failure(admin.UpdateCategory, update(etag="etag-0"))
    assert (found.code, found.reason) == (grpc.StatusCode.ABORTED.value[0], "ETAG_MISMATCH")


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"update_mask": FieldMask()}, ["update_mask"]),
        ({"update_mask": FieldMask(paths=["cost_weight", "etag", "*"])}, ["update_mask.paths[1]", "update_mask.paths[2]"]),
        ({"change_reason": " "}, ["change_reason"]),
        ({"change_reason": "x" * 257}, ["change_reason"]),
        ({"actor": "x" * 65}, ["actor"]),
        (
            {"category": pb.Category(), "update_mask": FieldMask(), "change_reason": "", "actor": "x" * 65},
            ["category.name", "update_mask", "change_reason", "actor"],
        ),
    ],
)
def test_bad_updates_are_refused(admin: AdminServiceStub, engine: FakeEngine, changes: dict[str, Any], fields: list[str]) -> None:
    found = failure(admin.UpdateCategory, update(**changes))
    assert (found.reason, found.fields) == ("INVALID_FIELDS", fields)
    assert not engine.weights


def test_the_engines_names_become_the_messages(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.errors = [InvalidRequest([FieldViolation("cost_weight", "is negative"), FieldViolation("reason", "is empty")])]
    assert failure(admin.UpdateCategory, update()).fields == ["category.cost_weight", "change_reason"]


ARM_CHANGES: dict[str, Any] = {"pause": pb.PauseArmRequest, "resume": pb.ResumeArmRequest, "reset": pb.ResetArmRequest}


def change_arm(admin: AdminServiceStub, action: str) -> Any:
    return getattr(admin, f"{action.capitalize()}Arm")


@pytest.mark.parametrize("action", ARM_CHANGES)
def test_a_change_of_an_arm_reaches_the_engine(admin: AdminServiceStub, engine: FakeEngine, action: str) -> None:
    call, request = change_arm(admin, action), ARM_CHANGES[action]
    answer = call(request(category="chat", model="cheap", change_reason="broken", actor="ada"))
    assert [found.name for found in answer.categories] == ["chat", "summarise"]
    assert answer.state_position == 9
    answer = call(request(model="dear", change_reason="x" * 256, validate_only=True))
    assert not answer.HasField("state_position")
    assert engine.arms[0] == (action, "cheap", "chat", {"reason": "broken", "actor": "ada", "validate_only": False})
    found, model, category, said = engine.arms[1]
    assert (found, model, category, said["validate_only"]) == (action, "dear", "", True)
    assert "127.0.0.1" in said["actor"]


@pytest.mark.parametrize("action", ARM_CHANGES)
def test_bad_changes_of_arms_are_refused(admin: AdminServiceStub, engine: FakeEngine, action: str) -> None:
    found = failure(change_arm(admin, action), ARM_CHANGES[action](change_reason=" ", actor="x" * 65))
    assert (found.reason, found.fields) == ("INVALID_FIELDS", ["model", "change_reason", "actor"])
    assert not engine.arms


def test_the_last_arm_is_told_with_its_categories(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.errors = [LastArm("cheap", ["chat", "summarise"])]
    found = failure(admin.PauseArm, pb.PauseArmRequest(model="cheap", change_reason="broken"))
    assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "LAST_ARM")
    violations = found.details["PreconditionFailure"].violations
    assert [(each.type, each.subject) for each in violations] == [("LAST_ARM", "chat"), ("LAST_ARM", "summarise")]


def test_server_info_answers_every_field(admin: AdminServiceStub) -> None:
    found = admin.GetServerInfo(pb.GetServerInfoRequest())
    assert (found.version, found.fold_version, found.log_id, found.epoch) == ("1.2.3", 4, "log-id", 1)
    assert (found.log_position, found.state_position) == (10, 9)
    assert (found.start_time.seconds, found.start_time.nanos) == (1_000_000_000, 250_000_000)
    assert (found.skipped_event_count, found.dropped_decision_count, found.config_fingerprint) == (2, 3, "fingerprint")


def test_an_uncaught_exception_keeps_its_secret(admin: AdminServiceStub, engine: FakeEngine) -> None:
    engine.errors = [KeyError("hunter2")]
    found = failure(admin.GetServerInfo, pb.GetServerInfoRequest())
    assert found.reason == "INTERNAL"
    assert "hunter2" not in found.message
