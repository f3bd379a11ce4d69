"""What a record says of a decision, by intention to treat."""

from __future__ import annotations

from typing import Any

import pytest

from banditroute.core.types import ErrorKind
from banditroute.lab.ope.reports import Bill, outcome_of


def signal(model: str, value: float, weight: float = 1.0, kind: str = "eval_score") -> dict[str, Any]:
    return {f"{model}\x1f{kind}\x1f": [value, weight, 1]}


def call(model: str, *, error: ErrorKind = ErrorKind.NONE, shadow: bool = False, **usage: float) -> dict[str, Any]:
    return {f"{model}\x1f{'shadow' if shadow else ''}": {"error": int(error), "observe_us": 1, **usage}}


def record(*signals: dict[str, Any], calls: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "signals": {k: v for each in signals for k, v in each.items()},
        "attempts": {k: v for e in calls for k, v in e.items()},
    }


FAILED = call("a", error=ErrorKind.TIMEOUT)


@pytest.mark.parametrize(
    ("told", "quality"),
    [
        (record(signal("a", 0.8)), 0.8),
        (record(signal("a", 0.8), signal("a", 0.2, 0.5, "accepted")), 0.6),  # fused by weight
        (record(calls=(call("a"),)), None),  # served, not judged yet
        (record(), None),
        (record(signal("b", 0.9), calls=(FAILED, call("b"))), 0.9),  # the fallback's answer is the decision's
        (record(signal("a", 0.9), calls=(FAILED, call("b"))), 0.9),  # who names no model means the answer
        (record(calls=(FAILED, call("b"))), None),
        (record(calls=(FAILED,)), 0.0),  # nobody answered
        (record(calls=(FAILED, call("b", error=ErrorKind.RATE_LIMITED))), 0.0),
        (record(signal("b", 0.9), calls=(call("b"),)), 0.9),  # only the fallback's call was reported
        (record(signal("b", 0.1), signal("a", 0.7), calls=(call("a"), call("b", shadow=True))), 0.7),
        (record(signal("b", 0.1), calls=(call("a"), call("b", shadow=True))), None),  # a shadow's answer went to nobody
        (record(calls=(FAILED, call("b", shadow=True))), 0.0),
        (record(signal("a", 0.8, 0.0)), None),  # recorded, not learned
    ],
)
def test_quality_is_that_of_the_answer(told: dict[str, Any], quality: float | None) -> None:
    assert outcome_of("a", told).quality == (None if quality is None else pytest.approx(quality))


def test_every_call_of_the_chain_is_paid() -> None:
    chain = (call("a", error=ErrorKind.TIMEOUT, cost_usd=0.2), call("b", cost_usd=0.5, input_tokens=10, output_tokens=3))
    found = outcome_of("a", record(signal("b", 1.0), calls=(*chain, call("c", shadow=True, cost_usd=9.0))))
    assert found.bills == (Bill("a", 0.2, None, None), Bill("b", 0.5, 10, 3))


def test_a_failed_call_without_a_bill_is_free_and_a_served_one_costs_what_its_tokens_do() -> None:
    assert outcome_of("a", record(calls=(call("a", error=ErrorKind.TIMEOUT, computed_usd=0.3),))).bills[0].usd == 0.0
    assert outcome_of("a", record(calls=(call("a", computed_usd=0.3),))).bills[0].usd == 0.3


def test_a_call_that_nobody_reported_costs_what_was_expected() -> None:
    assert outcome_of("a", record(signal("a", 1.0))).bills == (Bill("a", None, None, None),)
    assert outcome_of("a", record(signal("b", 1.0), calls=(call("b"),))).bills == (Bill("b", None, None, None),)
