"""The library as its users meet it, on a store in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from routers import PRICES, Clock, config, shares, state_of

from banditroute import Router
from banditroute.core.errors import (
    InvalidRequest,
    NoEligibleModel,
    StoreClosed,
    UnknownCategory,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(clock: Clock) -> Iterator[Router]:
    with Router.from_config(
        config(features={"length": {"mean": 6.0, "stddev": 2.0}}), store="memory:", clock=clock, seed=1
    ) as made:
        yield made


# --- route: what it answers ---


def test_a_decision_says_what_was_chosen_and_why(router: Router, clock: Clock) -> None:
    decision = router.route("chat", features={"length": 7.0}, input_tokens=900)
    assert decision.model in PRICES
    assert {decision.model, *decision.fallback_models} == set(PRICES)
    assert math.fsum(candidate.propensity for candidate in decision.candidates) == pytest.approx(1.0, abs=1e-12)
    assert decision.propensity == next(c.propensity for c in decision.candidates if c.model == decision.model)
    assert decision.expire_time == pytest.approx(clock.now + 7 * 86400)
    token = router.engine.signer.verify(decision.id)
    assert (token.category, token.model, token.propensity) == ("chat", decision.model, decision.propensity)
    assert (token.context, token.input_tokens, token.time_ms) == ((7.0,), 900, int(clock.now * 1000))


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({"features": {"colour": 1.0}}, ["features[colour]"]),
        ({"features": {"length": math.nan}}, ["features[length]"]),
        ({"features": {"length": math.inf}}, ["features[length]"]),
        ({"features": {"length": 1.1e9}}, ["features[length]"]),
        ({"features": {"length": -math.inf, "colour": 0.0}}, ["features[length]", "features[colour]"]),
        ({"features": {f"f{i}": 0.0 for i in range(17)}}, ["features", *[f"features[f{i}]" for i in range(17)]]),
        ({"input_tokens": -1}, ["input_token_count"]),
        ({"output_tokens": 10**9 + 1}, ["output_token_count"]),
        ({"max_cost_usd": -0.1}, ["max_cost_usd"]),
        ({"max_cost_usd": math.nan}, ["max_cost_usd"]),
        ({"request_key": "x" * 129}, ["request_key"]),
        ({"labels": {"a": "x" * 65}}, ["labels[a]"]),
        ({"labels": {str(i): "" for i in range(17)}}, ["labels"]),
        ({"allowed_models": ["x"] * 257, "excluded_models": ["x"] * 257}, ["allowed_models", "excluded_models"]),
        ({"input_tokens": -1, "output_tokens": -1, "max_cost_usd": -1},
         ["input_token_count", "output_token_count", "max_cost_usd"]),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_with_every_field(router: Router, arguments: dict[str, Any], fields: list[str]) -> None:
    before = state_of(router)
    with pytest.raises(InvalidRequest) as caught:
        router.route("chat", **arguments)
    assert [violation.field for violation in caught.value.violations] == fields
    assert state_of(router) == before
    assert router.route("chat").model in PRICES


def test_an_unknown_category_is_named_with_those_that_exist(router: Router) -> None:
    with pytest.raises(UnknownCategory, match="'talk'; configured: chat"):
        router.route("talk")
    with pytest.raises(UnknownCategory):
        router.category("talk")


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        ({"allowed_models": ["gone"]}, {"big": "NOT_ALLOWED", "small": "NOT_ALLOWED", "tiny": "NOT_ALLOWED"}),
        ({"excluded_models": list(PRICES)}, {"big": "EXCLUDED", "small": "EXCLUDED", "tiny": "EXCLUDED"}),
        ({"required_tags": ["eu", "us"]}, {"big": "TAG_MISSING", "small": "TAG_MISSING", "tiny": "TAG_MISSING"}),
        ({"max_cost_usd": 0.0}, {"big": "COST_TOO_HIGH", "small": "COST_TOO_HIGH", "tiny": "COST_TOO_HIGH"}),
        (
            {"input_tokens": 4900, "output_tokens": 101},
            {"big": "CONTEXT_TOO_LONG", "small": "CONTEXT_TOO_LONG", "tiny": "CONTEXT_TOO_LONG"},
        ),
        (
            {"allowed_models": ["big", "tiny"], "excluded_models": ["tiny"], "max_cost_usd": 1e-6},
            {"big": "COST_TOO_HIGH", "small": "NOT_ALLOWED", "tiny": "EXCLUDED"},
        ),
    ],
)
def test_where_no_model_may_serve_each_reason_is_named(
    router: Router, arguments: dict[str, Any], reasons: dict[str, str]
) -> None:
    with pytest.raises(NoEligibleModel) as caught:
        router.route("chat", **arguments)
    assert caught.value.exclusions == reasons


def test_constraints_leave_those_that_may_serve(router: Router) -> None:
    assert router.route("chat", required_tags=["eu"]).model == "tiny"
    assert router.route("chat", excluded_models=["big", "small"]).fallback_models == ()
    decision = router.route("chat", max_cost_usd=0.0002, input_tokens=100, output_tokens=10)
    assert {decision.model, *decision.fallback_models} == {"small", "tiny"}


def test_a_request_key_repeats_the_draw(router: Router) -> None:
    drawn = {key: router.route("chat", request_key=key).model for key in map(str, range(50))}
    assert len(set(drawn.values())) > 1
    for key, model in drawn.items():
        decision = router.route("chat", request_key=key)
        assert decision.model == model
        assert decision.id != router.route("chat", request_key=key).id


# --- weights and prices act on the very next route ---


def test_set_weights_changes_the_very_next_route(router: Router) -> None:
    before = shares(router)
    report = router.set_weights("chat", cost_weight=3.0, reason="too dear")
    after = {candidate.model: candidate.propensity for candidate in router.route("chat").candidates}
    assert (report.cost_weight, report.overridden_fields) == (3.0, ("cost_weight",))
    assert after["tiny"] > before["tiny"] + 0.2
    assert after["big"] < before["big"] - 0.1


def test_an_operators_weight_lies_above_the_file_until_cleared(router: Router) -> None:
    router.set_weights("chat", cost_weight=3.0, reason="too dear")
    router.reload(config(cost_weight=0.5))
    assert router.category("chat").cost_weight == 3.0
    report, position = router.engine.set_weights("chat", {"cost_weight": None}, reason="over", actor="ann")
    assert (report.cost_weight, report.overridden_fields) == (0.5, ())
    row = router.engine.journal(limit=1)[0]
    assert (row.position, row.kind, row.body["reason"], row.body["actor"]) == (position, "operator", "over", "ann")
    assert row.body["previous"] == {"cost_weight": 3.0}


def test_doubling_prices_shifts_the_next_route(router: Router) -> None:
    before = {c.model: (c.propensity, c.expected_cost_usd) for c in router.route("chat").candidates}
    reference = router.category("chat").cost_reference_usd
    router.reload(config(prices=2.0, features={"length": {"mean": 6.0, "stddev": 2.0}}))
    after = {c.model: (c.propensity, c.expected_cost_usd) for c in router.route("chat").candidates}
    assert router.category("chat").cost_reference_usd == reference
    assert after["big"][0] < before["big"][0] - 0.01
    assert after["tiny"][0] > before["tiny"][0] + 0.01
    for model, (_, cost) in after.items():
        assert cost == pytest.approx(2.0 * before[model][1])


# --- reproducible, and over when it is over ---


def play(router: Router, clock: Clock) -> list[tuple[str, str, float]]:
    seen = []
    for i in range(60):
        clock.now += 1.5
        decision = router.route("chat", features={"length": float(i % 7)}, request_key=str(i) if i % 3 == 0 else "")
        router.feedback(decision.id, eval_score=0.3 + 0.1 * (i % 5), cost_usd=0.001 * i)
        seen.append((decision.id, decision.model, decision.propensity))
    return seen


def test_the_same_seed_clock_and_inputs_give_the_same_decisions_and_ids() -> None:
    runs = []
    for seed in (7, 7, 8):
        clock = Clock()
        source = config(features={"length": {"mean": 3.0, "stddev": 2.0}})
        with Router.from_config(source, store="memory:", clock=clock, seed=seed) as router:
            runs.append((play(router, clock), state_of(router)))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_after_close_feedback_is_refused(router: Router) -> None:
    decision = router.route("chat")
    router.close()
    router.close()
    with pytest.raises(StoreClosed):
        router.feedback(decision.id, eval_score=0.5)
