"""The pure part of explain, on decisions made up by hand."""

from __future__ import annotations

import pytest

from banditroute.core.types import Candidate, Exclusion, Reason
from banditroute.explain import assemble
from banditroute.log.sink_codec import KeptDecision
from banditroute.tokens import DecisionToken, uuid7

TOKEN = DecisionToken(
    decision=uuid7(1_700_000_000_000, 5),
    category="sums",
    model="b",
    propensity=0.25,
    expected_quality=0.7,
    expected_cost_usd=0.002,
    computed_cost_usd=0.002,
    input_tokens=None,
    state_position=7,
    schema=b"\0" * 8,
    context=(1.5, -2.0),
)


def candidate(model: str, utility: float, *, exclusion: Exclusion | None = None, cost: float = 0.002) -> Candidate:
    return Candidate(model, exclusion, utility + 0.1, 0.05, cost, utility, 0.25)


def row(reason: Reason, *candidates: Candidate) -> KeptDecision:
    chosen = next(each for each in candidates if each.model == "b")
    return KeptDecision(TOKEN.decision.hex(), TOKEN.time_ms, reason, {}, candidates, TOKEN.category, chosen)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (Reason.BEST, "had the highest expected utility (0.600 against 0.400 of a)"),
        (Reason.EXPLORATION, "drawn to learn, with probability 25 %: a looked better (0.800 against 0.600), but not surely."),
        (Reason.FLOOR, "drawn at the floor of 25 %"),
        (Reason.PROBE, "b was asked to see whether it has recovered, with probability 25 % (0.600 against 0.800 of a)."),
    ],
)
def test_each_reason_in_words(reason: Reason, told: str) -> None:
    better = reason is Reason.BEST
    seen = row(reason, candidate("a", 0.4 if better else 0.8), candidate("b", 0.6), candidate("c", 0.1))
    assert told in assemble(TOKEN, seen, None, features=None).why


def test_options_are_ranked_and_compared() -> None:
    seen = row(
        Reason.BEST,
        candidate("a", 0.4, cost=0.004),
        candidate("b", 0.6),
        candidate("c", 0.9, exclusion=Exclusion.CONTEXT_TOO_LONG),
    )
    told = assemble(TOKEN, seen, None, features=("size", "depth"))
    assert [option.model for option in told.options] == ["b", "a", "c"]
    assert [option.verdict for option in told.options] == ["chosen", "worth less", "could not serve: cannot take so many tokens"]
    assert told.options[1].comparison == "quality -0.200, 2 × the cost"
    assert told.context == {"size": 1.5, "depth": -2.0}
    assert told.sources == ("id", "sink")


@pytest.mark.parametrize("exclusion", Exclusion)
def test_every_exclusion_has_words(exclusion: Exclusion) -> None:
    seen = row(Reason.ONLY_ELIGIBLE, candidate("b", 0.6), candidate("a", 0.9, exclusion=exclusion))
    told = assemble(TOKEN, seen, None, features=None)
    assert told.why == "b was the only model that could serve this request."
    assert told.options[1].verdict.startswith("could not serve: ")


def test_free_models_are_compared_without_a_ratio() -> None:
    told = assemble(TOKEN, row(Reason.BEST, candidate("b", 0.6, cost=0.0), candidate("a", 0.5)), None, features=None)
    assert told.options[1].comparison == "quality -0.100"


def test_feedback_and_an_unknown_schema() -> None:
    record = {
        "signals": {"b\x1frating\x1fuser": [0.75, 1.0, 1_700_000_001_000_000]},
        "attempts": {"b\x1f": {"error": 1, "latency_s": 2.0, "observe_us": 1}, "a\x1fshadow": {"error": 0, "observe_us": 2}},
    }
    told = assemble(TOKEN, None, record, features=("size",))
    assert told.context == {"feature 1": 1.5, "feature 2": -2.0}
    assert told.signals[0][:5] == ("b", "rating", "user", 0.75, 1.0)
    assert [(call.model, call.shadow, call.error, dict(call.usage)) for call in told.attempts] == [
        ("a", True, "none", {}),
        ("b", False, "timeout", {"latency_s": 2.0}),
    ]
    assert told.sources == ("id", "log")
    assert told.to_json()["attempts"][1]["usage"] == {"latency_s": 2.0}
