from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from core_logs import MODELS, category_entry, config_event, decided, document, event, fold, model_entry, record, scored, signals
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from mixed_worlds import differences

from banditroute.core.eligibility import exclusion
from banditroute.core.errors import NoEligibleModel
from banditroute.core.mixed import Belief, contrasts
from banditroute.core.policy import IN_FLIGHT_LOOK, PLAN_CACHE_SIZE, View, looks_left, outline, reason, share_at_mean
from banditroute.core.propensity import thompson, with_floor
from banditroute.core.settings import ModelSettings
from banditroute.core.state import State
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
    assert plan.propensities == tuple(with_floor(plan.unfloored, 0.01))


@pytest.mark.parametrize("horizon", [1, 30, 500, 10**6])
def test_shares_are_thompsons_among_the_arms_that_pay(horizon: int) -> None:
    """By hand: the gate arm by arm, the draw among what is open, as wide as the contrasts of what looks can tell."""
    state = learned(planning_horizon_count=horizon, propensity_floor=0.0, cost_weight=0.05)
    view = view_of(state)
    plan = view.plan(RouteQuery("chat"))
    covariance, later = view.beliefs.belief.covariance, view.beliefs.later
    variances, gaps = contrasts(covariance - later), differences(covariance)
    place = {arm.model.name: i for i, arm in enumerate(view.arms)}
    best = plan.eligible[0]
    left = [math.inf] + [
        looks_left(
            best.utility_mean - arm.utility_mean,
            gaps[place[arm.model], place[best.model]],
            noise=view.beliefs.noises[place[arm.model]],
            horizon=horizon,
        )
        for arm in plan.eligible[1:]
    ]
    open_arms = [arm for arm, most in zip(plan.eligible, left, strict=True) if most >= 0.0]
    patience = [most / IN_FLIGHT_LOOK if most >= 0.0 else math.inf for most in left]
    assert list(plan.patience) == pytest.approx(patience, rel=1e-9)
    pure = thompson([arm.utility_mean for arm in open_arms], [math.sqrt(variances[place[arm.model]]) for arm in open_arms])
    expected = dict(zip([arm.model for arm in open_arms], pure, strict=True))
    found = dict(zip(plan.models, plan.unfloored, strict=True))
    assert found == pytest.approx({name: expected.get(name, 0.0) for name in plan.models}, abs=1e-12)
    if horizon == 10**6:
        assert len(open_arms) == 4
    if horizon == 1:
        assert len(open_arms) < 4


@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_an_arm_whose_exploration_does_not_pay_has_the_floors_share(floor: float) -> None:
    state = learned(planning_horizon_count=1, cost_weight=0.05, propensity_floor=floor)
    plan = view_of(state).plan(RouteQuery("chat"))
    closed = [i for i, share in enumerate(plan.unfloored) if share == 0.0]
    assert closed
    assert [plan.propensities[i] for i in closed] == pytest.approx([floor] * len(closed), abs=1e-15)
    assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
    if floor:
        assert {reason(plan, i) for i in closed} == {Reason.FLOOR}


# --- the gate --------------------------------------------------------------------------------------


def psi(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - z * math.erfc(z / math.sqrt(2)) / 2


def test_looks_left_by_hand() -> None:
    # z = .1 / sqrt(.01) = 1, psi(1) = .08332; n = noise / D = 6: the first pays from a horizon of 6 / .08332 = 72.02 on.
    assert psi(1.0) == pytest.approx(0.0833155, abs=1e-7)
    assert looks_left(0.1, 0.01, noise=0.06, horizon=72.0) < 0.0
    assert looks_left(0.1, 0.01, noise=0.06, horizon=72.1) > 0.0
    assert looks_left(0.1, 0.01, noise=0.06, horizon=500.0) == pytest.approx(500 * 0.0833155 - 6, abs=1e-4)


POSITIVE = st.floats(min_value=1e-6, max_value=1.0)


@profile(max_examples=300, derandomize=True, deadline=None)
@given(
    st.floats(min_value=0.0, max_value=1.0),
    POSITIVE,
    st.floats(min_value=1e-4, max_value=0.25),
    st.floats(min_value=1.0, max_value=1e6),
    st.floats(min_value=1.0, max_value=10.0),
)
def test_looks_left_is_the_formula_and_monotone(gap: float, difference: float, noise: float, horizon: float, more: float) -> None:
    found = looks_left(gap, difference, noise=noise, horizon=horizon)
    z = gap / math.sqrt(difference)
    if z >= 1e-9:
        assert found == pytest.approx(psi(z) / z * horizon - noise / difference, rel=1e-9, abs=1e-9)
    slack = 1e-9 * (1.0 + abs(found)) if math.isfinite(found) else 0.0
    assert looks_left(gap / more, difference, noise=noise, horizon=horizon) >= found - slack
    assert looks_left(gap, difference, noise=noise, horizon=horizon * more) >= found - slack
    assert looks_left(gap, difference, noise=noise / more, horizon=horizon) >= found - slack
    assert looks_left(gap, difference * more, noise=noise, horizon=horizon) >= found - slack


def test_looks_left_at_its_limits() -> None:
    assert looks_left(0.0, 1e-14, noise=0.25, horizon=1.0) == math.inf  # a tie always pays
    assert looks_left(1e-3, 1e-14, noise=1e-4, horizon=1e9) < 0.0  # nothing left to learn
    assert looks_left(1.0, 0.01, noise=1e-4, horizon=1e9) < 0.0  # 10 sd behind: never
    assert looks_left(0.5, 1.0, noise=0.25, horizon=1.0) > 0.0  # unknown: at once


def test_an_outline_by_hand() -> None:
    """Draws vary by the contrasts of V - V'; people are shown the posterior's own deviations, the gate its differences."""
    covariance = np.array([[0.05, 0.02, 0.02], [0.02, 0.04, 0.02], [0.02, 0.02, 0.03]])
    found = outline(Belief(np.array([0.5, 0.6, 0.7]), covariance), np.diag([0.01, 0.015, 0.008]))
    assert found.spread == pytest.approx(np.sqrt([0.02, 0.005, 0.002]))
    assert found.stddev == pytest.approx(np.sqrt([0.05, 0.04, 0.03]))
    assert found.mean == [0.5, 0.6, 0.7]
    unsure = [[0.0, 0.05, 0.04], [0.05, 0.0, 0.03], [0.04, 0.03, 0.0]]
    np.testing.assert_allclose(differences(found.covariance), unsure, atol=1e-15)
    nothing_left = outline(Belief(np.zeros(3), covariance), covariance)
    assert nothing_left.spread == pytest.approx([math.sqrt(1e-7)] * 3)


def test_a_hard_category_is_no_reason_to_explore() -> None:
    """What moves all arms alike widens what people are shown, never the draws; whether the next looks tell of it or not."""
    covariance, later = np.diag([0.01, 0.02, 0.03]), np.diag([0.004, 0.005, 0.006])
    plain = outline(Belief(np.full(3, 0.5), covariance), later)
    for left in (0.0, 0.1, 0.4):
        hard = outline(Belief(np.full(3, 0.5), covariance + 0.4), later + left)
        assert hard.spread == pytest.approx(plain.spread, abs=1e-12)
        assert min(hard.stddev) > 0.6


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
    entries = {"chat": category_entry(cost_weight=0.3, propensity_floor=0.0)}
    state, _ = fold([config_event(99, document(entries))], learned(cost_weight=0.3, propensity_floor=0.0, seed=3))  # refits
    before = view_of(state).plan(RouteQuery("chat"))
    dear = {"ant": model_entry(into=2.0, out=4.0), **{name: model_entry(into=0.0, out=0.0) for name in ("bee", "cat", "dog")}}
    state, _ = fold([config_event(100, document(entries, models=dear))], state)
    after = view_of(state).plan(RouteQuery("chat"))
    assert row(after, "ant").expected_cost_usd == pytest.approx(2 * row(before, "ant").expected_cost_usd)
    assert row(after, "ant").quality_mean == row(before, "ant").quality_mean
    assert row(after, "ant").utility_mean < row(before, "ant").utility_mean
    assert row(after, "bee").expected_cost_usd == 0.0
    state, _ = fold([operator(101, cost_weight=50.0, latency_weight=None)], state)
    heavy = view_of(state).plan(RouteQuery("chat"))
    assert row(heavy, "ant").propensity == 0.0 < row(before, "ant").propensity
    assert row(heavy, "ant").utility_mean < row(after, "ant").utility_mean
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
    belief, _ = view.beliefs.at((1.0, 3.0))
    place = [arm.model.name for arm in view.arms].index("ant")
    assert row(far, "ant").quality_mean == pytest.approx(belief.mean[place], rel=1e-14)
    assert row(far, "ant").quality_stddev == pytest.approx(math.sqrt(belief.covariance[place, place]), rel=1e-14)
    shares = [candidate.propensity for candidate in far.candidates]
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)


def test_reasons() -> None:
    def plan(shares: list[float], pure: list[float]) -> Plan:
        names = tuple("abcd"[: len(shares)])
        rows = tuple(Candidate(name, None, 0.0, 0.0, 0.0, 0.0, share) for name, share in zip(names, shares, strict=True))
        return Plan(names, tuple(shares), rows, rows, (0.0,) * len(shares), tuple(pure), (math.inf,) * len(shares))

    floored = plan([0.8, 0.19, 0.01], [0.81, 0.19, 0.0])
    assert [reason(floored, i) for i in range(3)] == [Reason.BEST, Reason.EXPLORATION, Reason.FLOOR]
    assert reason(plan([1.0], [1.0]), 0) is Reason.ONLY_ELIGIBLE


@profile(max_examples=25, derandomize=True, deadline=None)
@given(
    st.permutations(MODELS),
    st.permutations(["w", "x", "y", "z"]),
    st.permutations(["one", "two"]),
    st.booleans(),
    st.integers(min_value=0, max_value=1000),
)
def test_names_and_order_of_models_and_categories_do_not_matter(
    order: list[str], names: list[str], places: list[str], turned: bool, seed: int
) -> None:
    """With priors, named and for any category, and with tokens and bills."""

    def shares(arms: list[str], cats: list[str], name_of: dict[str, str], cat_of: dict[str, str]) -> dict[tuple[str, str], float]:
        models = {name_of[name]: model_entry(into=1.0 + MODELS.index(name), out=2.0) for name in arms}
        priors = {
            cat_of["chat"]: {name_of["bee"]: {"quality": 0.9, "effective_sample_size": 30.0, "output_tokens": 500.0}},
            "*": {name_of["cat"]: {"quality": 0.2, "effective_sample_size": 10.0}},
        }
        entry = category_entry(models=[name_of[name] for name in arms], latency_weight=0.1)
        shared = document({cat_of[name]: entry for name in cats}, models=models, priors=priors)
        state, _ = fold([config_event(1, shared)])
        rng = random.Random(seed)
        for i in range(70):
            value, model, category = rng.random(), rng.choice(MODELS), rng.choice(("chat", "code"))
            tried = {"error": 0, "observe_us": 1, "output_tokens": rng.randint(1, 900), "latency_s": rng.random()}
            tried |= {"cost_usd": rng.random() / 100, "computed_usd": 0.003}
            after = record(1 + i, signals((name_of[model], "eval_score", value)), {name_of[model] + "\x1f": tried})
            body = {"decision": decided(cat_of[category], name_of[model]), "before": None, "after": after}
            state, found = fold([event(2 + i, body)], state)
            assert not found
        snapshot = Snapshot(state, None)
        return {
            (category, model): share_at_mean(snapshot.view(cat_of[category]))[name_of[model]].propensity
            for category in cat_of
            for model in arms
        }

    same = {name: name for name in (*MODELS, "chat", "code")}
    base = shares(list(MODELS), ["chat", "code"], same, {"chat": "chat", "code": "code"})
    cats = ["code", "chat"] if turned else ["chat", "code"]
    other = shares(order, cats, dict(zip(MODELS, names, strict=True)), dict(zip(("chat", "code"), places, strict=True)))
    assert base == pytest.approx(other, abs=1e-9)
