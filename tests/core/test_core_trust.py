"""How far priors from outside are trusted: tempered where they conflict with what is seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from mixed_worlds import (
    Key,
    Seen,
    arms_named,
    categories,
    means_refreshed,
    pool_of,
    sights,
    told_of_inverted,
    with_priors,
)

from banditroute.core.pool import ABILITY, CENTRE, DIFFICULTY, PRIOR_NOISE, PRIOR_SIZE, PRIOR_SLACK, START, START_NOISE, Pool
from banditroute.core.settings import ANY_CATEGORY, SharedSettings
from banditroute.core.types import RouteQuery
from banditroute.snapshot import Snapshot

PROFILE = settings(max_examples=60, derandomize=True, deadline=None)
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def test_trust_by_hand() -> None:
    """chi^2 of `m00` = .4^2 / (.06/12 + .06/8 + .0009) = 11.94 in one category, above 1 + 2 sqrt(2): alpha = (1 / 11.94)^2.

    Evidence and prior of 12 and 8 make .6 of a category's word, on `m00` and on `m01`, whose prior is right.
    """
    seen = {("k00", "m00"): Seen(12.0, 0.5), ("k00", "m01"): Seen(12.0, 0.5)}
    priors = {("k00", "m00"): (0.9, 8.0), ("k00", "m01"): (0.6, 8.0), ("k01", "m00"): (0.9, 8.0)}  # there, nothing was seen
    pool = means_refreshed(START, sights(seen, with_priors(["k00", "k01"], arms_named(3), priors)))
    chi2 = 0.16 / (0.06 / 12 + 0.06 / 8 + PRIOR_SLACK)
    assert chi2 == pytest.approx(11.940, abs=1e-3)
    alpha = (1 / chi2) ** 2
    assert pool.of("m00").trust == pytest.approx(alpha)
    assert pool.of("m01").trust == pytest.approx(alpha ** (0.6 / 1.6)) == pytest.approx(0.156, abs=1e-3)
    assert pool.of("m02").trust == pool.of("never heard of").trust == pytest.approx(alpha ** (0.6 / 2.2))
    # It is what the priors weigh from then on, of `m00` in the other category too.
    worth = 8 * pool.of("m01").trust
    assert list(pool.cells["k00"]["m01"]) == pytest.approx([(12 + worth) / 0.06, (12 * 0.5 + worth * 0.6) / (12 + worth)])
    assert list(pool.cells["k01"]["m00"]) == pytest.approx([8 * alpha / 0.06, 0.9])


def test_a_prior_is_judged_as_no_surer_than_it_can_be() -> None:
    """Noise of .02 at least, 25 observations at most."""
    seen = {("k00", m): Seen(12.0, 0.5) for m in arms_named(2)}
    sure = pool_of(seen, dict.fromkeys(arms_named(2), 0.0001), 0.0152)
    pool = means_refreshed(sure, sights(seen, with_priors(["k00"], arms_named(2), {("k00", "m00"): (0.6, 400.0)})))
    chi2 = 0.01 / (0.0001 / 12 + PRIOR_NOISE / PRIOR_SIZE + PRIOR_SLACK)
    assert chi2 > 1 + 2 * 2**0.5
    assert pool.of("m00").trust == pytest.approx((1 / chi2) ** 2)


@pytest.mark.parametrize("wrong", [0, 1, 2, 3, 4])
def test_what_is_found_of_one_models_priors_counts_for_or_against_the_others(wrong: int) -> None:
    """The geometric mean of the others' alphas, each by how much was seen of it, and 1 for a file that is right."""
    ms = arms_named(4)
    looks = [4.0, 12.0, 24.0, 72.0]
    weights = [n / (n + 8) for n in looks]
    seen = {("k00", m): Seen(n, 0.5) for m, n in zip(ms, looks, strict=True)}
    priors = {("k00", m): (0.95 if i < wrong else 0.5, 8.0) for i, m in enumerate(ms)}
    pool = means_refreshed(START, sights(seen, with_priors(["k00"], ms, priors)))
    alphas = [((0.06 / n + 0.06 / 8 + PRIOR_SLACK) / 0.2025) ** 2 if i < wrong else 1.0 for i, n in enumerate(looks)]

    def found_of_others(but: int) -> float:
        others = [(w, a) for i, (w, a) in enumerate(zip(weights, alphas, strict=True)) if i != but]
        return float(np.prod([a ** (w / (1 + sum(w for w, _ in others))) for w, a in others]))

    assert trusts(pool, 4) == pytest.approx([alpha * found_of_others(i) for i, alpha in enumerate(alphas)])
    assert pool.newcomer.trust == pytest.approx(found_of_others(99))
    if wrong:
        assert max(*trusts(pool, 4), pool.newcomer.trust) < 0.7
    else:
        assert {*trusts(pool, 4), pool.newcomer.trust} == {1.0}


def test_priors_for_any_category_are_judged_too() -> None:
    ks = categories(5)
    seen = {(k, "m00"): Seen(40.0, 0.2) for k in ks}
    pool = means_refreshed(START, sights(seen, with_priors(ks, arms_named(2), {(ANY_CATEGORY, "m00"): (0.9, 10.0)})))
    assert pool.of("m00").trust < 0.01
    assert pool.of("m01").trust < 0.1  # never seen: it is the file that was wrong


def world(
    rng: np.random.Generator, models: int, *, looks: tuple[int, ...], sizes: tuple[float, ...], inverted: bool = False
) -> tuple[dict[Key, Seen], SharedSettings]:
    """Eight categories of the mixed model with noise START_NOISE; priors made from so many observations of their own."""
    ks, ms = categories(8), arms_named(models)
    ability = CENTRE + rng.normal(0, 0.1) + rng.normal(0, ABILITY**0.5, models)
    seen: dict[Key, Seen] = {}
    priors: dict[Key, tuple[float, float]] = {}
    for k in ks:
        quality = np.clip(ability + rng.normal(0, DIFFICULTY**0.5) + rng.normal(0, 0.1, models), 0.05, 0.95)
        for m, truth in zip(ms, quality.tolist(), strict=True):
            n, size = int(rng.choice(looks)), float(rng.choice(sizes))
            if n:
                seen[k, m] = Seen(n, float(truth + rng.normal(0, (START_NOISE / n) ** 0.5)))
            said = (1.0 - truth if inverted else truth) + rng.normal(0, (START_NOISE / size) ** 0.5)
            priors[k, m] = min(1.0, max(0.0, float(said))), size
    return seen, with_priors(ks, ms, priors)


def trusts(pool: Pool, models: int) -> list[float]:
    return [pool.of(m).trust for m in arms_named(models)]


def test_right_priors_are_kept() -> None:
    """Of 200 worlds, with few looks and many: one model's priors are hardly ever called wrong, and five never much."""
    rng = np.random.default_rng(6)
    kept, of_five = 0, []
    for _ in range(200):
        seen, shared = world(rng, 1, looks=(0, 1, 3, 12, 60), sizes=(5.0, 25.0))
        kept += trusts(means_refreshed(START, sights(seen, shared)), 1) == [1.0]
        seen, shared = world(rng, 5, looks=(0, 1, 3, 12, 60), sizes=(5.0, 25.0))
        of_five.append(trusts(means_refreshed(START, sights(seen, shared)), 5))
    whole = np.mean([min(found) == 1.0 for found in of_five])
    print(f"kept: {kept} of 200; of five models: in {whole:.3f} of worlds all, mean trust {np.mean(of_five):.4f}")
    assert kept >= 190
    assert whole >= 0.8
    assert np.mean(of_five) >= 0.93


@pytest.mark.parametrize(("looks", "most"), [(6, 0.05), (24, 0.01)])
def test_inverted_priors_are_tempered_within_a_few_dozen_observations_of_each_cell(looks: int, most: float) -> None:
    rng = np.random.default_rng(7)
    gone = []
    for _ in range(60):
        seen, shared = world(rng, 5, looks=(looks,), sizes=(25.0,), inverted=True)
        gone += trusts(means_refreshed(START, sights(seen, shared)), 5)
    print(f"trust after {looks}: mean {np.mean(gone):.5f}, most {max(gone):.4f}")
    assert max(gone) <= most


def test_inverted_priors_first_mislead_and_then_are_overruled() -> None:
    priors = {(k, m): (quality, 25.0) for k in categories(2) for m, quality in zip(arms_named(3), (0.2, 0.5, 0.8), strict=True)}
    first = Snapshot(told_of_inverted(priors, 0), None).view("k00")
    assert first.plan(RouteQuery("k00")).models[0] == "m02"
    state = told_of_inverted(priors, 12)
    assert max(state.pool.of(m).trust for m in ("m00", "m02")) < 0.01
    view = Snapshot(state, None).view("k00")
    assert view.beliefs.belief.mean == pytest.approx([0.8, 0.5, 0.2], abs=0.1)
    assert view.plan(RouteQuery("k00")).models[0] == "m00"
    assert view.plan(RouteQuery("k00")).propensities[0] > 0.95
