"""What broken models leave of a plan: who is out, who is on trial and with which share, who serves nevertheless."""

from __future__ import annotations

import random

import pytest
from core_logs import MODELS, category_entry, config_event, decided, document, fold, model_entry, scored
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from banditroute.core.breaker import Breaker, Broken
from banditroute.core.errors import NoEligibleModel
from banditroute.core.policy import MOST_ALL_TRIALS, View, draw, reason, share_at_mean
from banditroute.core.shift import Shift
from banditroute.core.state import State
from banditroute.core.types import BreakerState, Exclusion, Lifecycle, Plan, Reason, RouteQuery
from banditroute.snapshot import Snapshot

QUERY = RouteQuery("chat")
TIME_US = 10**12


def learned(**entry: object) -> State:
    """Four models, best first: ant, bee, cat, dog."""
    rng = random.Random(1)
    free = {name: model_entry(into=0.0, out=0.0) for name in MODELS}
    state, _ = fold([config_event(1, document({"chat": category_entry(**entry)}, models=free))])
    for i in range(200):
        score = (0.9, 0.8, 0.6, 0.4)[i % 4] + rng.uniform(-0.1, 0.1)
        state, _ = fold([scored(2 + i, 1 + i, decided("chat", MODELS[i % 4]), score)], state)
    return state


STATE = learned()


def view() -> View:
    return Snapshot(STATE, None).view("chat")


def broken(*names: str, **shares: float) -> Broken:
    return Broken(frozenset(names), frozenset(shares.items()))


def share(plan: Plan, model: str) -> float:
    return dict(zip(plan.models, plan.propensities, strict=True)).get(model, 0.0)


def why(plan: Plan) -> dict[str, Exclusion]:
    return {row.model: row.exclusion for row in plan.candidates if row.exclusion is not None}


def test_an_open_breaker_takes_a_model_out_of_choice_and_fallbacks() -> None:
    usual, plan = view().plan(QUERY), view().plan(QUERY, broken=broken("ant", "cat"))
    assert usual.models == MODELS
    assert plan.models == ("bee", "dog")
    assert why(plan) == {"ant": Exclusion.BREAKER_OPEN, "cat": Exclusion.BREAKER_OPEN}
    assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
    assert [row.model for row in plan.candidates] == list(MODELS)
    shown = {row.model: row for row in plan.candidates}["ant"]
    assert shown == usual.candidates[0]._replace(exclusion=Exclusion.BREAKER_OPEN, propensity=0.0)
    assert plan._replace(candidates=()) == view().plan(RouteQuery("chat", excluded_models=("ant", "cat")))._replace(candidates=())


def test_a_half_open_model_is_tried_with_its_share_exactly_and_is_the_last_fallback() -> None:
    for model in MODELS:
        plan = view().plan(QUERY, broken=broken(**{model: 0.05}))
        assert plan.models == (*[name for name in MODELS if name != model], model)
        assert (share(plan, model), plan.trial_count) == (0.05, 1)
        assert plan.unfloored[3] == 0.0
        assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
        assert reason(plan, 3) is Reason.PROBE
        assert reason(plan, 0) is Reason.BEST
        assert not why(plan)
        others = view().plan(RouteQuery("chat", excluded_models=(model,)))
        assert plan.propensities[:3] == pytest.approx([0.95 * each for each in others.propensities])


def test_draws_follow_the_share_that_is_logged() -> None:
    plan, rng = view().plan(QUERY, broken=broken(ant=0.05)), random.Random(1)
    count = sum(plan.models[draw(plan, rng.random())] == "ant" for _ in range(20_000))
    assert count == pytest.approx(1000, abs=4 * 31)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (QUERY, broken(*MODELS)),
        (RouteQuery("chat", allowed_models=("ant",)), broken("ant")),
        (RouteQuery("chat", excluded_models=("dog",)), broken("ant", "bee", "cat")),
        (RouteQuery("chat", allowed_models=("ant",)), broken(ant=0.05)),
        (QUERY, broken(**dict.fromkeys(MODELS, 0.05))),
    ],
)
def test_where_nothing_else_is_left_broken_models_serve_as_ever(query: RouteQuery, found: Broken) -> None:
    assert view().plan(query, broken=found) == view().plan(query)


def test_a_half_open_model_serves_where_all_others_are_out() -> None:
    plan = view().plan(QUERY, broken=broken("ant", "bee", "cat", dog=0.05))
    assert (plan.models, plan.propensities, plan.trial_count) == (("dog",), (1.0,), 0)
    assert reason(plan, 0) is Reason.ONLY_ELIGIBLE


def test_who_may_not_serve_for_another_reason_does_not_count_as_left() -> None:
    query = RouteQuery("chat", allowed_models=("ant", "bee"))
    plan = view().plan(query, broken=broken("ant", "bee"))
    assert plan.models == ("ant", "bee")
    assert why(plan) == {"cat": Exclusion.NOT_ALLOWED, "dog": Exclusion.NOT_ALLOWED}
    with pytest.raises(NoEligibleModel) as caught:
        view().plan(RouteQuery("chat", allowed_models=("ant",), max_cost_usd=-1.0), broken=broken("ant"))
    assert caught.value.exclusions["ant"] == "COST_TOO_HIGH"


def test_a_demoted_model_keeps_its_probes_beside_those_on_trial() -> None:
    """And serves where only it is left."""
    shift = Shift(start=100, detected=150, up=False, mean=-0.6, variance=0.001, updated=201, demoted=("chat",))
    view = Snapshot(STATE._replace(shifts={"bee": shift}), None).view("chat")
    usual = view.plan(QUERY)
    lives = {row.model: row.lifecycle for row in usual.candidates}
    assert lives == {"ant": Lifecycle.LIVE, "bee": Lifecycle.DEMOTED, "cat": Lifecycle.LIVE, "dog": Lifecycle.LIVE}
    plan = view.plan(QUERY, broken=broken("cat", ant=0.1))
    assert plan.models[-1] == "ant"
    assert share(plan, "ant") == 0.1
    assert 0.02 <= share(plan, "bee") <= 0.3
    assert share(plan, "dog") == pytest.approx(0.9 - share(plan, "bee"))
    assert view.plan(QUERY, broken=broken("ant", "cat", "dog")).models == ("bee",)


def test_plans_are_kept_by_what_is_broken() -> None:
    one, kinds = view(), [None, broken("ant"), broken("bee"), broken(ant=0.05), broken(ant=0.1)]
    plans = [one.plan(QUERY, broken=kind) for kind in kinds]
    assert [one.plan(QUERY, broken=broken(*kind.open, **dict(kind.trials)) if kind else None) for kind in kinds] == plans
    assert one.plan(QUERY, broken=broken("ant")) is plans[1]
    assert len({(plan.models, plan.propensities) for plan in plans}) == len(plans)


@profile(max_examples=200, derandomize=True, deadline=None)
@given(
    st.dictionaries(st.sampled_from(MODELS), st.none() | st.floats(0.001, 0.4)),
    st.sets(st.sampled_from(MODELS), max_size=3),
    st.sampled_from([0.0, 0.002, 0.2]),
    st.sets(st.sampled_from(MODELS)),
    st.sets(st.sampled_from(MODELS)),
)
def test_any_broken_models_leave_an_exact_plan(
    states: dict[str, float | None], barred: set[str], floor: float, new: set[str], below: set[str]
) -> None:
    """Whichever of them are new or below their floor besides."""
    found = Broken(
        frozenset([name for name, each in states.items() if each is None]),
        frozenset([(name, each) for name, each in states.items() if each is not None]),
    )
    held = STATE._replace(newcomers=dict.fromkeys(new, 0), below=frozenset(("chat", name) for name in below))
    found_view = Snapshot(held, None).view("chat")
    one = View(found_view.settings._replace(propensity_floor=floor), found_view.weights, found_view.arms, found_view.beliefs)
    plan = one.plan(RouteQuery("chat", excluded_models=tuple(sorted(barred))), broken=found)
    assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
    assert min(plan.propensities) >= 0.0
    assert set(plan.models) | set(why(plan)) == set(MODELS)
    trials = plan.models[len(plan.models) - plan.trial_count :]
    wanted = sum(states[name] or 0.0 for name in trials)
    for name in trials:
        assert share(plan, name) == pytest.approx((states[name] or 0.0) * min(1.0, MOST_ALL_TRIALS / wanted))
    if set(plan.models) & found.open:
        assert set(MODELS) - barred <= found.open


# --- snapshots -------------------------------------------------------------------------------------

OPENED = Breaker(open_until_us=TIME_US + 10**7, cooldown_us=10**7, since=5)


def test_a_snapshot_knows_what_is_broken_at_a_time() -> None:
    snapshot = Snapshot(STATE._replace(breakers={"ant": OPENED, "bee": Breaker()}), None)
    assert snapshot.tripped.keys() == {"ant"}
    assert snapshot.broken(TIME_US) == snapshot.broken(0) == broken("ant")  # no clock is behind the log's
    assert snapshot.broken(TIME_US + 10**7) == broken(ant=0.05)
    assert snapshot.broken(TIME_US + 10**9) is None
    later = STATE._replace(breakers=snapshot.state.breakers, append_time_us=TIME_US + 10**9)
    assert Snapshot(later, snapshot).tripped == {}
    off = STATE.settings._replace(breaker=STATE.settings.breaker._replace(enabled=False))
    assert Snapshot(snapshot.state._replace(settings=off), None).tripped == {}
    assert Snapshot(STATE, None).broken(TIME_US) is None


def test_a_report_shows_breakers_as_they_are_at_a_time() -> None:
    snapshot = Snapshot(STATE._replace(breakers={"ant": OPENED}), None)
    for after_us, state, until, part in (
        (0, BreakerState.OPEN, (TIME_US + 10**7) / 1e6, 0.0),
        (10**7, BreakerState.HALF_OPEN, None, 0.05),
        (10**9, BreakerState.CLOSED, None, share_at_mean(view())["ant"].propensity),
    ):
        ant, bee, *_ = snapshot.report("chat", now_us=TIME_US + after_us).arms
        assert (ant.breaker, ant.breaker_open_until, ant.share) == (state, until, part)
        assert bee.breaker is BreakerState.CLOSED
