from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_worlds import (
    Key,
    Matrix,
    Seen,
    Vector,
    arms_named,
    believed,
    categories,
    conditioned,
    differences,
    layout,
    means_refreshed,
    pool_of,
    sights,
    variances_refreshed,
)

from banditroute.core.mixed import Belief, Fit, contrasts
from banditroute.core.pool import (
    ABILITY,
    CENTRE,
    CENTRE_VARIANCE,
    DIFFICULTY,
    SPREAD_LOG_SD,
    SPREAD_MEDIAN,
    SPREADS,
    START,
    START_NOISE,
    START_SPREAD,
)

PROFILE = settings(max_examples=60, derandomize=True, deadline=None)
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def outlook_of(fit: Fit, category: str, models: list[str]) -> tuple[Vector, Matrix]:
    found = fit.outlook(category, tuple(models))
    covariance: Matrix = np.linalg.inv(found.precision).astype(np.float64)
    return found.mean, covariance


def belief_of(fit: Fit, seen: dict[Key, Seen], category: str, models: list[str]) -> Belief:
    """With the category's own evidence."""
    return believed(
        [seen.get((category, model), Seen(0.0, 0.0)).cell for model in models],
        outlook=fit.outlook(category, tuple(models)),
        known=[fit.pool.of(model) for model in models],
    ).belief


@PROFILE
@given(SEEDS, st.integers(min_value=1, max_value=6), st.integers(min_value=1, max_value=6), st.sampled_from(SPREADS))
def test_outlook_and_posterior_are_the_joint_gaussian_conditioned(seed: int, k: int, m: int, tau: float) -> None:
    """The outlook on all other categories' means, the posterior on the own ones as well; new categories too."""
    rng = np.random.default_rng(seed)
    ks, ms = categories(k), arms_named(m)
    seen, spread = layout(rng, ks, ms), tau * tau
    noises = {model: float(rng.choice((1e-4, 0.01, 0.06, 0.25))) for model in ms}
    fit = Fit(pool_of(seen, noises, spread), ms)
    for category in (*ks, "new"):
        wanted = list(rng.permutation(ms)[: rng.integers(1, m + 1)])
        keys = [(category, str(model)) for model in wanted]
        models = [model for _, model in keys]
        others = {key: told for key, told in seen.items() if key[0] != category}
        mean, covariance = outlook_of(fit, category, models)
        true_mean, true_covariance = conditioned(keys, others, noises, spread)
        np.testing.assert_allclose(mean, true_mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(covariance, true_covariance, rtol=0, atol=1e-9)
        belief = belief_of(fit, seen, category, models)
        mine = {key: told for key, told in seen.items() if key in keys}
        true_mean, true_covariance = conditioned(keys, {**others, **mine}, noises, spread)
        np.testing.assert_allclose(belief.mean, true_mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(belief.covariance, true_covariance, rtol=0, atol=1e-9)


def test_nothing_known_by_hand() -> None:
    mean, covariance = outlook_of(Fit(START, ["ant", "bee"]), "chat", ["ant", "bee"])
    common = CENTRE_VARIANCE + DIFFICULTY
    assert mean == pytest.approx([0.5, 0.5])
    np.testing.assert_allclose(covariance, common + np.diag([ABILITY + START_SPREAD] * 2), rtol=1e-12)


def test_a_category_does_not_teach_itself() -> None:
    """Its own evidence, whatever it says, leaves its outlook alone; the others' outlooks it moves."""
    rng = np.random.default_rng(1)
    ks, ms = categories(4), arms_named(3)
    seen = layout(rng, ks, ms, filled=1.0)
    noises = dict.fromkeys(ms, 0.05)
    other = {key: Seen(900.0, 0.01) if key[0] == "k01" else told for key, told in seen.items()}
    one, two = (Fit(pool_of(told, noises, 0.01), ms) for told in (seen, other))
    for a, b in zip(outlook_of(one, "k01", ms), outlook_of(two, "k01", ms), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert abs(outlook_of(one, "k02", ms)[0] - outlook_of(two, "k02", ms)[0]).max() > 0.01


def test_adding_a_model_does_not_move_what_is_believed_of_the_others() -> None:
    rng = np.random.default_rng(2)
    ks, ms = categories(5), arms_named(4)
    seen = layout(rng, ks, ms)
    noises = dict.fromkeys(ms, 0.05)
    pool = pool_of(seen, noises, 0.01)
    before, after = Fit(pool, ms), Fit(pool, [*ms, "newcomer"])
    for category in (*ks, "new"):
        mean, covariance = outlook_of(before, category, ms)
        mean_, covariance_ = outlook_of(after, category, [*ms, "newcomer"])
        np.testing.assert_allclose(mean_[:4], mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(covariance_[:4, :4], covariance, rtol=0, atol=1e-12)
        one, two = belief_of(before, seen, category, ms), belief_of(after, seen, category, [*ms, "newcomer"])
        np.testing.assert_allclose(two.mean[:4], one.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(two.covariance[:4, :4], one.covariance, rtol=0, atol=1e-12)


def test_a_newcomer_is_expected_to_be_an_average_model_of_its_category() -> None:
    """In a hard category it is expected to score low too, before it was ever tried anywhere."""
    ms = arms_named(5)
    seen = {(k, m): Seen(400.0, level) for k, level in (("easy", 0.9), ("hard", 0.2), ("plain", 0.55)) for m in ms}
    fit = Fit(pool_of(seen, dict.fromkeys(ms, 0.05), 0.001), [*ms, "newcomer"])
    found = {}
    for category in ("easy", "hard"):
        belief = belief_of(fit, seen, category, [*ms, "newcomer"])
        found[category] = belief.mean[-1]
        assert belief.covariance[-1, -1] > 10 * belief.covariance[0, 0]
    assert found["hard"] < 0.35
    assert found["easy"] > 0.75


def test_outlooks_are_worked_out_once() -> None:
    fit = Fit(START, ["ant", "bee"])
    assert fit.outlook("chat", ("ant", "bee")) is fit.outlook("chat", ("ant", "bee"))
    assert fit.outlook("chat", ("bee",)) is not fit.outlook("chat", ("ant",))


# --- contrasts -------------------------------------------------------------------------------------


def random_covariance(rng: np.random.Generator, count: int) -> Matrix:
    root = rng.normal(size=(count, count + 3)) * 0.1
    covariance: Matrix = root @ root.T
    return covariance


def test_contrasts_by_hand() -> None:
    assert contrasts(np.array([[0.04]])) == [0.04]
    # D_12 = .04, half of it each.
    assert contrasts(np.array([[0.05, 0.02], [0.02, 0.03]])) == pytest.approx([0.02, 0.02])
    # D_12 = .05, D_13 = .07, D_23 = .06: d_1 = (.05 + .07 - .06) / 2, and so on round.
    three = np.diag([0.03, 0.02, 0.04]) + 0.5
    assert differences(three)[[0, 0, 1], [1, 2, 2]].tolist() == pytest.approx([0.05, 0.07, 0.06])
    assert contrasts(three) == pytest.approx([0.03, 0.02, 0.04])
    # Four: D_12 = .06, D_13 = .07, D_14 = .04, D_23 = .06, D_24 = .03, D_34 = .05: d_1 = (.17 - .31 / 3) / 2, and so on.
    four = np.diag([0.03, 0.02, 0.04, 0.01]) + 0.5
    four[0, 1] = four[1, 0] = 0.495
    assert contrasts(four) == pytest.approx([(row - 0.31 / 3) / 2 for row in (0.17, 0.15, 0.18, 0.12)])


@PROFILE
@given(SEEDS, st.integers(min_value=3, max_value=12))
def test_contrasts_reproduce_the_differences_as_well_as_can_be(seed: int, count: int) -> None:
    covariance = random_covariance(np.random.default_rng(seed), count)
    d, upper = contrasts(covariance), np.triu_indices(count, 1)
    gaps = differences(covariance)[upper]
    design = np.zeros((len(upper[0]), count))
    design[np.arange(len(upper[0])), upper[0]] = design[np.arange(len(upper[0])), upper[1]] = 1.0
    best = np.linalg.lstsq(design, gaps, rcond=None)[0]
    np.testing.assert_allclose(d, np.maximum(best, 1e-7), rtol=0, atol=1e-12)
    if count == 3 and best.min() > 1e-7:
        np.testing.assert_allclose(design @ d, gaps, rtol=0, atol=1e-12)


@PROFILE
@given(SEEDS, st.integers(min_value=2, max_value=12), st.floats(min_value=0.0, max_value=2.0))
def test_what_moves_all_arms_alike_does_not_widen_exploration(seed: int, count: int, common: float) -> None:
    covariance = random_covariance(np.random.default_rng(seed), count)
    np.testing.assert_allclose(contrasts(covariance + common), contrasts(covariance), rtol=0, atol=1e-13)


def test_contrasts_have_a_floor() -> None:
    for count in (1, 2, 5):
        assert contrasts(np.zeros((count, count))) == [1e-7] * count
    # One arm's difference from the others is surer than theirs from each other can be split: never below 0.
    skew = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, -0.9], [0.0, -0.9, 1.0]])
    assert min(contrasts(skew)) == 1e-7


# --- calibration -----------------------------------------------------------------------------------


def learned_beliefs(seen: dict[Key, Seen], ks: list[str], ms: list[str]) -> dict[str, Belief]:
    """What the product believes: variances learned as the fold learns them, at three refreshes."""
    pool = START
    for _ in range(3):
        pool = variances_refreshed(means_refreshed(pool, sights(seen)), sights(seen))
    fit = Fit(pool, ms)
    return {k: belief_of(fit, seen, k, ms) for k in ks}


def simulated(rng: np.random.Generator, ks: list[str], ms: list[str]) -> tuple[dict[str, Vector], dict[Key, Seen]]:
    """A world drawn from the model, its tau from the hyperprior; looked at unevenly, a fifth of the cells not at all."""
    mass = np.exp(-0.5 * (np.log(np.array(SPREADS) / SPREAD_MEDIAN) / SPREAD_LOG_SD) ** 2)
    tau = float(rng.choice(SPREADS, p=mass / mass.sum()))
    ability = CENTRE + rng.normal(0, CENTRE_VARIANCE**0.5) + rng.normal(0, ABILITY**0.5, len(ms))
    noise = START_NOISE * rng.uniform(0.1, 2.0, len(ms))
    truth, seen = {}, {}
    for k in ks:
        truth[k] = ability + rng.normal(0, DIFFICULTY**0.5) + rng.normal(0, tau, len(ms))
        for j, m in enumerate(ms):
            n = int(rng.choice((0, 1, 3, 12, 60)))
            if n:
                values = rng.normal(truth[k][j], noise[j] ** 0.5, n)
                seen[k, m] = Seen(n, float(values.mean()), float(((values - values.mean()) ** 2).sum()))
    return truth, seen


def test_ninety_per_cent_intervals_of_quality_cover() -> None:
    rng = np.random.default_rng(7)
    ks, ms = categories(8), arms_named(5)
    hits = total = 0
    for _ in range(60):
        truth, seen = simulated(rng, ks, ms)
        for k, belief in learned_beliefs(seen, ks, ms).items():
            sd = np.sqrt(np.diagonal(belief.covariance))
            hits += int((abs(truth[k] - belief.mean) <= 1.6448536 * sd).sum())
            total += len(ms)
    print(f"coverage {hits / total:.4f} of {total}")
    assert 0.85 <= hits / total <= 0.95
