"""What the policy gives to arms that are demoted, below their floor, or new: exact shares, and nothing lost."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from change_logs import Story, fallen
from core_logs import category_entry, model_entry
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from banditroute.core.breaker import Broken
from banditroute.core.errors import NoEligibleModel
from banditroute.core.policy import (
    LEAST_PROBES,
    MOST_ALL_PROBES,
    MOST_PROBES,
    View,
    draw,
    keyed_draw,
    probe_share,
    reason,
    with_probes,
)
from banditroute.core.settings import Onboarding
from banditroute.core.types import Exclusion, Lifecycle, Plan, Reason, RouteQuery
from banditroute.snapshot import Snapshot

LIVE, DEMOTED, PROBING = Lifecycle.LIVE, Lifecycle.DEMOTED, Lifecycle.PROBING
DISABLED, ONBOARDING = Lifecycle.DISABLED, Lifecycle.ONBOARDING
FOUR = ("ant", "bee", "cat", "dog")
QUALITIES = {"ant": 0.8, "bee": 0.7, "cat": 0.6, "dog": 0.3}
FELL = 0.6
"""What a demoted arm lost, here."""


@functools.cache
def known(floor: float) -> View:
    """Four models that are well known, a context limit on ant; only bee costs anything, and it depends on the request."""
    entry = category_entry(models=list(FOUR), propensity_floor=floor, cost_weight=0.2)
    models = {"ant": model_entry(into=0.0, out=0.0, limit=50_000), "bee": model_entry(into=1.0, out=0.0)}
    story = Story({"chat": entry}, models=models)
    story.run(400, *[("chat", model, quality) for model, quality in QUALITIES.items()])
    return Snapshot(story.state, None).view("chat")


def view_with(
    lives: Mapping[str, Lifecycle],
    recoveries: Mapping[str, float] | None = None,
    *,
    floor: float = 0.0,
    onboarding: Onboarding | None = None,
) -> View:
    view = known(floor)
    arms = [
        arm._replace(
            lifecycle=lives.get(arm.model.name, LIVE),
            recovery=(recoveries or {}).get(arm.model.name, 1.0),
            shift=-FELL if lives.get(arm.model.name) in (DEMOTED, PROBING) else 0.0,
        )
        for arm in view.arms
    ]
    return View(view.settings, view.weights, arms, view.beliefs, onboarding or Onboarding())


def shares(plan: Plan) -> dict[str, float]:
    return dict(zip(plan.models, plan.propensities, strict=True))


def gap(plan: Plan, model: str) -> float:
    """By which a model is worth less than the best that is live."""
    rows = {row.model: row for row in plan.eligible}
    best = max(row.utility_mean for row in plan.eligible if row.lifecycle in (LIVE, ONBOARDING))
    return best - rows[model].utility_mean


def usual(loss: float, model: str) -> float:
    """The share of an arm that is worse by FELL, without evidence of recovery."""
    view = known(0.0)
    place = [arm.model.name for arm in view.arms].index(model)
    return probe_share(loss, shift=-FELL, noise=view.noises[place])


def test_a_share_of_probes_is_where_their_cost_and_that_of_finding_out_late_add_up_to_least() -> None:
    """At a gap of .1 after a fall by .2, of 0/1 scores: 9 * .16 / .04 = 36 probes tell a recovery, which is worth .1."""
    assert probe_share(0.1, shift=-0.2, noise=0.16) == pytest.approx(math.sqrt(36 / 2000))

    def loss(share: float) -> float:
        return share * 0.1 + 36 / share * 0.1 / 2000

    best = min((loss(i / 1000), i / 1000) for i in range(20, 300))[1]
    assert best == pytest.approx(math.sqrt(36 / 2000), abs=1e-3)


@pytest.mark.parametrize(
    ("gap", "shift", "noise", "share"),
    [
        (0.3, -0.2, 0.16, LEAST_PROBES),  # it would not be ahead, were it back
        (0.0, -0.2, 0.16, MOST_PROBES),
        (0.0, 0.0, 0.16, LEAST_PROBES),  # nothing to find out
        (0.1, -0.5, 1e-9, math.sqrt(8 * 0.4 / 0.1 / 2000)),  # eight probes at least
        (1e-300, -1e-300, 0.25, LEAST_PROBES),
    ],
)
def test_shares_of_probes_have_limits(gap: float, shift: float, noise: float, share: float) -> None:
    assert probe_share(gap, shift=shift, noise=noise) == pytest.approx(share)


ASK = RouteQuery("chat")


@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize("model", ["bee", "cat", "dog"])
def test_a_demoted_arm_gets_probes_for_what_they_may_cost(model: str, floor: float) -> None:
    plan = view_with({model: DEMOTED}, floor=floor).plan(ASK)
    share = shares(plan)[model]
    assert share == pytest.approx(usual(gap(plan, model), model), rel=1e-12)
    assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
    # The live ones share the rest as ever, each above the floor of it.
    live = {name: each for name, each in shares(plan).items() if name != model}
    free = shares(view_with({}, floor=floor).plan(RouteQuery("chat", excluded_models=(model,))))
    assert live == pytest.approx({name: each * (1.0 - share) for name, each in free.items()}, abs=1e-12)


def test_evidence_of_recovery_brings_probes_in_proportion_up_to_the_most() -> None:
    base = usual(gap(view_with({"cat": DEMOTED}).plan(ASK), "cat"), "cat")
    assert base < MOST_PROBES / 2.0
    for life in (DEMOTED, PROBING):
        for evidence in (1.0, 2.0, 4.0, 1000.0):
            found = shares(view_with({"cat": life}, {"cat": evidence}).plan(ASK))["cat"]
            assert found == pytest.approx(min(MOST_PROBES, base * evidence), rel=1e-12)
    # What speaks against it never brings them below the least.
    assert shares(view_with({"cat": DEMOTED}, {"cat": 1e-3}).plan(ASK))["cat"] == LEAST_PROBES


def test_all_probes_together_are_bounded() -> None:
    lives = dict.fromkeys(("bee", "cat", "dog"), PROBING)
    plan = view_with(lives, dict.fromkeys(lives, 1e6)).plan(ASK)
    assert shares(plan) == pytest.approx(
        {"ant": 1.0 - MOST_ALL_PROBES} | dict.fromkeys(lives, min(MOST_PROBES, MOST_ALL_PROBES / 3.0)), abs=1e-12
    )


def test_an_arm_below_its_floor_gets_the_least_and_is_last() -> None:
    plan = view_with({"ant": DEMOTED}, {"ant": 0.0}).plan(ASK)
    assert plan.models[-1] == "ant"
    assert shares(plan)["ant"] == LEAST_PROBES
    assert max(row.utility_mean for row in plan.eligible) == plan.eligible[-1].utility_mean
    assert reason(plan, len(plan.models) - 1) is Reason.PROBE
    assert reason(plan, 0) is Reason.BEST


def test_a_demoted_arm_that_beats_all_live_ones_for_a_request_is_as_live() -> None:
    """bee is dear for long requests and cheap for short ones: held back, it is probed in those and serves these."""
    view = view_with({"bee": DEMOTED, "ant": DISABLED})
    short, long = (RouteQuery("chat", input_tokens=tokens) for tokens in (0, 40_000))
    held, free = view.plan(long), view.plan(short)
    assert shares(held)["bee"] == pytest.approx(usual(gap(held, "bee"), "bee"), rel=1e-12)
    assert free.models[0] == "bee"
    as_live = view_with({"ant": DISABLED}).plan(short)
    assert (free.propensities, free.models, free.patience) == (as_live.propensities, as_live.models, as_live.patience)
    assert reason(free, 0) is Reason.BEST


def test_where_only_demoted_arms_are_eligible_they_serve() -> None:
    view = view_with({"bee": DEMOTED, "cat": PROBING})
    asked = RouteQuery("chat", allowed_models=("bee", "cat"))
    plan, as_live = view.plan(asked), view_with({}).plan(asked)
    assert (plan.models, plan.propensities) == (as_live.models, as_live.propensities)
    only = RouteQuery("chat", allowed_models=("cat",))
    assert view.plan(only).propensities == (1.0,)
    assert reason(view.plan(only), 0) is Reason.ONLY_ELIGIBLE
    # As where the live one cannot take the request.
    view = view_with(dict.fromkeys(("bee", "cat", "dog"), DEMOTED))
    assert shares(view.plan(ASK))["ant"] > 0.5
    long = view.plan(RouteQuery("chat", input_tokens=60_000))
    assert {row.model: row.exclusion for row in long.candidates}["ant"] is Exclusion.CONTEXT_TOO_LONG
    assert sum(long.propensities) == pytest.approx(1.0, abs=1e-12)
    assert shares(long) == shares(view_with({}).plan(RouteQuery("chat", input_tokens=60_000)))


def test_what_is_below_its_floor_serves_where_nothing_else_may() -> None:
    view = view_with({"bee": DEMOTED, "cat": DEMOTED}, {"bee": 0.0, "cat": 0.0})
    plan = view.plan(RouteQuery("chat", allowed_models=("bee", "cat")))
    assert plan.models[0] == "bee"
    assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)


def test_a_demoted_arm_goes_before_one_below_its_floor() -> None:
    """Where no live arm may serve: what only got worse, and may be back, is better than what is not good enough."""
    view = view_with({"bee": DEMOTED, "cat": DEMOTED}, {"bee": 0.0})
    plan = view.plan(RouteQuery("chat", allowed_models=("bee", "cat")))
    assert plan.models == ("cat", "bee")
    assert shares(plan) == pytest.approx({"cat": 1.0 - LEAST_PROBES, "bee": LEAST_PROBES})


def test_reasons_of_what_is_held() -> None:
    onboarding = Onboarding(looks=10, min_share=0.05, max_share=0.2)
    view = view_with({"cat": PROBING, "dog": ONBOARDING}, onboarding=onboarding)
    plan = view.plan(ASK)
    found = {row.model: reason(plan, i) for i, row in enumerate(plan.eligible)}
    assert found["ant"] is Reason.BEST
    assert (found["cat"], found["dog"]) == (Reason.PROBE, Reason.EXPLORATION)
    assert shares(plan)["dog"] == 0.05


def test_keyed_draws_follow_the_same_shares() -> None:
    plan = view_with({"bee": PROBING, "cat": DEMOTED}, {"bee": 1e3}).plan(ASK)
    keys = [hashlib.sha256(str(i).encode()).digest() for i in range(4000)]
    drawn = Counter(plan.models[keyed_draw(plan, key)] for key in keys)
    for model, share in shares(plan).items():
        error = math.sqrt(len(keys) * share * (1.0 - share))
        assert abs(drawn[model] - len(keys) * share) <= 4.0 * error + 1e-9
    # As evidence grows, whoever got the probe keeps it.
    less = view_with({"bee": PROBING, "cat": DEMOTED}, {"bee": 1.0}).plan(ASK)
    for key in keys[:1000]:
        if less.models[keyed_draw(less, key)] == "bee":
            assert plan.models[keyed_draw(plan, key)] == "bee"


def test_draws_by_inversion_are_the_shares() -> None:
    plan = view_with({"bee": PROBING, "cat": DEMOTED}).plan(ASK)
    edges = [0.0, *itertools.accumulate(plan.propensities)]
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        if high - low > 1e-9:
            assert draw(plan, low + 1e-12) == draw(plan, high - 1e-12) == i


def test_with_probes_by_hand() -> None:
    assert with_probes([0.7, 0.3, 0.0], 0.0, {2: 0.2}) == pytest.approx([0.56, 0.24, 0.2])
    assert with_probes([0.7, 0.3, 0.0, 0.0], 0.1, {2: 0.2}) == pytest.approx([0.504, 0.216, 0.2, 0.08])
    assert with_probes([0.5, 0.3, 0.2], 0.0, {0: 0.3}) == pytest.approx([0.3, 0.42, 0.28])
    assert with_probes([1.0, 0.0, 0.0], 0.1, {0: 0.3}) == pytest.approx([0.3, 0.63, 0.07])


LIVES = st.lists(st.sampled_from(list(Lifecycle)), min_size=4, max_size=4)
EVIDENCE = st.lists(st.sampled_from([0.0, 1e-3, 0.5, 1.0, 3.0, 50.0, 1e9]), min_size=4, max_size=4)
QUERIES: Sequence[dict[str, Any]] = (
    {},
    {"input_tokens": 0},
    {"input_tokens": 100_000},
    {"allowed_models": ("bee", "dog")},
    {"excluded_models": ("ant",)},
    {"max_cost_usd": 0.0},
)


@profile(max_examples=200, derandomize=True, deadline=None)
@given(LIVES, EVIDENCE, st.sampled_from([0.0, 0.01, 0.2]), st.sampled_from(QUERIES), st.floats(0.0, 0.5), st.floats(0.001, 1.0))
def test_whatever_is_held_shares_are_shares(
    lives: list[Lifecycle], evidence: list[float], floor: float, query: dict[str, Any], least: float, most: float
) -> None:
    lived = dict(zip(FOUR, lives, strict=True))
    recoveries = {name: each if lived[name] is DEMOTED else max(each, 1e-3) for name, each in zip(FOUR, evidence, strict=True)}
    view = view_with(lived, recoveries, floor=floor, onboarding=Onboarding(20, least, most))
    asked = RouteQuery("chat", **query)
    try:
        plan = view.plan(asked)
    except NoEligibleModel as error:
        assert len(error.exclusions) == len(FOUR)
        return
    found = shares(plan)
    assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
    assert all(0.0 <= share <= 1.0 for share in found.values())
    assert not {name for name, life in lived.items() if life is DISABLED} & found.keys()
    if any(row.lifecycle is LIVE for row in plan.eligible):
        best = max(row.utility_mean for row in plan.eligible if row.lifecycle in (LIVE, ONBOARDING))
        held = [row for row in plan.eligible if row.lifecycle in (DEMOTED, PROBING)]
        probed = [row for row in held if row.utility_mean < best or recoveries[row.model] == 0.0]
        assert all(row.propensity <= MOST_PROBES for row in probed)
        assert sum(row.propensity for row in probed) <= MOST_ALL_PROBES + 1e-12
        if len(probed) * MOST_PROBES <= MOST_ALL_PROBES:
            assert all(row.propensity >= LEAST_PROBES for row in probed)
        new = [row for row in plan.eligible if row.lifecycle is ONBOARDING]
        assert all(row.propensity <= max(most, 0.0) + 1e-12 for row in new)
        room = MOST_ALL_PROBES * (1.0 - sum(row.propensity for row in probed)) / max(1, len(new))
        assert all(row.propensity >= min(least, most, room) - 1e-12 for row in new)


BREAKERS = st.lists(st.sampled_from([None, None, "open", 0.01, 0.1, 0.2]), min_size=4, max_size=4)


@profile(max_examples=100, derandomize=True, deadline=None)
@given(LIVES, EVIDENCE, BREAKERS, st.sampled_from([0.0, 0.01, 0.2]), st.sampled_from(QUERIES))
def test_so_they_are_beside_breakers(
    lives: list[Lifecycle], evidence: list[float], breakers: list[Any], floor: float, query: dict[str, Any]
) -> None:
    lived = dict(zip(FOUR, lives, strict=True))
    recoveries = {name: each if lived[name] is DEMOTED else max(each, 1e-3) for name, each in zip(FOUR, evidence, strict=True)}
    states = dict(zip(FOUR, breakers, strict=True))
    trials = frozenset((name, share) for name, share in states.items() if isinstance(share, float))
    broken = Broken(frozenset(name for name, state in states.items() if state == "open"), trials)
    view = view_with(lived, recoveries, floor=floor)
    try:
        plan = view.plan(RouteQuery("chat", **query), broken=broken)
    except NoEligibleModel:
        return
    assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
    assert min(plan.propensities) >= 0.0
    if not broken.open >= {row.model for row in plan.eligible}:
        assert not broken.open & set(plan.models)


def test_what_is_in_flight_counts_the_same_whoever_asked_before() -> None:
    """Plans are kept; which one a request gets must not hang on which was made first."""
    entry = category_entry(models=list(FOUR), planning_horizon_count=100)
    story = Story({"chat": entry})
    story.run(40, *[("chat", model, 0.6) for model in FOUR])
    shared = {"onboarding": {"looks": 20, "min_share": 0.02, "max_share": 0.1}}
    story.configure({"chat": entry | {"models": [*FOUR, "new"]}}, **shared)
    story.run(3, ("chat", "new", 0.6))
    state = story.state._replace(below=frozenset({("chat", "dog")}))
    kept = Snapshot(state, None).view("chat")
    seen = set()
    for count in (0, 1, 10, 100, 1000, 10**6):
        busy = dict.fromkeys(("new", "cat", "dog"), count)
        plan = kept.plan(ASK, busy)
        assert plan == Snapshot(state, None).view("chat").plan(ASK, busy)
        assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
        seen.add(shares(plan)["new"])
    assert seen == {0.02, 0.1}


def test_a_snapshot_that_follows_another_sees_open_changes_as_one_from_scratch() -> None:
    """The longer nothing is heard of a change the less is known of it, also in categories where nothing happens."""
    story = fallen()
    snapshot = Snapshot(story.state, None)
    for i in range(40):
        story.feed("code", "ant", 0.2)
        before, snapshot = snapshot, Snapshot(story.state, snapshot)
        fresh = Snapshot(story.state, None)
        for name in ("chat", "code"):
            assert snapshot.view(name).plan(RouteQuery(name)) == fresh.view(name).plan(RouteQuery(name))
            assert snapshot.report(name) == fresh.report(name)
        if i == 0:
            assert before.view("chat") is not snapshot.view("chat")


def test_probes_of_a_fallen_model_as_the_fold_and_the_policy_see_it() -> None:
    story = fallen()
    story.run(40, ("chat", "bee", 0.4), ("chat", "ant", 0.6))
    plan = Snapshot(story.state, None).view("chat").plan(ASK)
    shift = story.state.shifts["bee"]
    rows = {row.model: row for row in plan.candidates}
    loss, noise = rows["ant"].utility_mean - rows["bee"].utility_mean, story.state.pool.of("bee").noise
    assert rows["bee"].lifecycle is DEMOTED
    assert rows["bee"].propensity == pytest.approx(
        min(MOST_PROBES, max(LEAST_PROBES, probe_share(loss, shift=shift.mean, noise=noise) * shift.recovery.evidence)), rel=1e-9
    )
    assert reason(plan, 1) is Reason.PROBE
    # What people are shown is what is believed of it now, with how unsure that is.
    assert rows["bee"].quality_mean == pytest.approx(0.4, abs=0.03)
    assert rows["bee"].quality_stddev > math.sqrt(shift.variance_at(story.state.position))
    code = Snapshot(story.state, None).view("code").plan(RouteQuery("code"))
    assert code.models[0] == "bee"  # no rival is better there
    assert code.eligible[0].quality_mean == pytest.approx(0.4, abs=0.03)
