"""What the next looks could tell: V - V', by which draws vary."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from core_logs import category_entry, config_event, decided, document, fold, model_entry, scored
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_worlds import (
    Key,
    Matrix,
    Seen,
    Shown,
    Vector,
    arms_named,
    believed,
    categories,
    conditioned,
    differences,
    layout,
    pool_of,
    prior_shown,
)

from banditroute.core.fold import learn
from banditroute.core.mixed import Fit, contrasts
from banditroute.core.policy import outline
from banditroute.core.pool import SPREADS, START, START_SPREAD
from banditroute.core.posterior import LOOKAHEAD, Arms
from banditroute.core.types import RouteQuery
from banditroute.snapshot import Snapshot

PROFILE = settings(max_examples=60, derandomize=True, deadline=None)
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)
Places = Mapping[str, Sequence[str]]


def beliefs(category: str, seen: dict[Key, Seen], noises: dict[str, float], spread: float, places: Places) -> Arms:
    """As a snapshot derives them, for `places` being all the categories there are, with their arms."""
    pool, models = pool_of(seen, noises, spread), tuple(places[category])
    return believed(
        [seen.get((category, m), Seen(0.0, 0.0)).cell for m in models],
        known=[pool.of(m) for m in models],
        outlook=Fit(pool, sorted(noises)).outlook(category, models),
        ahead=Fit(pool, sorted(noises), looks=LOOKAHEAD, arms=places).outlook(category, models),
    )


def looks_everywhere(places: Places, noises: Mapping[str, float]) -> list[Shown]:
    """`LOOKAHEAD` looks at every arm of every category; what they show does not matter to what they leave."""
    return [Shown((k, m), 0.5, noises[m] / LOOKAHEAD) for k, ms in places.items() for m in ms]


def draws(found: Arms) -> Vector:
    """The variances that draws have."""
    return np.square(outline(found.belief, found.later).spread)


def whole(found: Arms) -> Vector:
    """Those that they would have by all that is unknown."""
    return np.array(contrasts(found.belief.covariance))


# --- exactly ---------------------------------------------------------------------------------------


@PROFILE
@given(SEEDS, st.integers(min_value=1, max_value=5), st.integers(min_value=1, max_value=5), st.sampled_from(SPREADS))
def test_what_is_left_later_is_the_joint_gaussian_with_so_many_more_looks(seed: int, k: int, m: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    ks, ms, spread = [*categories(k), "new"], arms_named(m), tau * tau
    seen = layout(rng, ks[:-1], ms)
    noises = {model: float(rng.choice((1e-4, 0.01, 0.06, 0.25))) for model in ms}
    places = {category: [str(model) for model in rng.permutation(ms)] for category in ks}
    for category, models in places.items():
        later = beliefs(category, seen, noises, spread, places).later
        _, covariance = conditioned(
            [(category, model) for model in models], seen, noises, spread, looks_everywhere(places, noises)
        )
        np.testing.assert_allclose(later, covariance, rtol=0, atol=1e-9)


@PROFILE
@given(SEEDS, st.integers(min_value=2, max_value=5), st.integers(min_value=2, max_value=5), st.sampled_from(SPREADS))
def test_a_model_is_looked_at_where_it_is_an_arm_and_nowhere_else(seed: int, k: int, m: int, tau: float) -> None:
    """Each category with some of the models, in its own order. What is known of a model that is not, or no longer, an arm of
    another category still counts there; in the own category only its arms do."""
    rng = np.random.default_rng(seed)
    ks, ms, spread = [*categories(k), "new"], arms_named(m), tau * tau
    seen = layout(rng, [*ks[:-1], "gone"], ms)
    noises = {model: float(rng.choice((1e-4, 0.01, 0.06, 0.25))) for model in ms}
    places = {category: [str(model) for model in rng.permutation(ms)[: rng.integers(1, m + 1)]] for category in ks}
    for category, models in places.items():
        found, keys = beliefs(category, seen, noises, spread, places), [(category, model) for model in models]
        counted = {key: told for key, told in seen.items() if key[0] != category or key in keys}
        mean, covariance = conditioned(keys, counted, noises, spread)
        _, later = conditioned(keys, counted, noises, spread, looks_everywhere(places, noises))
        np.testing.assert_allclose(found.belief.mean, mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.belief.covariance, covariance, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.later, later, rtol=0, atol=1e-9)


def test_looks_where_a_model_is_no_arm_would_leave_less_of_it() -> None:
    """ant is an arm of two of four categories: looks in two categories leave more unknown of it than in four would."""
    ms, noises = ["ant", "bee"], {"ant": 0.06, "bee": 0.06}
    full = dict.fromkeys(categories(4), ms)
    some = {k: ms if i < 2 else ["bee"] for i, k in enumerate(full)}
    half, everywhere = [beliefs("k00", {}, noises, 0.0025, places).later for places in (some, full)]
    assert half[0, 0] > 1.1 * everywhere[0, 0]
    # About as much as if there were only the two: bee in the others tells a little of mu.
    two = beliefs("k00", {}, noises, 0.0025, dict.fromkeys(categories(2), ms)).later
    assert half[0, 0] < two[0, 0]
    np.testing.assert_allclose(half[0, 0], two[0, 0], rtol=0.05)


def test_looks_at_other_categories_leave_the_own_out() -> None:
    """The outlook after more looks: as from 4 more observations of every cell of the other categories, and none of its own."""
    rng = np.random.default_rng(5)
    ks, ms = categories(4), arms_named(3)
    noises = dict(zip(ms, (0.01, 0.06, 0.2), strict=True))
    seen = layout(rng, ks, ms)
    fit = Fit(pool_of(seen, noises, 0.01), ms, looks=LOOKAHEAD, arms=dict.fromkeys(ks, ms))
    for k in ks:
        others = {key: told for key, told in seen.items() if key[0] != k}
        elsewhere = looks_everywhere({c: ms for c in ks if c != k}, noises)
        _, covariance = conditioned([(k, m) for m in ms], others, noises, 0.01, elsewhere)
        np.testing.assert_allclose(np.linalg.inv(fit.outlook(k, tuple(ms)).precision), covariance, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "arms",
    [
        [["m00", "m01", "m02"]] * 4,
        [["m01", "m00"], ["m02", "m01"], ["m02", "m00", "m01"], ["m02"]],  # each arm in some categories only
    ],
)
def test_a_snapshot_looks_ahead_over_all_its_categories(arms: list[list[str]]) -> None:
    """From the fold: evidence in some categories, a prior in one, nothing at all in another, which is looked at too."""
    ks, ms = categories(4), arms_named(3)
    places = dict(zip(ks, arms, strict=True))
    prior = {"quality": 0.7, "effective_sample_size": 10.0}
    entries = {k: category_entry(models=models) for k, models in places.items()}
    shared = document(entries, models={m: model_entry() for m in ms}, priors={"k01": {"m02": prior}})
    state, _ = fold([config_event(1, shared)])
    rng, seen = random.Random(2), {}
    for k in ks[:3]:
        for m in sorted({*ms[:2]} & {*places[k]}):
            values = [rng.random() for _ in range(rng.randint(1, 9))]
            seen[k, m] = Seen(len(values), sum(values) / len(values))
            for value in values:
                state, found = learn(state, scored(state.position + 1, state.position, decided(k, m), value))
                assert not found
    state, _ = learn(state, config_event(state.position + 1, shared))  # refits, so that all categories are up to date
    pool = state.pool
    noises = {m: pool.of(m).noise for m in ms}
    told = [prior_shown(("k01", "m02"), 0.7, 10.0, noises["m02"], pool.of("m02").trust)]
    for k in ks:
        found_ = Snapshot(state, None).view(k).beliefs
        keys = [(k, m) for m in places[k]]
        mean, covariance = conditioned(keys, seen, noises, pool.spread, told)
        _, later = conditioned(keys, seen, noises, pool.spread, told + looks_everywhere(places, noises))
        np.testing.assert_allclose(found_.belief.mean, mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found_.belief.covariance, covariance, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found_.later, later, rtol=0, atol=1e-9)


# --- what it means ---------------------------------------------------------------------------------


@PROFILE
@given(SEEDS, st.integers(min_value=1, max_value=6), st.integers(min_value=1, max_value=6))
def test_looks_never_leave_less_known(seed: int, k: int, m: int) -> None:
    """V - V' is positive semidefinite, so draws never vary by more than all that is unknown between any two arms."""
    rng = np.random.default_rng(seed)
    ks, ms = categories(k), arms_named(m)
    noises = {model: float(rng.choice((1e-4, 0.01, 0.06, 0.25))) for model in ms}
    seen = layout(rng, ks, ms)
    places = dict.fromkeys([*ks, "new"], ms)
    for category in places:
        found = beliefs(category, seen, noises, float(rng.choice(SPREADS)) ** 2, places)
        told: Matrix = found.belief.covariance - found.later
        assert np.linalg.eigvalsh(told).min() >= -1e-12
        assert np.linalg.eigvalsh(found.later).min() > 0.0
        assert (differences(told) <= differences(found.belief.covariance) + 1e-12).all()


@pytest.mark.parametrize("others", [0.0, 500.0])
def test_an_arm_never_seen_gets_nearly_all_of_its_variance_where_noise_is_small(others: float) -> None:
    ks, ms = categories(4), arms_named(4)
    seen = {(k, m): Seen(others, 0.6) for k in ks for m in ms[:3]} if others else {}
    shares = {}
    for noise in (0.001, 0.01, 0.06):
        found = beliefs("k00", seen, dict.fromkeys(ms, noise), START_SPREAD, dict.fromkeys(ks, ms))
        shares[noise] = draws(found)[3] / whole(found)[3]
    assert shares[0.001] > 0.98
    assert shares[0.01] > 0.9
    assert shares[0.06] > 0.7


def test_where_noise_hides_what_is_left_to_learn_draws_hardly_vary() -> None:
    ks, ms = categories(3), arms_named(3)
    seen = {(k, m): Seen(400.0, 0.6) for k in ks for m in ms}
    found = beliefs("k00", seen, dict.fromkeys(ms, 0.25), START_SPREAD, dict.fromkeys(ks, ms))
    assert (draws(found) < 0.02 * whole(found)).all()
    # Just about as many looks as were taken tell half of it.
    few = beliefs("k00", {key: Seen(LOOKAHEAD, 0.6) for key in seen}, dict.fromkeys(ms, 0.01), 0.25, dict.fromkeys(ks, ms))
    assert draws(few) / whole(few) == pytest.approx([0.5] * 3, abs=0.02)


@pytest.mark.parametrize("noise", [0.005, 0.06, 0.25])
def test_more_looks_narrow_the_draws(noise: float) -> None:
    ks, ms = categories(3), arms_named(3)
    noises = dict.fromkeys(ms, noise)
    last = np.full(3, np.inf)
    for n in (0.0, 1.0, 4.0, 16.0, 64.0, 256.0):
        seen = {(k, m): Seen(n, 0.5) for k in ks for m in ms} if n else {}
        now = draws(beliefs("k00", seen, noises, START_SPREAD, dict.fromkeys(ks, ms)))
        assert (now < last).all()
        last = now
        # Those at one arm narrow its own, and leave the others' alone.
        if n:
            of_one = draws(beliefs("k00", {("k00", "m00"): Seen(n, 0.5)}, noises, START_SPREAD, dict.fromkeys(ks, ms)))
            fresh = draws(beliefs("k00", {}, noises, START_SPREAD, dict.fromkeys(ks, ms)))
            assert of_one[0] < 0.9 * fresh[0]
            assert of_one[1:] == pytest.approx(fresh[1:])


def test_looks_elsewhere_narrow_the_draws_too() -> None:
    """A model known from nine categories leaves less to be told in the tenth."""
    ks, ms = categories(10), arms_named(3)
    noises = dict.fromkeys(ms, 0.06)
    fresh = draws(beliefs("k09", {}, noises, 0.0025, dict.fromkeys(ks, ms)))
    known = draws(beliefs("k09", {(k, m): Seen(50.0, 0.5) for k in ks[:9] for m in ms}, noises, 0.0025, dict.fromkeys(ks, ms)))
    assert (known < 0.2 * fresh).all()


def test_categories_without_looks_change_nothing() -> None:
    bare, named = (
        Fit(START, ["ant", "bee"], arms=places).outlook("chat", ("ant", "bee"))
        for places in ({}, {"chat": ["ant", "bee"], "code": ["bee"]})
    )
    np.testing.assert_allclose(bare.precision, named.precision, rtol=0, atol=1e-12)
    assert named.mean == pytest.approx([0.5, 0.5])


def test_an_untried_arm_among_well_known_ones_is_tried() -> None:
    """From the fold: two models known well and alike, a third that came in later."""
    ms = arms_named(3)
    entries = [category_entry(models=ms[:count], cost_weight=0.0, propensity_floor=0.0) for count in (2, 3)]
    models = {m: model_entry() for m in ms}
    state, _ = fold([config_event(1, document({"chat": entries[0]}, models=models))])
    rng = random.Random(3)
    for i in range(400):
        value = min(1.0, max(0.0, rng.gauss(0.7, 0.1)))
        state, _ = learn(state, scored(2 + i, 1 + i, decided("chat", ms[i % 2]), value))
    state, _ = learn(state, config_event(402, document({"chat": entries[1]}, models=models)))
    view = Snapshot(state, None).view("chat")
    shares = dict(zip(*[getattr(view.plan(RouteQuery("chat")), name) for name in ("models", "propensities")], strict=True))
    spread = outline(view.beliefs.belief, view.beliefs.later).spread
    assert spread[2] > 5 * max(spread[:2])
    assert shares["m02"] > 0.1
