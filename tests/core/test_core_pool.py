from __future__ import annotations

import math
import random

import numpy as np
import pytest
from core_logs import MODELS
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from mixed_worlds import Key, Seen, arms_named, categories, joint, layout, pool_of, sights
from scipy.stats import multivariate_normal

from banditroute.core.evidence import Cell, Usage, add_reward, empty_cell
from banditroute.core.pool import (
    ABILITY,
    CENTRE,
    COST_WEIGHT,
    DIFFICULTY,
    MAX_NOISE,
    MIN_NOISE,
    MIN_SPREAD,
    NOISE_WEIGHT,
    POOLED_NOISE_WEIGHT,
    SPREAD_LOG_SD,
    SPREAD_MEDIAN,
    SPREADS,
    START,
    START_NOISE,
    START_SPREAD,
    Pool,
    Sight,
    interaction_variance,
    log_likelihood,
    refresh_means,
    refresh_variances,
    shrunk_ratio,
)


def cell_of(*values: float, weight: float = 1.0) -> Cell:
    cell = empty_cell(1)
    for value in values:
        cell = add_reward(cell, z=(1.0,), before=(0.0, 0.0), after=(value, weight), weight=1.0, off_policy=False)
    return cell


# --- the interaction's variance --------------------------------------------------------------------


@profile(max_examples=40, derandomize=True, deadline=None)
@given(
    st.integers(min_value=1, max_value=6), st.integers(min_value=1, max_value=6), st.integers(min_value=0, max_value=2**32 - 1)
)
def test_log_likelihood_is_that_of_the_joint_gaussian_up_to_one_constant(k: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ms = arms_named(m)
    seen = layout(rng, categories(k), ms) or {("k00", "m00"): Seen(3.0, 0.4)}
    noises = {model: float(rng.choice((1e-4, 0.01, 0.06, 0.25))) for model in ms}
    given_ = sorted(seen)
    rest = []
    for tau in SPREADS:
        mean, covariance = joint(given_, tau * tau)
        covariance = covariance + np.diag([noises[model] / seen[key, model].n for key, model in given_])
        truth = float(multivariate_normal(mean, covariance).logpdf([seen[key].mean for key in given_]))
        rest.append(truth - log_likelihood(pool_of(seen, noises, tau * tau).cells))
    assert max(rest) - min(rest) <= 1e-9 * max(1.0, *map(abs, rest))
    # The constant: that of the normal density, the prior of mu + b (its determinant), and log sigma_a^2 per category.
    names = {model for _, model in given_}
    prior = joint([("k", model) for model in sorted(names)], 0.0)[1] - DIFFICULTY
    known = len(given_) * math.log(2 * math.pi) + np.linalg.slogdet(prior)[1] + len({c for c, _ in given_}) * math.log(DIFFICULTY)
    assert rest[0] == pytest.approx(-0.5 * known, abs=1e-8)


def test_log_likelihood_of_nothing() -> None:
    assert log_likelihood({}) == 0.0


def test_the_interaction_variance_before_any_evidence() -> None:
    masses = [math.exp(-0.5 * (math.log(tau / SPREAD_MEDIAN) / SPREAD_LOG_SD) ** 2) for tau in SPREADS]
    mean = sum(mass * tau * tau for mass, tau in zip(masses, SPREADS, strict=True)) / sum(masses)
    assert interaction_variance(START, []) == pytest.approx(mean, rel=1e-12)
    assert pytest.approx(mean, abs=5e-5) == START_SPREAD


def world(rng: np.random.Generator, tau: float, *, leader: int = 200, others: int = 40) -> dict[Key, Seen]:
    """Ten categories, six models: the leader, as a bandit does, has many more looks than the rest."""
    ability = CENTRE + rng.normal(0, ABILITY**0.5, 6)
    seen = {}
    for k in categories(10):
        quality = ability + rng.normal(0, DIFFICULTY**0.5) + rng.normal(0, tau, 6)
        for j, m in enumerate(arms_named(6)):
            n = leader if j == int(quality.argmax()) else others
            seen[k, m] = Seen(n, float(quality[j] + rng.normal(0, (0.04 / n) ** 0.5)))
    return seen


@pytest.mark.parametrize("tau", [0.02, 0.08, 0.2])
def test_the_interaction_variance_is_found(tau: float) -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(12):
        seen = world(rng, tau)
        noises = dict.fromkeys(arms_named(6), 0.04)
        found.append(math.sqrt(interaction_variance(pool_of(seen, noises, START_SPREAD), sights(seen))))
    assert 0.7 * tau - 0.005 <= np.mean(found) <= 1.3 * tau + 0.012
    assert min(found) >= math.sqrt(MIN_SPREAD)


def test_the_interaction_variance_has_a_floor_and_a_ceiling() -> None:
    ms, ks = arms_named(6), categories(30)
    noises = dict.fromkeys(ms, 0.01)
    flat: dict[Key, Seen] = {(k, m): Seen(1000.0, 0.5) for k in ks for m in ms}
    assert interaction_variance(pool_of(flat, noises, 0.01), sights(flat)) == MIN_SPREAD
    mad: dict[Key, Seen] = {(k, m): Seen(1000.0, float((i + j) % 2)) for i, k in enumerate(ks) for j, m in enumerate(ms)}
    assert interaction_variance(pool_of(mad, noises, 0.01), sights(mad)) == pytest.approx(max(SPREADS) ** 2)


# --- noise -----------------------------------------------------------------------------------------


def noise_by_hand() -> tuple[list[Sight], float, float, float]:
    ant = [cell_of(0.9, 0.7, 0.8, 0.8), cell_of(0.2, 0.4)]
    bee = cell_of(0.5, 0.7, 0.6)
    rows = [Sight("chat", "ant", ant[0], 1.0), Sight("chat", "bee", bee, 1.0), Sight("code", "ant", ant[1], 1.0)]
    within_ant, within_bee = 0.02 + 0.02, 0.02
    common = (within_ant + within_bee + POOLED_NOISE_WEIGHT * START_NOISE) / (3 + 1 + 2 + POOLED_NOISE_WEIGHT)
    one = (within_ant + NOISE_WEIGHT * common) / (4 + NOISE_WEIGHT)
    two = (within_bee + NOISE_WEIGHT * common) / (2 + NOISE_WEIGHT)
    return rows, common, one, two


def test_noise_by_hand() -> None:
    rows, common, one, two = noise_by_hand()
    pool = refresh_variances(START, rows)
    assert pool.newcomer.noise == pool.of("never heard of").noise == pytest.approx(common)
    assert [pool.of("ant").noise, pool.of("bee").noise] == pytest.approx([one, two])
    assert pool.spread == interaction_variance(pool, rows)
    assert list(pool.cells["chat"]["bee"]) == pytest.approx([1 / (pool.spread + two / 3), 0.6])
    assert pool.cells["code"].keys() == {"ant"}


@pytest.mark.parametrize("weight", [0.1, 0.3, 1.0])
def test_noise_of_small_cells_of_light_signals_is_not_inflated(weight: float) -> None:
    """Many cells with little evidence each: the noise is that of one value, whatever a value weighs."""
    rng = random.Random(3)
    cells = [cell_of(*[min(1.0, max(0.0, rng.gauss(0.5, 0.1))) for _ in range(3)], weight=weight) for _ in range(2000)]
    pool = refresh_variances(START, [Sight(f"k{i:04}", "ant", cell, 1.0) for i, cell in enumerate(cells)])
    assert pool.of("ant").noise == pytest.approx(0.01, rel=0.1)


# --- refreshes -------------------------------------------------------------------------------------


def test_means_by_hand() -> None:
    rows = [
        Sight("chat", "ant", cell_of(*[0.8] * 10), 1.0),
        Sight("chat", "bee", cell_of(0.1), 1.0),
        Sight("chat", "cat", cell_of(), 1.0),
        Sight("code", "ant", cell_of(*[0.6] * 10), 0.5),  # five observations left
    ]
    pool = refresh_means(START, rows)
    assert {name: list(seen) for name, seen in pool.cells.items()} == {"chat": ["ant", "bee"], "code": ["ant"]}
    assert list(pool.cells["chat"]["ant"]) == pytest.approx([1 / (START_SPREAD + START_NOISE / 10), 0.8])
    assert list(pool.cells["chat"]["bee"]) == pytest.approx([1 / (START_SPREAD + START_NOISE), 0.1])
    assert list(pool.cells["code"]["ant"]) == pytest.approx([1 / (START_SPREAD + START_NOISE / 5), 0.6])
    assert pool.of("ant").looks == pytest.approx(15.0)
    assert pool.of("bee").looks == pytest.approx(1.0)
    assert pool.of("cat") == pool.of("never heard of") == pool.newcomer == START.newcomer
    assert pool.spread == START.spread


def test_costs_and_latency_are_pooled_over_categories() -> None:
    billed = Usage(cost_n=10.0, computed_usd=1.0, reported_usd=2.0, latency_n=4.0, latency_s=8.0)
    free = Usage(latency_n=2.0, latency_s=16.0)
    rows = [
        Sight("chat", "ant", cell_of(0.5)._replace(usage=billed), 1.0),
        Sight("chat", "bee", cell_of(0.5)._replace(usage=free), 0.5),
        Sight("chat", "cat", cell_of(0.5), 1.0),
        Sight("code", "ant", cell_of(0.5)._replace(usage=billed), 0.5),
    ]
    pool = refresh_means(START, rows)
    assert pool.of("ant").cost_ratio == pytest.approx((15 * 2 + COST_WEIGHT) / (15 + COST_WEIGHT))
    assert pool.of("ant").latency_s == pytest.approx(2.0)
    assert pool.of("bee").latency_s == pytest.approx(8.0)
    assert pool.of("cat").latency_s is None
    assert pool.newcomer.latency_s == pytest.approx((8 + 4 + 8) / (4 + 2 + 1))


def test_refreshes_of_nothing() -> None:
    assert refresh_means(START, []) == START
    fresh = refresh_variances(START, [])
    assert fresh.newcomer.noise == pytest.approx(START_NOISE)
    assert fresh.spread == pytest.approx(START_SPREAD, abs=5e-5)
    assert fresh._replace(newcomer=START.newcomer, spread=START.spread) == START


def test_refreshing_means_keeps_variances_and_refreshing_variances_keeps_the_rest() -> None:
    rows, _, one, _ = noise_by_hand()
    pool = refresh_means(refresh_variances(refresh_means(START, rows), rows), rows)
    assert pool.of("ant").noise == pytest.approx(one)
    assert pool.of("ant").looks == pytest.approx(6.0)
    assert refresh_means(pool, rows) == pool
    assert refresh_variances(pool, rows) == pool


@profile(max_examples=100, derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("chat", "code", "sums")),
            st.sampled_from(MODELS),
            st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(1e-3, 1.0)), max_size=6),
            st.floats(0.0, 1.0),
        ),
        max_size=12,
        unique_by=lambda row: row[:2],
    )
)
def test_refreshes_stay_in_range(groups: list[tuple[str, str, list[tuple[float, float]], float]]) -> None:
    rows = []
    for category, model, said, factor in sorted(groups):
        cell = empty_cell(1)
        for value, weight in said:
            cell = add_reward(cell, z=(1.0,), before=(0.0, 0.0), after=(value, weight), weight=1.0, off_policy=False)
        rows.append(Sight(category, model, cell, factor))
    pool: Pool = START
    for _ in range(3):
        pool = refresh_variances(refresh_means(pool, rows), rows)
    assert MIN_SPREAD <= pool.spread <= max(SPREADS) ** 2 + 1e-12
    for pooled in (*pool.models.values(), pool.newcomer):
        assert MIN_NOISE <= pooled.noise <= MAX_NOISE
        assert pooled.looks >= 0.0
    for seen in pool.cells.values():
        for weight, mean in seen.values():
            assert 0.0 < weight <= 1.0 / MIN_SPREAD + 1e-9
            assert -1e-9 <= mean <= 1.0 + 1e-9


def test_shrunk_ratio() -> None:
    assert shrunk_ratio(reported=0.0, computed=0.0, count=0.0, prior=1.3) == 1.3
    assert shrunk_ratio(reported=5.0, computed=0.0, count=5.0, prior=1.3) == 1.3
    assert shrunk_ratio(reported=3.0, computed=2.0, count=10.0, prior=1.0) == pytest.approx((3.0 + 2.0) / (2.0 + 2.0))
