"""Priors from outside: observations of the mixed model, as far as they are trusted."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest
from core_logs import config_event, decided, fold, scored
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_worlds import (
    Key,
    Seen,
    Shown,
    arms_named,
    believed,
    categories,
    conditioned,
    layout,
    means_refreshed,
    pool_of,
    prior_shown,
    shared_document,
    sights,
    told_of_inverted,
    with_priors,
)

from banditroute.core.evidence import empty_cell
from banditroute.core.fold import learn
from banditroute.core.mixed import Fit
from banditroute.core.pool import CENTRE, PRIOR_SIZE, START, START_NOISE
from banditroute.core.posterior import LOOKAHEAD
from banditroute.core.settings import ANY_CATEGORY
from banditroute.core.state import State
from banditroute.core.types import Event, RouteQuery
from banditroute.snapshot import Snapshot

PROFILE = settings(max_examples=60, derandomize=True, deadline=None)
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


# --- in the pool -----------------------------------------------------------------------------------


def some_priors(rng: np.random.Generator, ks: list[str], ms: list[str], share: float = 0.4) -> dict[Key, tuple[float, float]]:
    places = [(k, m) for k in (*ks, ANY_CATEGORY) for m in ms if rng.random() < share]
    return {key: (float(rng.random()), float(rng.choice((0.5, 4.0, 25.0, 300.0)))) for key in places}


def from_elsewhere(
    category: str, priors: Mapping[Key, tuple[float, float]], noises: Mapping[str, float], trusts: Mapping[str, float]
) -> list[Shown]:
    """What the priors of other categories say: a model's count as PRIOR_SIZE observations all together, its own there too."""
    shown = []
    for (k, m), (quality, size) in priors.items():
        total = sum(min(PRIOR_SIZE, n) for (c, model), (_, n) in priors.items() if model == m and c != ANY_CATEGORY)
        if k not in (category, ANY_CATEGORY):
            shown.append(prior_shown((k, m), quality, size, noises[m], trusts[m] * PRIOR_SIZE / max(PRIOR_SIZE, total)))
    return shown


def its_own(
    category: str, priors: Mapping[Key, tuple[float, float]], noises: Mapping[str, float], trusts: Mapping[str, float]
) -> list[Shown]:
    """What the category's own priors say of its arms, or else those for any category."""
    shown = []
    for m, noise in noises.items():
        place = next((c for c in (category, ANY_CATEGORY) if (c, m) in priors), None)
        if place is not None:
            shown.append(prior_shown((category, m), *priors[place, m], noise, trusts[m]))
    return shown


@PROFILE
@given(SEEDS, st.integers(min_value=1, max_value=5), st.integers(min_value=1, max_value=5))
def test_outlook_and_posterior_are_the_joint_gaussian_with_the_priors_as_observations(seed: int, k: int, m: int) -> None:
    """Those of other categories move the outlook, as trusted; the arm's own, or else that of any category, the posterior."""
    rng = np.random.default_rng(seed)
    ks, ms, spread = categories(k), arms_named(m), float(rng.choice((0.0004, 0.0152, 0.06)))
    seen, priors = layout(rng, ks, ms, filled=0.4), some_priors(rng, ks, ms)
    noises = {model: float(rng.choice((1e-4, 0.01, 0.06, 0.25))) for model in ms}
    trusts = {model: float(rng.choice((1.0, 0.7, 0.01))) for model in ms}
    shared = with_priors(ks, ms, priors)
    pool = pool_of(seen, noises, spread, shared, trusts)
    fit = Fit(pool, ms)
    for category in ks:
        keys = [(category, model) for model in ms]
        others = {key: told for key, told in seen.items() if key[0] != category}
        named = from_elsewhere(category, priors, noises, trusts)
        outlook = fit.outlook(category, tuple(ms))
        mean, covariance = conditioned(keys, others, noises, spread, named)
        np.testing.assert_allclose(outlook.mean, mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(np.linalg.inv(outlook.precision), covariance, rtol=0, atol=1e-9)
        named += its_own(category, priors, noises, trusts)
        found = believed(
            [seen.get(key, Seen(0.0, 0.0)).cell for key in keys],
            settings=shared.categories[category],
            known=[pool.of(model) for model in ms],
            outlook=outlook,
            priors=[shared.prior(category, model) for model in ms],
        )
        mean, covariance = conditioned(keys, seen, noises, spread, named)
        np.testing.assert_allclose(found.belief.mean, mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.belief.covariance, covariance, rtol=0, atol=1e-9)


def test_a_prior_of_one_category_moves_the_others_and_the_same_models() -> None:
    ks, ms = categories(3), arms_named(3)
    noises = dict.fromkeys(ms, START_NOISE)
    fit = Fit(pool_of({}, noises, 0.0152, with_priors(ks, ms, {("k00", "m00"): (0.9, 20.0)})), ms)
    mean = fit.outlook("k01", tuple(ms)).mean
    # One observation of variance .06 / 20 on a quality of variance .1402, sharing .1025 with m00 elsewhere, .0625 with the rest.
    total = 0.0625 + 0.0225 + 0.04 + 0.0152 + 0.003
    assert mean == pytest.approx([0.5 + 0.4 * 0.1025 / total, *[0.5 + 0.4 * 0.0625 / total] * 2])
    assert fit.outlook("new", tuple(ms)).mean == pytest.approx(mean)
    assert fit.outlook("k00", tuple(ms)).mean == pytest.approx([0.5] * 3)


def test_a_models_priors_count_as_one_file_towards_other_categories() -> None:
    """Four of 25 each weigh what one of them would; a model with little told stands as it is."""
    ks, ms = categories(4), arms_named(2)
    priors = {(k, "m00"): (0.9, 25.0) for k in ks} | {("k00", "m01"): (0.3, 10.0), ("k01", "m01"): (0.4, 10.0)}
    pool = means_refreshed(START, sights({}, with_priors(ks, ms, priors)))
    for k in ks:
        assert list(pool.cells[k]["m00"]) == pytest.approx([25 / 4 / START_NOISE, 0.9])
    assert [list(pool.cells[k]["m01"]) for k in ks[:2]] == [pytest.approx([10 / START_NOISE, q]) for q in (0.3, 0.4)]
    # On its own arm each counts in full.
    state, _ = fold([config_event(1, shared_document(ks, ms, priors))])
    noises, trusted = dict.fromkeys(ms, START_NOISE), dict.fromkeys(ms, 1.0)
    told = from_elsewhere("k00", priors, noises, trusted) + its_own("k00", priors, noises, trusted)
    assert [round(START_NOISE / each.variance, 9) for each in told] == [6.25, 6.25, 6.25, 10.0, 25.0, 10.0]
    mean, _ = conditioned([("k00", m) for m in ms], {}, {}, state.pool.spread, told)
    np.testing.assert_allclose(Snapshot(state, None).view("k00").beliefs.belief.mean, mean, rtol=0, atol=1e-9)


def test_priors_for_any_category_act_on_their_arms_only() -> None:
    ks, ms = categories(3), arms_named(3)
    state, _ = fold([config_event(1, shared_document(ks, ms, {(ANY_CATEGORY, "m00"): (0.9, 20.0)}))])
    assert state.pool.cells == {}
    fit = Fit(state.pool, ms)
    assert fit.outlook("k01", tuple(ms)).mean == pytest.approx([CENTRE] * 3)
    for k in ks:
        view = Snapshot(state, None).view(k)
        truth, _ = conditioned([(k, m) for m in ms], {}, {}, state.pool.spread, [prior_shown((k, "m00"), 0.9, 20.0, START_NOISE)])
        np.testing.assert_allclose(view.beliefs.belief.mean, truth, rtol=0, atol=1e-9)
        assert view.beliefs.belief.mean[0] > 0.85


def test_a_named_prior_hides_that_for_any_category() -> None:
    ks, ms = categories(2), arms_named(2)
    priors = {(ANY_CATEGORY, "m00"): (0.9, 20.0), ("k00", "m00"): (0.2, 5.0)}
    pool = means_refreshed(START, sights({}, with_priors(ks, ms, priors)))
    assert {k: list(seen) for k, seen in pool.cells.items()} == {"k00": ["m00"]}
    assert list(pool.cells["k00"]["m00"]) == pytest.approx([5 / START_NOISE, 0.2])


def test_more_pseudo_observations_than_so_many_count_as_so_many() -> None:
    ks, ms = categories(3), arms_named(3)
    rng = np.random.default_rng(3)
    seen = layout(rng, ks, ms)
    found = []
    for size in (PRIOR_SIZE, 26.0, 1e6):
        shared = with_priors(
            ks, ms, {("k00", "m00"): (0.9, size), ("k01", "m01"): (0.3, size), (ANY_CATEGORY, "m02"): (0.1, size)}
        )
        pool = means_refreshed(START, sights(seen, shared))
        found.append(means_refreshed(pool, sights(seen, shared)))
    assert found[0] == found[1] == found[2]
    one, other = [
        fold([config_event(1, shared_document(ks, ms, {("k00", "m00"): (0.9, size), ("*", "m01"): (0.3, size)}))])[0]
        for size in (25.0, 900.0)
    ]
    for k in ks:
        first, second = (Snapshot(state, None).view(k).beliefs.belief for state in (one, other))
        np.testing.assert_array_equal(first.mean, second.mean)


def test_right_after_the_configuration_routing_already_uses_priors() -> None:
    """Position 1, nothing seen: the priors of three categories decide in the fourth, and all is as the joint Gaussian says."""
    ks, ms = categories(4), arms_named(2)
    priors = {(k, m): (quality, 25.0) for k in ks[:3] for m, quality in (("m00", 0.9), ("m01", 0.3))}
    state, _ = fold([config_event(1, shared_document(ks, ms, priors))])
    assert state.position == 1
    noises, trusts = dict.fromkeys(ms, START_NOISE), dict.fromkeys(ms, 1.0)
    for k in ks:
        view = Snapshot(state, None).view(k)
        told = from_elsewhere(k, priors, noises, trusts) + its_own(k, priors, noises, trusts)
        mean, covariance = conditioned([(k, m) for m in ms], {}, {}, state.pool.spread, told)
        np.testing.assert_allclose(view.beliefs.belief.mean, mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(view.beliefs.belief.covariance, covariance, rtol=0, atol=1e-9)
        plan = view.plan(RouteQuery(k))
        assert plan.models == ("m00", "m01")
        assert plan.propensities[0] > 0.9
    # The next configuration takes them back at once.
    state, _ = learn(state, config_event(2, shared_document(ks, ms, {})))
    assert state.pool.cells == {}
    assert Snapshot(state, None).view("k03").plan(RouteQuery("k03")).propensities == pytest.approx((0.5, 0.5))


# --- and evidence ----------------------------------------------------------------------------------


def test_a_wrong_prior_does_not_move_the_evidence() -> None:
    """Sums, noise and the cells of models without priors are as they are without it."""
    without, wrong = [told_of_inverted(priors, 5) for priors in ({}, {("k00", "m00"): (0.0, 25.0)})]
    assert wrong.pool.of("m00").trust < 0.1
    for k in categories(2):
        assert wrong.categories[k].cells == without.categories[k].cells
        for m in ("m01", "m02"):
            assert wrong.pool.cells[k][m] == without.pool.cells[k][m]
    assert wrong.pool.cells["k01"]["m00"] == without.pool.cells["k01"]["m00"]
    assert wrong.pool.cells["k00"]["m00"] != without.pool.cells["k00"]["m00"]
    for m in arms_named(3):
        assert wrong.pool.of(m)._replace(trust=1.0, ability=0.5) == without.pool.of(m)._replace(trust=1.0, ability=0.5)


def test_adding_a_model_does_not_move_the_evidence_of_the_others() -> None:
    """The sums to the bit; what each cell says of its mean too, with a right prior of the newcomer or none."""
    ks, ms = categories(2), arms_named(3)
    state = told_of_inverted({("k00", "m00"): (0.75, 10.0)}, 6)
    same, _ = learn(state, config_event(40, shared_document(ks, ms, {("k00", "m00"): (0.75, 10.0)})))
    for prior in ({}, {("k01", "m99"): (0.5, 10.0)}):
        document_ = shared_document(ks, [*ms, "m99"], {("k00", "m00"): (0.75, 10.0), **prior})
        more, found = learn(state, config_event(40, document_))
        assert [each.kind for each in found] == ["onboarding"]
        for k in ks:
            assert {m: more.categories[k].cells[m] for m in ms} == state.categories[k].cells
            assert {m: more.pool.cells[k][m] for m in ms} == same.pool.cells[k]
            assert more.categories[k].cells["m99"] == empty_cell(1)
        for m, held in same.pool.models.items():  # a newcomer's prior says something of how hard its category is
            assert more.pool.of(m)._replace(ability=held.ability) == held
            assert more.pool.of(m).ability == pytest.approx(held.ability, abs=0.05)
        assert "m99" not in more.pool.cells["k00"]


def test_independent_events_in_any_order_leave_the_same_sums() -> None:
    """Of several categories and models, with attempts: each decision keeps its ordinal, as the log gives it."""
    ks, ms = categories(3), arms_named(4)
    rng = random.Random(9)
    start, _ = fold([config_event(1, shared_document(ks, ms, {("k00", "m00"): (0.75, 10.0)}))])
    facts = [(i, rng.choice(ks), rng.choice(ms), rng.random()) for i in range(150)]

    def told(order: list[tuple[int, str, str, float]]) -> State:
        events: list[Event] = []
        for at, (i, k, m, value) in enumerate(order):
            made = scored(2 + at, 1 + i, decided(k, m), value)
            tried = {"error": 0, "observe_us": 1, "input_tokens": 1000 * value, "output_tokens": i, "latency_s": value}
            made.body["after"]["attempts"][f"{m}\x1f"] = tried
            events.append(made)
        return fold(events, start)[0]

    one = told(facts)
    rng.shuffle(facts)
    other = told(facts)
    for k in ks:
        for m in ms:
            cell, again = one.categories[k].cells[m], other.categories[k].cells[m]
            for found, expected in zip((again[0], again[1], again[3]), (cell[0], cell[1], cell[3]), strict=True):
                assert found == pytest.approx(expected, abs=1e-9)
            assert again.square == pytest.approx(cell.square, abs=1e-9)
            assert again[4:] == cell[4:]


def test_lookahead_is_part_of_what_priors_leave() -> None:
    """What 4 more looks would leave counts the prior once, as the belief does."""
    ms = arms_named(2)
    shared = with_priors(["k00"], ms, {("k00", "m00"): (0.9, 8.0)})
    pool = pool_of({}, dict.fromkeys(ms, 0.06), 0.0152, shared)
    ahead = Fit(pool, ms, looks=LOOKAHEAD, arms={"k00": ms}).outlook("k00", tuple(ms))
    found = believed(
        [empty_cell(1)] * 2,
        settings=shared.categories["k00"],
        known=[pool.of(m) for m in ms],
        outlook=Fit(pool, ms).outlook("k00", tuple(ms)),
        ahead=ahead,
        priors=[shared.prior("k00", m) for m in ms],
    )
    told = [prior_shown(("k00", "m00"), 0.9, 8.0, 0.06), *[Shown(("k00", m), 0.5, 0.06 / LOOKAHEAD) for m in ms]]
    _, covariance = conditioned([("k00", m) for m in ms], {}, {}, 0.0152, told)
    np.testing.assert_allclose(found.later, covariance, rtol=0, atol=1e-12)
