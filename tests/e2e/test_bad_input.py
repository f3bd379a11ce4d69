"""The table of bad input: over a real socket, against the real engine on a real disk.

Each row has the right code and reason and names its field; afterwards nothing is lost and the server still serves.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from banditroute.config import load
from banditroute.engine import Engine
from banditroute.log.sqlite import SqliteLog
from banditroute.server import Server, ServerSettings
from banditroute.tokens import TokenSigner
from banditroute.v1 import router_pb2 as pb
from banditroute.v1 import router_pb2_grpc
from banditroute.wiring import new_key, open_engine

CONFIG: dict[str, Any] = {
    "feedback_window_s": 3600.0,
    "models": {
        "big": {"input_usd_per_mtok": 5.0, "output_usd_per_mtok": 10.0, "context_token_limit": 2000, "tags": ["us"]},
        "small": {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.2},
        "old": {"input_usd_per_mtok": 1.0},
    },
    "categories": {
        "chat": {"models": ["big", "small"], "features": {"size": {"mean": 1.0, "stddev": 2.0}}},
        "gone": {"models": ["small", "old"]},
    },
}
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION, EXHAUSTED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED


class Clock:
    now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


class World(NamedTuple):
    engine: Engine
    clock: Clock
    stub: Any

    def route(self, category: str = "chat", **fields: Any) -> pb.RouteResponse:
        response: pb.RouteResponse = self.stub.Route(pb.RouteRequest(category=category, **fields), timeout=30)
        return response

    def feedback(self, decision_id: str, *signals: pb.Signal, **fields: Any) -> pb.FeedbackResponse:
        request = pb.FeedbackRequest(decision_id=decision_id, signals=signals or [pb.Signal(eval_score=0.5)], **fields)
        response: pb.FeedbackResponse = self.stub.Feedback(request, timeout=30)
        return response

    def reload(self, change: Callable[[dict[str, Any]], object]) -> None:
        config = copy.deepcopy(CONFIG)
        change(config)
        self.engine.reload(load(config).shared)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock = Clock()
    engine = open_engine(load(CONFIG | {"store": f"sqlite:///{tmp_path}"}), clock=clock, threaded=True)
    server = Server(engine, listen="127.0.0.1:0", settings=ServerSettings(drain_s=0.0, grace_s=1.0))
    server.start()
    assert engine.wait_ready(30.0)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield World(engine, clock, router_pb2_grpc.RouterServiceStub(channel))
    server.stop()


def status_of(error: Any) -> Any:
    """The google.rpc.Status that an error carries."""
    status = rpc_status.from_call(error)
    assert status is not None
    return status


def altered(decision_id: str) -> str:
    at = len(decision_id) // 2
    return decision_id[:at] + ("A" if decision_id[at] != "A" else "B") + decision_id[at + 1 :]


def foreign(world: World) -> str:
    token = world.engine.signer.verify(world.route().decision_id)

    return TokenSigner([new_key("k9", random.Random(9))], world.engine.info().log_id).sign(token)


def expired(world: World) -> str:
    decision_id = world.route().decision_id
    world.clock.now += 3601.0
    return decision_id


SCORE = pb.Signal(eval_score=0.5)
Row = tuple[str, Callable[[World], object], grpc.StatusCode, str, str]
TABLE: list[Row] = [
    ("unknown category", lambda w: w.route("nope"), NOT_FOUND, "UNKNOWN_CATEGORY", ""),
    ("unknown feature", lambda w: w.route(features={"colour": 1.0}), INVALID, "INVALID_FIELDS", "features[colour]"),
    ("NaN feature", lambda w: w.route(features={"size": float("nan")}), INVALID, "INVALID_FIELDS", "features[size]"),
    ("infinite feature", lambda w: w.route(features={"size": float("inf")}), INVALID, "INVALID_FIELDS", "features[size]"),
    ("too many features", lambda w: w.route(features={f"f{i}": 1.0 for i in range(17)}), INVALID, "INVALID_FIELDS", "features"),
    ("negative tokens", lambda w: w.route(input_token_count=-1), INVALID, "INVALID_FIELDS", "input_token_count"),
    ("negative maximal cost", lambda w: w.route(max_cost_usd=-1.0), INVALID, "INVALID_FIELDS", "max_cost_usd"),
    ("no eligible arm: tag", lambda w: w.route(required_tags=["eu"]), PRECONDITION, "NO_ELIGIBLE_MODEL", ""),
    (
        "no eligible arm: context",
        lambda w: w.route(input_token_count=5000, excluded_models=["small"]),
        PRECONDITION,
        "NO_ELIGIBLE_MODEL",
        "",
    ),
    ("no id", lambda w: w.feedback(""), INVALID, "DECISION_ID_MALFORMED", "decision_id"),
    ("id of another kind", lambda w: w.feedback("not an id!"), INVALID, "DECISION_ID_MALFORMED", "decision_id"),
    ("altered id", lambda w: w.feedback(altered(w.route().decision_id)), INVALID, "DECISION_ID_FORGED", "decision_id"),
    ("foreign key", lambda w: w.feedback(foreign(w)), INVALID, "DECISION_ID_FOREIGN", "decision_id"),
    ("expired id", lambda w: w.feedback(expired(w)), PRECONDITION, "FEEDBACK_WINDOW_OVER", ""),
    (
        "rating outside its range",
        lambda w: w.feedback(w.route().decision_id, pb.Signal(rating=pb.Rating(value=6, min=1, max=5))),
        INVALID,
        "INVALID_FIELDS",
        "signals[0].rating.value",
    ),
    (
        "score outside its range",
        lambda w: w.feedback(w.route().decision_id, pb.Signal(eval_score=1.5)),
        INVALID,
        "INVALID_FIELDS",
        "signals[0].eval_score",
    ),
    (
        "weight 0",
        lambda w: w.feedback(w.route().decision_id, pb.Signal(eval_score=0.5, weight=0.0)),
        INVALID,
        "INVALID_FIELDS",
        "signals[0].weight",
    ),
    (
        "negative weight",
        lambda w: w.feedback(w.route().decision_id, pb.Signal(eval_score=0.5, weight=-1.0)),
        INVALID,
        "INVALID_FIELDS",
        "signals[0].weight",
    ),
    (
        "negative cost",
        lambda w: w.feedback(w.route().decision_id, attempts=[pb.Attempt(usage=pb.Usage(cost_usd=-1.0))]),
        INVALID,
        "INVALID_FIELDS",
        "attempts[0].usage.cost_usd",
    ),
    (
        "a model that the category never had",
        lambda w: w.feedback(w.route().decision_id, pb.Signal(eval_score=0.5, model="old")),
        INVALID,
        "INVALID_FIELDS",
        "signals[0].model",
    ),
    (
        "101 in a batch",
        lambda w: w.stub.BatchRoute(pb.BatchRouteRequest(requests=[pb.RouteRequest(category="chat")] * 101), timeout=30),
        INVALID,
        "INVALID_FIELDS",
        "requests",
    ),
]


@pytest.mark.parametrize(("call", "code", "reason", "field"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input(world: World, call: Callable[[World], object], code: grpc.StatusCode, reason: str, field: str) -> None:
    known = world.route().decision_id
    with pytest.raises(grpc.RpcError) as caught:
        call(world)
    status = status_of(caught.value)
    assert status.code == code.value[0]
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("banditroute", reason)
    for detail in status.details:
        detail.Unpack(request)
    fields = [violation.field for violation in request.field_violations]
    assert fields[:1] == ([field] if field else [])
    assert len(fields) <= 1 or field == "features"  # too many features: each unknown one is named too
    if reason != "FEEDBACK_WINDOW_OVER":  # there the clock went on
        assert world.feedback(known).disposition == pb.DISPOSITION_APPLIED  # nothing is lost, and it still serves
    assert world.route().model


def test_a_message_of_ten_megabytes(world: World) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        world.route(request_key="x" * 10_000_000)
    assert caught.value.code() is EXHAUSTED  # by gRPC itself, before any code of ours
    assert world.route().model


def test_all_violations_at_once(world: World) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        world.route(
            features={"size": float("nan"), "colour": 1.0}, input_token_count=-1, max_cost_usd=-1.0, request_key="k" * 200
        )
    status = status_of(caught.value)
    request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(request) for detail in status.details)
    assert sorted(v.field for v in request.field_violations) == [
        "features[colour]",
        "features[size]",
        "input_token_count",
        "max_cost_usd",
        "request_key",
    ]


def test_feedback_after_its_model_its_category_or_its_features_went(world: World) -> None:
    gone = world.route("gone", allowed_models=["old"]).decision_id
    model = world.route(allowed_models=["big"]).decision_id
    schema = world.route(allowed_models=["small"], features={"size": 3.0}).decision_id

    def change(config: dict[str, Any]) -> None:
        del config["categories"]["gone"]
        config["categories"]["chat"]["models"] = ["small"]
        config["categories"]["chat"]["features"] = {"depth": {"mean": 0.0, "stddev": 1.0}, "size": {"mean": 0.0, "stddev": 1.0}}

    world.reload(change)
    recorded = world.feedback(gone)
    assert recorded.disposition == pb.DISPOSITION_RECORDED
    assert world.feedback(model).disposition == pb.DISPOSITION_RECORDED
    assert world.feedback(model).disposition == pb.DISPOSITION_DUPLICATE  # durable: it is known
    applied = world.feedback(schema)
    assert applied.disposition == pb.DISPOSITION_APPLIED
    world.route(min_state_position=applied.state_position)
    cell = world.engine.snapshot.state.categories["chat"].cells["small"]
    # z = (1, depth, size): its raw size, 3, under the new standardisation.
    assert cell.information[2] / cell.information[0] == pytest.approx(3.0)
    assert world.engine.info().skipped_event_count == 0


def test_a_full_disk_and_room_again(world: World) -> None:
    log = world.engine._log
    assert isinstance(log, SqliteLog)
    log._writer.execute("PRAGMA max_page_count = 1")
    refused = None
    while refused is None:
        decision_id = world.route().decision_id
        try:
            world.feedback(decision_id)
        except grpc.RpcError as error:
            status = status_of(error)
            assert status.code == grpc.StatusCode.UNAVAILABLE.value[0]
            retry = error_details_pb2.RetryInfo()
            assert any(detail.Unpack(retry) for detail in status.details)
            refused = decision_id
    assert world.route().model  # routing goes on
    log._writer.execute("PRAGMA max_page_count = 1000000")
    assert world.feedback(refused).disposition == pb.DISPOSITION_APPLIED


def test_a_batch_fails_item_by_item(world: World) -> None:
    known = world.route().decision_id
    requests = [pb.FeedbackRequest(decision_id=i, signals=[SCORE]) for i in (known, "nonsense", known)]
    results = world.stub.BatchFeedback(pb.BatchFeedbackRequest(requests=requests), timeout=30).results
    assert results[0].response.disposition == pb.DISPOSITION_APPLIED
    assert results[1].status.code == INVALID.value[0]
    assert results[2].response.disposition == pb.DISPOSITION_DUPLICATE
