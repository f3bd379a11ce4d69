"""When nothing may be concluded, and in which words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ope_logs import adaptive_log, make_logged

from banditroute.core.errors import EvaluationError
from banditroute.lab.ope.estimators import Estimate
from banditroute.lab.ope.evaluation import cost_words, evaluate, fitted, quality_words
from banditroute.lab.ope.logged import Logged
from banditroute.lab.ope.support import Rates, Support, feedback_rates, support_of
from banditroute.lab.source import FloatArray

GOOD = Support(
    decisions=5000,
    effective_sample_size=900.0,
    largest_weight=10.0,
    largest_weight_share=0.01,
    carriers=300.0,
    unsupported_share=0.0,
)


def test_good_support_gives_no_reason() -> None:
    assert GOOD.reasons == ()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"effective_sample_size": 50.0}, "worth 50 of the new policy's own, and 200 are needed: log about 4 times as many"),
        ({"largest_weight_share": 0.2}, "one decision alone carries 20 % of the weight, and 5 % is the most"),
        ({"carriers": 1.4}, "was expected to be drawn 1.4 times, and 20 are needed"),
        ({"unsupported_share": 0.1}, "10 % of the new policy's choices could not happen"),
        (
            {"feedback_rates": Rates({"a": 0.9, "b": 0.5}, 0.4, 0.01, is_uneven=True)},
            "feedback comes for 90 % of a's decisions and 50 % of b's",
        ),
    ],
)
def test_every_reason_says_what_to_do(changed: dict[str, object], told: str) -> None:
    support = GOOD._replace(**changed)  # type: ignore[arg-type]
    (reason,) = support.reasons
    assert told in reason
    assert support.to_json()["reasons"] == [reason]


def test_the_effective_sample_size_is_kishs() -> None:
    logged = make_logged(chosen=np.array([0, 1, 1, 1]), propensities=np.full((4, 2), 0.5), quality=np.ones(4))
    support = support_of(logged, np.tile([0.75, 0.25], (4, 1)))
    assert support.effective_sample_size == pytest.approx((1.5 + 3 * 0.5) ** 2 / (1.5**2 + 3 * 0.25))
    assert support.largest_weight == 1.5
    assert support.largest_weight_share == pytest.approx(0.5)


def rare_difference(count: int, every: int) -> tuple[Logged, FloatArray]:
    """In one of `every` requests the target takes a model that the log takes once in 500 times, and by luck never took."""
    rare = np.arange(count) % every == 0
    shares = np.where(rare[:, None], [0.998, 0.002], [0.5, 0.5])
    logged = make_logged(chosen=np.where(rare, 0, np.arange(count) % 2), propensities=shares, quality=np.ones(count))
    return logged, np.where(rare[:, None], [0.0, 1.0], [0.5, 0.5])


def test_few_draws_may_carry_everything_though_none_of_them_happened() -> None:
    """All weights that happened are 1, so that neither the effective sample size nor the largest weight would tell."""
    support = support_of(*rare_difference(2000, 25))
    assert support.effective_sample_size > 1900.0
    assert support.largest_weight_share < 0.001
    assert support.carriers < 1.0
    (reason,) = support.reasons
    assert "was expected to be drawn 0." in reason


def test_a_difference_that_hardly_matters_is_no_reason() -> None:
    """One request in 10,000, at most 5 % of the variance."""
    assert support_of(*rare_difference(20_000, 10_000)).reasons == ()


def test_where_all_weights_are_alike_each_draw_carries_as_much() -> None:
    logged = make_logged(chosen=np.tile([0] * 9 + [1], 100), propensities=np.tile([0.9, 0.1], (1000, 1)), quality=np.ones(1000))
    assert support_of(logged, np.tile([0.0, 1.0], (1000, 1))).carriers == pytest.approx(100.0, rel=0.11)


def test_a_target_that_the_log_never_meets_has_no_support() -> None:
    shares = np.tile([0.5, 0.5, 0.0], (300, 1))
    logged = make_logged(chosen=np.tile([0, 1], 150), propensities=shares, quality=np.ones(300))
    target = np.tile([0.0, 0.0, 1.0], (300, 1))
    found = evaluate(logged, target, policy="at cost weight 3", outcomes=fitted(logged), floor=0.5)
    assert not found.is_supported
    assert found.support.unsupported_share == 1.0
    assert found.verdict.startswith("no support for the policy at cost weight 3: 100 % of the new policy's choices")
    json.dumps(found.to_json())


def told_of(rates: FloatArray, *, seed: int, count: int = 8000) -> Rates:
    """Feedback rates found where decisions of two categories get an outcome with probability rates[category, model]."""
    rng = np.random.default_rng(seed)
    category = rng.integers(0, 2, count)
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])[category]
    chosen = (rng.random((count, 1)) >= shares.cumsum(axis=1)).sum(axis=1)
    answered = rng.random(count) < rates[category, chosen]
    return feedback_rates(("a", "b", "c"), chosen[answered], shares[answered], overall=float(answered.mean()))


def test_rates_that_differ_between_categories_only_are_even() -> None:
    found = [told_of(np.array([[0.9] * 3, [0.3] * 3]), seed=seed).is_uneven for seed in range(40)]
    assert sum(found) <= 4


def test_rates_that_differ_between_models_are_found_and_measured() -> None:
    for seed in range(5):
        found = told_of(np.tile([0.8, 0.8, 0.6], (2, 1)), seed=seed)
        assert found.is_uneven
        assert [found.rates[model] for model in "abc"] == pytest.approx([0.8, 0.8, 0.6], abs=0.04)
        assert found.gap == pytest.approx(0.2, abs=0.05)


def test_a_small_gap_is_none() -> None:
    assert not told_of(np.tile([0.8, 0.8, 0.785], (2, 1)), seed=1, count=50_000).is_uneven


def test_one_model_has_nothing_to_differ_from() -> None:
    found = feedback_rates(("a", "b"), np.zeros(5, dtype=np.int64), np.tile([1.0, 0.0], (5, 1)), overall=0.5)
    assert (dict(found.rates), found.is_uneven) == ({"a": 0.5}, False)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Estimate("DR", -0.0104, -0.0203, 0.0001), "quality −0.01 [−0.02, 0.00]"),
        (Estimate("DR", 0.0014, -0.0003, 0.0031), "quality 0.001 [0.000, 0.003]"),
    ],
)
def test_quality_in_words(value: Estimate, words: str) -> None:
    assert quality_words(value) == words


def test_cost_in_words() -> None:
    assert cost_words(Estimate("DR", -0.41, -0.44, -0.38)) == "cost −41 % [−44, −38]"
    assert cost_words(Estimate("DR", 0.0211, 0.0201, 0.0222)) == "cost 2.1 % [2.0, 2.2]"
    assert cost_words(Estimate("DR", float("nan"), float("nan"), float("nan"))) == "no cost on either side"


def test_a_verdict() -> None:
    logged = adaptive_log(seed=5, count=3000)
    target = np.tile([0.5, 0.5], (3000, 1))
    found = evaluate(logged, target, policy="at cost weight 0.5", outcomes=fitted(logged), floor=0.1)
    assert found.is_supported
    assert found.verdict.startswith("quality −0.1")
    assert found.verdict.endswith("% [−0.4, 0.5] at cost weight 0.5")  # every model costs the same
    assert found.quality_sequence.low < found.quality[0].low < 0.45 < found.quality[0].high < found.quality_sequence.high
    told = found.to_json()
    assert list(told["quality"]) == ["DR", "DR-stabilised", "IPS", "SNIPS", "SWITCH-DR", "DRos", "DM"]
    assert [name for name, each in told["quality"].items() if not each["approximate"]] == ["DR", "DR-stabilised", "IPS"]
    assert told["anytime"]["cost_usd"]["asymptotic"] is True
    assert told["anytime"]["quality"]["asymptotic"] is False
    json.dumps(told, allow_nan=False)


def log_of(**changed: FloatArray) -> Logged:
    kept = {"propensities": np.full((3, 2), 0.5), "quality": np.ones(3), **changed}
    return make_logged(chosen=np.array([0, 1, 0]), **kept)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"propensities": np.array([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]])},
            "1 of 3 decisions chose a model that they give probability 0",
        ),
        ({"propensities": np.array([[0.5, 0.5], [0.3, 0.3], [0.5, 0.5]])}, "probabilities sum to 0.6 (decision 2)"),
        ({"quality": np.array([1.0, 1.5, 0.0])}, "outside [0, 1]"),
        ({"cost_usd": np.array([1.0, np.nan, 0.0])}, "is no number"),
    ],
)
def test_a_log_that_says_nothing_is_refused(changed: dict[str, FloatArray], told: str) -> None:
    with pytest.raises(EvaluationError) as refused:
        log_of(**changed)
    assert told in str(refused.value)


def test_an_empty_log_and_one_with_one_arm() -> None:
    with pytest.raises(EvaluationError, match="no decision with an outcome"):
        make_logged(chosen=np.zeros(0, dtype=np.int64), propensities=np.zeros((0, 2)), quality=np.zeros(0))
    with pytest.raises(EvaluationError, match=r"one possible model \(m0\).*propensity_floor"):
        make_logged(chosen=np.zeros(2, dtype=np.int64), propensities=np.array([[1.0, 0.0]] * 2), quality=np.ones(2))


def test_wrong_shapes_are_a_bug() -> None:
    with pytest.raises(ValueError, match="cost_usd has shape"):
        log_of(cost_usd=np.ones(2))
