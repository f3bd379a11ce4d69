from __future__ import annotations

import math
from typing import Any

import pytest
from core_logs import category_entry, document

from banditroute.core.settings import parse_shared
from banditroute.core.types import Attempt, FeedbackReport, RouteQuery, Signal, SignalKind
from banditroute.core.validate import (
    MAX_ATTEMPTS,
    MAX_LABELS,
    MAX_LISTED_NAMES,
    MAX_SIGNALS,
    check_query,
    check_report,
)

SETTINGS = parse_shared(document({"chat": category_entry(features={"size": {"mean": 0.0, "stddev": 1.0}})})).categories["chat"]
MANY = tuple(f"m{i}" for i in range(MAX_LISTED_NAMES + 1))


def query_fields(**fields: Any) -> list[str]:
    return [violation.field for violation in check_query(RouteQuery("chat", **fields), SETTINGS)]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"features": {"colour": 1.0}}, "features[colour]"),
        ({"features": {"size": math.nan}}, "features[size]"),
        ({"features": {"size": math.inf}}, "features[size]"),
        ({"features": {"size": -1.1e9}}, "features[size]"),
        ({"input_tokens": -1}, "input_token_count"),
        ({"output_tokens": 10**9 + 1}, "output_token_count"),
        ({"max_cost_usd": -0.01}, "max_cost_usd"),
        ({"max_cost_usd": math.nan}, "max_cost_usd"),
        ({"max_cost_usd": math.inf}, "max_cost_usd"),
        ({"allowed_models": MANY}, "allowed_models"),
        ({"excluded_models": MANY}, "excluded_models"),
        ({"required_tags": MANY}, "required_tags"),
        ({"request_key": "k" * 129}, "request_key"),
        ({"labels": {f"l{i}": "" for i in range(MAX_LABELS + 1)}}, "labels"),
        ({"labels": {"l" * 65: ""}}, f"labels[{'l' * 64}]"),
        ({"labels": {"team": "t" * 65}}, "labels[team]"),
    ],
)
def test_each_violation_of_a_query(fields: dict[str, Any], where: str) -> None:
    assert query_fields(**fields) == [where]


def test_too_many_features_are_said_once_and_each_unknown_one_is_named() -> None:
    found = query_fields(features={f"f{i:02}": 1.0 for i in range(17)})
    assert found == ["features", *[f"features[f{i:02}]" for i in range(17)]]
    assert len(query_fields(features={f"f{i}": 1.0 for i in range(10_000)})) <= 33


def test_a_good_query_and_all_violations_at_once() -> None:
    assert query_fields() == []
    good = {"features": {"size": 1e9}, "input_tokens": 0, "output_tokens": 10**9, "max_cost_usd": 0.0, "request_key": "k" * 128}
    assert query_fields(**good, labels={"a" * 64: "b" * 64}) == []
    bad = {"features": {"colour": 1.0, "size": math.nan}, "input_tokens": -1, "max_cost_usd": -1.0, "request_key": "k" * 129}
    found = query_fields(**bad)
    assert found == ["features[colour]", "features[size]", "input_token_count", "max_cost_usd", "request_key"]


def report_fields(
    *signals: Signal, attempts: tuple[Attempt, ...] = (), observe_time: float | None = None, drawn: str = "ant"
) -> list[str]:
    report = FeedbackReport("id", signals, attempts, observe_time)
    return [violation.field for violation in check_report(report, drawn=drawn, known_models={"ant", "bee"})]


def score(value: float = 0.5, **more: Any) -> Signal:
    return Signal(SignalKind.EVAL_SCORE, value, **more)


@pytest.mark.parametrize(
    ("signal", "where"),
    [
        (score(1.01), "signals[0].eval_score"),
        (score(-0.01), "signals[0].eval_score"),
        (score(math.nan), "signals[0].eval_score"),
        (Signal(SignalKind.RATING, math.inf), "signals[0].rating"),
        (score(weight=0.0), "signals[0].weight"),
        (score(weight=-1.0), "signals[0].weight"),
        (score(weight=10.1), "signals[0].weight"),
        (score(weight=math.nan), "signals[0].weight"),
        (score(source="s" * 65), "signals[0].source"),
        (score(source="a\x1fb"), "signals[0].source"),
        (score(model="cat"), "signals[0].model"),
    ],
)
def test_each_violation_of_a_signal(signal: Signal, where: str) -> None:
    assert report_fields(signal) == [where]


@pytest.mark.parametrize(
    ("attempt", "where"),
    [
        (Attempt(input_tokens=-1), "attempts[0].usage.input_token_count"),
        (Attempt(output_tokens=10**10), "attempts[0].usage.output_token_count"),
        (Attempt(cached_input_tokens=-1), "attempts[0].usage.cached_input_token_count"),
        (Attempt(input_tokens=5, cached_input_tokens=6), "attempts[0].usage.cached_input_token_count"),
        (Attempt(cost_usd=-0.1), "attempts[0].usage.cost_usd"),
        (Attempt(cost_usd=math.nan), "attempts[0].usage.cost_usd"),
        (Attempt(cost_usd=1.1e6), "attempts[0].usage.cost_usd"),
        (Attempt(latency_s=-0.1), "attempts[0].usage.latency"),
        (Attempt(latency_s=math.inf), "attempts[0].usage.latency"),
        (Attempt(time_to_first_token_s=-1.0), "attempts[0].usage.time_to_first_token"),
        (Attempt(model="cat"), "attempts[0].model"),
    ],
)
def test_each_violation_of_an_attempt(attempt: Attempt, where: str) -> None:
    assert report_fields(attempts=(attempt,)) == [where]


@pytest.mark.parametrize("when", [-1.0, math.nan, math.inf, 2.0**33])
def test_the_time_of_a_report(when: float) -> None:
    assert report_fields(score(), observe_time=when) == ["observe_time"]


def test_repeats_counts_and_emptiness() -> None:
    assert report_fields() == ["signals"]
    assert report_fields(score(0.1), score(0.2)) == ["signals[1]"]
    assert report_fields(score(0.1), score(0.2, model="ant")) == ["signals[1]"]
    assert report_fields(score(0.1), score(0.2, source="b"), Signal(SignalKind.RATING, 0.1), score(0.3, model="bee")) == []
    assert report_fields(attempts=(Attempt(), Attempt(model="ant"))) == ["attempts[1]"]
    assert report_fields(attempts=(Attempt(), Attempt(shadow=True), Attempt(model="bee"))) == []
    assert report_fields(*[score(source=str(i)) for i in range(MAX_SIGNALS + 1)]) == ["signals"]
    assert report_fields(attempts=tuple(Attempt(shadow=i > 0, model="bee") for i in range(MAX_ATTEMPTS + 1)))[0] == "attempts"


def test_a_drawn_model_that_was_removed_for_good_still_takes_feedback() -> None:
    assert report_fields(score(model="gone"), drawn="gone") == []


def test_all_violations_of_a_report_at_once() -> None:
    found = report_fields(
        score(2.0, weight=0.0, source="s" * 65, model="cat"),
        score(0.5),
        attempts=(Attempt(cost_usd=-1.0, latency_s=-1.0), Attempt(output_tokens=-1, model="cat")),
        observe_time=-1.0,
    )
    assert found == [
        "observe_time",
        "signals[0].eval_score",
        "signals[0].weight",
        "signals[0].source",
        "signals[0].model",
        "attempts[0].usage.cost_usd",
        "attempts[0].usage.latency",
        "attempts[1].usage.output_token_count",
        "attempts[1].model",
    ]
