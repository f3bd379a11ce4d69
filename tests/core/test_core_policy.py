from __future__ import annotations

import math
import random
from typing import Any

import pytest
from core_logs import MODELS, category_entry, config_event, decided, document, fold, model_entry, scored
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from banditroute.core.eligibility import exclusion
from banditroute.core.errors import NoEligibleModel
from banditroute.core.fold import State
from banditroute.core.policy import PLAN_CACHE_SIZE, View, reason, share_at_mean
from banditroute.core.propensity import thompson, with_floor
from banditroute.core.settings import ModelSettings
from banditroute.core.types import Candidate, Event, EventKind, Exclusion, Plan, Reason, RouteQuery
from banditroute.snapshot import Snapshot

MODEL = ModelSettings("ant", 1e-6, 2e-6, 1e-6, 1000, frozenset({"us", "tools"}))


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({}, None),
        ({"allowed_models": ("bee",)}, Exclusion.NOT_ALLOWED),
        ({"allowed_models": ("bee", "ant")}, None),
        ({"excluded_models": ("ant",)}, Exclusion.EXCLUDED),
        ({"required_tags": ("us", "dpa")}, Exclusion.TAG_MISSING),
        ({"required_tags": ("us", "tools")}, None),
        ({"input_tokens": 901}, Exclusion.CONTEXT_TOO_LONG),
        ({"input_tokens": 900}, None),
        ({"max_cost_usd": 0.0999}, Exclusion.COST_TOO_HIGH),
        ({"max_cost_usd": 0.1}, None),
        # the first reason, in this order
        ({"allowed_models": ("bee",), "excluded_models": ("ant",), "required_tags": ("eu",)}, Exclusion.NOT_ALLOWED),
        ({"excluded_models": ("ant",), "required_tags": ("eu",), "max_cost_usd": 0.0}, Exclusion.EXCLUDED),
        ({"required_tags": ("eu",), "input_tokens": 10_000, "max_cost_usd": 0.0}, Exclusion.TAG_MISSING),
        ({"input_tokens": 10_000, "max_cost_usd": 0.0}, Exclusion.CONTEXT_TOO_LONG),
    ],
)
def test_each_exclusion(query: dict[str, Any], why: Exclusion | None) -> None:
    asked = RouteQuery("chat", **query)
    into = 500 if asked.input_tokens is None else asked.input_tokens
    assert exclusion(MODEL, asked, input_tokens=into, output_tokens=100, expected_cost_usd=0.1) is why


def test_a_model_without_a_limit_takes_any_length() -> None:
    free = MODEL._replace(context_token_limit=None)
    assert exclusion(free, RouteQuery("chat"), input_tokens=1e9, output_tokens=1e9, expected_cost_usd=0.0) is None


def operator(position: int, **changes: float | None) -> Event:
    body = {"action": "set_weights", "category": "chat", "changes": changes}
    return Event(position, 10**12, EventKind.OPERATOR, 1, body, b"")


def learned(*, models: dict[str, Any] | None = None, feedback: bool = True, seed: int = 0, **entry: Any) -> State:
    state, found = fold([config_event(1, document({"chat": category_entry(**entry)}, models=models))])
    rng = random.Random(seed)
    arms = state.settings.categories["chat"].models
    features = state.settings.categories["chat"].features
    for i in range(60 if feedback else 0):
        model = sorted(arms)[i % len(arms)]
        context = {feature.name: rng.gauss(0, 1) for feature in features}
        state, more = fold([scored(2 + i, 1 + i, decided("chat", model, features=context), rng.random())], state)
        found += more
    assert not found
    return state


def view_of(state: State) -> View:
    return Snapshot(state, None).view("chat")


def row(plan: Plan, model: str) -> Candidate:
    return next(candidate for candidate in plan.candidates if candidate.model == model)


def test_no_eligible_model_names_every_model_and_its_reason() -> None:
    models = {
        "ant": model_entry(tags=["us"], limit=10),
        "bee": model_entry(tags=["us"]),
        "cat": model_entry(),
        "dog": model_entry(),
    }
    query = RouteQuery("chat", excluded_models=("dog",), required_tags=("us",), max_cost_usd=1e-9)
    with pytest.raises(NoEligibleModel) as caught:
        view_of(learned(models=models)).plan(query)
    assert caught.value.exclusions == {"ant": "CONTEXT_TOO_LONG", "bee": "COST_TOO_HIGH", "cat": "TAG_MISSING", "dog": "EXCLUDED"}
    for model, why in caught.value.exclusions.items():
        assert f"{model}: {why}" in str(caught.value)


def test_a_plan_shows_all_and_ranks_the_eligible() -> None:
    plan = view_of(learned()).plan(RouteQuery("chat", excluded_models=("bee",)))
    assert [candidate.model for candidate in plan.candidates] == list(MODELS)
    assert row(plan, "bee").exclusion is Exclusion.EXCLUDED
    assert row(plan, "bee").propensity == 0.0
    assert set(plan.models) == {"ant", "cat", "dog"}
    worths = [candidate.utility_mean for candidate in plan.eligible]
    assert worths == sorted(worths, reverse=True)
    assert tuple(candidate.propensity for candidate in plan.eligible) == plan.propensities
    assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
    pure = thompson(worths, [candidate.quality_stddev for candidate in plan.eligible])
    assert plan.unfloored == tuple(pure)
    assert plan.propensities == tuple(with_floor(pure, 0.01))


@pytest.mark.parametrize("features", [{}, {"size": {"mean": 0.0, "stddev": 1.0}}])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_utility_by_hand(scale: str, features: dict[str, Any]) -> None:
    state = learned(feedback=False, cost_scale=scale, cost_weight=0.3, latency_weight=0.2, features=features)
    pool = state.pool._replace(newcomer=state.pool.newcomer._replace(latency_s=5.0))
    plan = view_of(state._replace(pool=pool)).plan(RouteQuery("chat", input_tokens=2000, output_tokens=100))
    for model, cost in (("ant", 0.0022), ("bee", 0.023), ("cat", 0.0)):
        relative = cost / 0.01
        scaled = relative if scale == "linear" else math.log(1 + 99 * relative) / math.log(100)
        assert row(plan, model).expected_cost_usd == pytest.approx(cost)
        assert row(plan, model).utility_mean == pytest.approx(0.5 - 0.3 * scaled - 0.2 * 5.0 / 10.0)


def test_an_arm_of_unknown_latency_is_not_charged_for_it() -> None:
    plan = view_of(learned(feedback=False, latency_weight=5.0, cost_weight=0.0)).plan(RouteQuery("chat"))
    assert [candidate.utility_mean for candidate in plan.candidates] == pytest.approx([0.5] * 4)


def test_a_price_or_weight_change_acts_at_once() -> None:
    state = learned(cost_weight=0.3, propensity_floor=0.0)
    before = view_of(state).plan(RouteQuery("chat"))
    dear = {"ant": model_entry(into=2.0, out=4.0), **{name: model_entry(into=0.0, out=0.0) for name in ("bee", "cat", "dog")}}
    state, _ = fold(
        [config_event(100, document({"chat": category_entry(cost_weight=0.3, propensity_floor=0.0)}, models=dear))], state
    )
    after = view_of(state).plan(RouteQuery("chat"))
    assert row(after, "ant").expected_cost_usd == pytest.approx(2 * row(before, "ant").expected_cost_usd)
    assert row(after, "ant").quality_mean == row(before, "ant").quality_mean
    assert row(after, "ant").utility_mean < row(before, "ant").utility_mean
    assert row(after, "bee").expected_cost_usd == 0.0
    state, _ = fold([operator(101, cost_weight=50.0, latency_weight=None)], state)
    heavy = view_of(state).plan(RouteQuery("chat"))
    assert row(heavy, "ant").propensity < row(after, "ant").propensity
    assert row(heavy, "bee").quality_mean == row(after, "bee").quality_mean


def test_equal_requests_share_a_plan_and_unequal_ones_do_not() -> None:
    view = view_of(learned())
    plan = view.plan(RouteQuery("chat"))
    assert view.plan(RouteQuery("chat", request_key="again", labels={"a": "b"})) is plan
    others = [
        RouteQuery("chat", input_tokens=5000),
        RouteQuery("chat", output_tokens=5000),
        RouteQuery("chat", input_tokens=0),
        RouteQuery("chat", allowed_models=("ant",)),
        RouteQuery("chat", excluded_models=("ant",)),
        RouteQuery("chat", max_cost_usd=0.002),
    ]
    plans = [view.plan(query) for query in others]
    for i, one in enumerate(plans):
        assert one is view.plan(others[i])
        assert one != plan
        assert all(one != another for another in plans[:i])
    assert view.plan(RouteQuery("chat", allowed_models=("ant", "bee"))).propensities != plan.propensities
    for tokens in range(3 * PLAN_CACHE_SIZE):
        assert view.plan(RouteQuery("chat", input_tokens=tokens)).computed_costs_usd
    assert view.plan(RouteQuery("chat")) == plan


def test_contexts_have_plans_of_their_own() -> None:
    view = view_of(learned(features={"size": {"mean": 0.0, "stddev": 1.0}}))
    at_mean, explicit = view.plan(RouteQuery("chat")), view.plan(RouteQuery("chat", features={"size": 0.0}))
    assert at_mean == explicit
    far = view.plan(RouteQuery("chat", features={"size": 3.0}))
    assert row(far, "ant").quality_mean != row(at_mean, "ant").quality_mean
    assert row(far, "ant").quality_stddev > row(at_mean, "ant").quality_stddev
    belief = next(arm for arm in view.arms if arm.model.name == "ant").posterior
    assert row(far, "ant").quality_mean == pytest.approx(belief.mean[0] + 3.0 * belief.mean[1])
    variance = belief.covariance[0][0] + 6.0 * belief.covariance[0][1] + 9.0 * belief.covariance[1][1]
    assert row(far, "ant").quality_stddev == pytest.approx(math.sqrt(variance))


def test_reasons() -> None:
    def plan(shares: list[float], pure: list[float]) -> Plan:
        names = tuple("abcd"[: len(shares)])
        return Plan(names, tuple(shares), (), (), (0.0,) * len(shares), tuple(pure))

    floored = plan([0.8, 0.19, 0.01], [0.81, 0.19, 0.0])
    assert [reason(floored, i) for i in range(3)] == [Reason.BEST, Reason.EXPLORATION, Reason.FLOOR]
    assert reason(plan([1.0], [1.0]), 0) is Reason.ONLY_ELIGIBLE


@profile(max_examples=25, derandomize=True, deadline=None)
@given(st.permutations(MODELS), st.permutations(["w", "x", "y", "z"]), st.integers(min_value=0, max_value=1000))
def test_names_and_order_of_arms_do_not_matter(order: list[str], names: list[str], seed: int) -> None:
    prices = {name: model_entry(into=1.0 + i, out=2.0 + i) for i, name in enumerate(MODELS)}
    called = dict(zip(MODELS, names, strict=True))
    renamed = {called[name]: prices[name] for name in MODELS}

    def shares(models: dict[str, Any], arms: list[str], name_of: dict[str, str]) -> dict[str, float]:
        state, _ = fold([config_event(1, document({"chat": category_entry(models=arms)}, models=models))])
        rng = random.Random(seed)
        for i in range(70):
            value, model = rng.random(), rng.choice(MODELS)
            state, found = fold([scored(2 + i, 1 + i, decided("chat", name_of[model]), value)], state)
            assert not found
        return {model: candidate.propensity for model, candidate in share_at_mean(view_of(state)).items()}

    base = shares(prices, list(MODELS), {name: name for name in MODELS})
    other = shares(renamed, [called[name] for name in order], called)
    assert {called[name]: share for name, share in base.items()} == pytest.approx(other, abs=1e-8)
