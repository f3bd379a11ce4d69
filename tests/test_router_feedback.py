"""Feedback through the library, on a store in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from routers import APPLIED, CORRECTED, DUPLICATE, RECORDED, STALE, Clock, arm_of, config, state_of

from banditroute import Router
from banditroute.core.errors import (
    ConfigError,
    FeedbackWindowOver,
    ForeignDecisionId,
    ForgedDecisionId,
    InvalidRequest,
    MalformedDecisionId,
    UnknownCategory,
)
from banditroute.core.types import Decision, ErrorKind


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(clock: Clock) -> Iterator[Router]:
    with Router.from_config(
        config(features={"length": {"mean": 6.0, "stddev": 2.0}}), store="memory:", clock=clock, seed=1
    ) as made:
        yield made


# --- feedback: what it refuses ---


@pytest.fixture
def decision(router: Router) -> Decision:
    return router.route("chat", allowed_models=["small"])


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({}, ["signals"]),
        ({"rating": (6, 1, 5)}, ["signals[0].rating.value"]),
        ({"rating": (0.9, 1, 5)}, ["signals[0].rating.value"]),
        ({"rating": (1, 1, 1)}, ["signals[0].rating.max"]),
        ({"rating": (1, 5, 1)}, ["signals[0].rating.max"]),
        ({"rating": (math.nan, 1, 5)}, ["signals[0].rating.value"]),
        ({"rating": (1, math.nan, 5)}, ["signals[0].rating.max"]),
        ({"rating": (math.inf, 0, math.inf)}, ["signals[0].rating"]),
        ({"rating": (0, -math.inf, math.inf)}, ["signals[0].rating"]),
        ({"eval_score": 1.01}, ["signals[0].eval_score"]),
        ({"eval_score": -0.01}, ["signals[0].eval_score"]),
        ({"eval_score": math.nan}, ["signals[0].eval_score"]),
        ({"eval_score": 0.5, "weight": 0.0}, ["signals[0].weight"]),
        ({"eval_score": 0.5, "weight": -1.0}, ["signals[0].weight"]),
        ({"eval_score": 0.5, "weight": 10.1}, ["signals[0].weight"]),
        ({"eval_score": 0.5, "weight": math.nan}, ["signals[0].weight"]),
        ({"eval_score": 0.5, "source": "x" * 65}, ["signals[0].source"]),
        ({"eval_score": 0.5, "source": "a\x1fb"}, ["signals[0].source"]),
        ({"eval_score": 0.5, "model": "huge"}, ["signals[0].model"]),
        ({"cost_usd": 0.5, "model": "huge"}, ["attempts[0].model"]),
        ({"cost_usd": -0.001}, ["attempts[0].usage.cost_usd"]),
        ({"cost_usd": math.inf}, ["attempts[0].usage.cost_usd"]),
        ({"latency_s": -1.0}, ["attempts[0].usage.latency"]),
        ({"time_to_first_token_s": math.nan}, ["attempts[0].usage.time_to_first_token"]),
        ({"input_tokens": 10**9 + 1}, ["attempts[0].usage.input_token_count"]),
        ({"output_tokens": -1}, ["attempts[0].usage.output_token_count"]),
        ({"input_tokens": 5, "cached_input_tokens": 6}, ["attempts[0].usage.cached_input_token_count"]),
        ({"error": "tired"}, ["attempts[0].error_kind"]),
        ({"eval_score": 0.5, "observe_time": math.nan}, ["observe_time"]),
        ({"eval_score": 0.5, "observe_time": -1.0}, ["observe_time"]),
        ({"eval_score": 2.0, "weight": 0.0, "cost_usd": -1.0, "observe_time": -1.0},
         ["observe_time", "signals[0].eval_score", "signals[0].weight", "attempts[0].usage.cost_usd"]),
    ],
)  # fmt: skip
def test_wrong_feedback_is_refused_with_every_field_and_keeps_nothing(
    router: Router, decision: Decision, arguments: dict[str, Any], fields: list[str]
) -> None:
    before = state_of(router)
    with pytest.raises(InvalidRequest) as caught:
        router.feedback(decision.id, **arguments)
    assert [violation.field for violation in caught.value.violations] == fields
    assert state_of(router) == before
    assert router.feedback(decision.id, eval_score=0.5).disposition is APPLIED


def test_ids_that_are_not_ours_are_told_apart(router: Router, decision: Decision, clock: Clock) -> None:
    before = state_of(router)
    altered = decision.id[:60] + ("A" if decision.id[60] != "A" else "B") + decision.id[61:]
    for decision_id, error in (("", MalformedDecisionId), ("so not an id", MalformedDecisionId), (altered, ForgedDecisionId)):
        with pytest.raises(error):
            router.feedback(decision_id, eval_score=0.5)
    with Router.from_config(config(), store="memory:", clock=clock, seed=2) as other:
        with pytest.raises(ForeignDecisionId):
            other.feedback(decision.id, eval_score=0.5)
        with pytest.raises(ForeignDecisionId):
            router.feedback(other.route("chat").id, eval_score=0.5)
    assert state_of(router) == before


def test_an_old_decision_takes_no_feedback(router: Router, decision: Decision, clock: Clock) -> None:
    clock.now = decision.expire_time
    assert router.feedback(decision.id, eval_score=0.5).disposition is APPLIED
    clock.now += 0.01
    with pytest.raises(FeedbackWindowOver, match="7 days"):
        router.feedback(decision.id, eval_score=0.6)


# --- feedback: what it does ---


def test_feedback_is_learned_when_it_returns(router: Router, decision: Decision) -> None:
    receipt = router.feedback(decision.id, eval_score=1.0, cost_usd=0.01, input_tokens=500, output_tokens=100, latency_s=2.0)
    assert (receipt.disposition, *receipt.signal_dispositions, *receipt.attempt_dispositions) == (APPLIED,) * 3
    assert receipt.state_position == router.engine.info().state_position
    assert arm_of(router, "small").quality_mean > arm_of(router, "big").quality_mean
    assert arm_of(router, "small").feedback_count == 1
    assert router.route("chat").state_position == receipt.state_position


@pytest.mark.parametrize(
    ("arguments", "reward"),
    [
        ({"rating": (4, 1, 5)}, 0.75),
        ({"rating": (-1, -1, 1)}, 0.0),
        ({"eval_score": 0.25}, 0.25),
        ({"accepted": True}, 1.0),
        ({"accepted": False}, 0.0),
        ({"retried": True}, 0.0),
        ({"retried": False}, 1.0),
        ({"eval_score": 0.8, "accepted": False, "retried": True}, 0.4),
    ],
)
def test_signals_mean_what_they_say(router: Router, decision: Decision, arguments: dict[str, Any], reward: float) -> None:
    router.feedback(decision.id, **arguments)
    cell = router.engine.snapshot.state.categories["chat"].cells["small"]
    assert cell.moment[0] / cell.information[0] == pytest.approx(reward)


def test_the_same_again_changes_nothing(router: Router, decision: Decision) -> None:
    router.feedback(decision.id, eval_score=0.9, source="judge", cost_usd=0.01, error=ErrorKind.TIMEOUT)
    before = state_of(router)
    for _ in range(3):
        receipt = router.feedback(decision.id, eval_score=0.9, source="judge", cost_usd=0.01, error="timeout")
        assert receipt.disposition is DUPLICATE
    assert state_of(router) == before


def test_a_correction_leaves_what_the_right_value_would_have_made(clock: Clock) -> None:
    made = []
    for values in ([0.2, 0.9], [0.9]):
        with Router.from_config(config(), store="memory:", clock=clock, seed=1) as router:
            decision = router.route("chat", allowed_models=["small"])
            for value in values:
                router.feedback(decision.id, eval_score=value, cost_usd=value)
            made.append(arm_of(router, "small"))
    assert made[0].quality_mean == pytest.approx(made[1].quality_mean, rel=1e-12)
    assert made[0].expected_cost_usd == pytest.approx(made[1].expected_cost_usd, rel=1e-12)
    assert made[0].feedback_count == made[1].feedback_count == 1


def test_observe_time_decides_which_value_is_newer(router: Router, decision: Decision, clock: Clock) -> None:
    assert router.feedback(decision.id, eval_score=0.5, observe_time=clock.now - 10).disposition is APPLIED
    before = state_of(router)
    assert router.feedback(decision.id, eval_score=0.1, observe_time=clock.now - 20).disposition is STALE
    assert state_of(router) == before
    receipt = router.feedback(decision.id, eval_score=0.1, observe_time=clock.now - 5)
    assert receipt.signal_dispositions == (CORRECTED,)


def test_evidence_on_a_fallback_or_shadow_lands_on_the_model_it_names(router: Router, decision: Decision) -> None:
    router.feedback(decision.id, error="unavailable")
    router.feedback(decision.id, model="big", eval_score=0.9, cost_usd=0.5)
    router.feedback(decision.id, model="tiny", shadow=True, eval_score=0.1, cost_usd=0.001)
    counts = {arm.model: (arm.feedback_count, arm.off_policy_count, arm.error_count) for arm in router.category("chat").arms}
    assert counts == {"big": (1, 1, 0), "small": (0, 0, 1), "tiny": (1, 1, 0)}
    router.feedback(decision.id, eval_score=0.5)
    assert (arm_of(router, "small").feedback_count, arm_of(router, "small").off_policy_count) == (1, 0)
    assert arm_of(router, "big").quality_mean > arm_of(router, "tiny").quality_mean


def test_a_shadow_call_is_an_attempt_even_if_nothing_is_known_of_it(router: Router, decision: Decision) -> None:
    receipt = router.feedback(decision.id, model="tiny", shadow=True, eval_score=0.1)
    assert (receipt.signal_dispositions, receipt.attempt_dispositions) == ((APPLIED,), (APPLIED,))


# --- a configuration that changes between decision and feedback ---


def test_feedback_for_a_removed_model_is_recorded(router: Router, decision: Decision) -> None:
    router.reload(config("big", "tiny"))
    receipt = router.feedback(decision.id, eval_score=0.5, cost_usd=0.01)
    assert (receipt.disposition, *receipt.signal_dispositions, *receipt.attempt_dispositions) == (RECORDED,) * 3
    state = router.engine.snapshot.state
    assert (state.position, state.recorded_count, state.skipped_count) == (receipt.state_position, 1, 0)
    assert router.feedback(decision.id, eval_score=0.5).disposition is DUPLICATE
    mixed = router.feedback(decision.id, model="big", eval_score=0.7)
    assert mixed.disposition is APPLIED
    assert arm_of(router, "big").off_policy_count == 1


def test_signals_of_a_change_that_is_over_are_recorded_and_what_was_spent_is_learned(router: Router) -> None:
    def served(count: int, score: float) -> None:
        for _ in range(count):
            router.feedback(router.route("chat", allowed_models=["small"]).id, eval_score=score)

    served(250, 0.9)
    while not router.engine.snapshot.state.shifts:
        served(1, 0.1)
    late = router.route("chat", allowed_models=["small"])
    router.reset("small", reason="it is mended")
    assert router.engine.snapshot.state.past
    before = arm_of(router, "small")
    receipt = router.feedback(late.id, eval_score=0.1, cost_usd=0.01)
    assert (receipt.disposition, *receipt.signal_dispositions, *receipt.attempt_dispositions) == (APPLIED, RECORDED, APPLIED)
    assert arm_of(router, "small").quality_mean == before.quality_mean
    fresh = router.route("chat", allowed_models=["small"])
    assert router.feedback(fresh.id, eval_score=0.1).signal_dispositions == (APPLIED,)


def test_feedback_for_a_removed_category_is_recorded(router: Router, decision: Decision) -> None:
    other = config()
    other["categories"] = {"talk": other["categories"]["chat"]}
    router.reload(other)
    assert router.feedback(decision.id, eval_score=0.5).disposition is RECORDED
    assert router.engine.snapshot.state.recorded_count == 1
    with pytest.raises(UnknownCategory):
        router.route("chat")
    with pytest.raises(InvalidRequest, match=r"signals\[0\]\.model"):
        router.feedback(decision.id, model="huge", eval_score=0.5)


def test_what_was_learned_returns_with_the_model(router: Router, decision: Decision) -> None:
    features = {"length": {"mean": 6.0, "stddev": 2.0}}
    router.feedback(decision.id, eval_score=1.0)
    router.reload(config(features=features, cost_weight=0.3))  # refits by what was just said
    router.reload(config(features=features))
    before = arm_of(router, "small")
    router.reload(config("big", "tiny", features=features))
    assert [arm.model for arm in router.category("chat").arms] == ["big", "tiny"]
    router.reload(config(features=features))
    assert arm_of(router, "small") == before


def test_features_are_mapped_by_name_when_the_schema_changes(clock: Clock) -> None:
    """A decision made under (length, words) teaches (age, length) what it knows of length."""
    old = {"length": {"mean": 6.0, "stddev": 2.0}, "words": {}}
    new = {"age": {"mean": 30.0, "stddev": 10.0}, "length": {"mean": 5.0, "stddev": 4.0}}
    with Router.from_config(config(features=old), store="memory:", clock=clock, seed=1) as router:
        decision = router.route("chat", allowed_models=["small"], features={"length": 9.0, "words": 3.0})
        router.reload(config(features=new))
        assert router.feedback(decision.id, eval_score=0.5).disposition is APPLIED
        cell = router.engine.snapshot.state.categories["chat"].cells["small"]
        z = (1.0, 0.0, (9.0 - 5.0) / 4.0)  # intercept, age at its mean, length
        weight = 2.0 ** (1 / 2000)  # forward decay: the first feedback, relative to none
        assert cell.information == pytest.approx([weight * a * b for i, a in enumerate(z) for b in z[i:]])
        assert cell.moment == pytest.approx([weight * 0.5 * value for value in z])


def test_a_bad_configuration_is_refused_and_the_old_one_stays(router: Router) -> None:
    before = state_of(router)
    for bad in (config("huge"), config(cost_weight=-1), {}):
        with pytest.raises(ConfigError):
            router.reload(bad)
    assert state_of(router) == before
    router.reload(config(features={"length": {"mean": 6.0, "stddev": 2.0}}))  # the same again is no event
    assert state_of(router) == before
