from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from core_logs import MODELS, category_entry, document
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from mixed_worlds import (
    Key,
    Seen,
    arms_named,
    categories,
    joint,
    layout,
    looked_at,
    means_refreshed,
    own,
    pool_of,
    sights,
    variances_refreshed,
)
from scipy.stats import multivariate_normal

from banditroute.core.evidence import Cell, Usage, add_reward, add_usage, empty_cell, scaled, usage_of
from banditroute.core.numerics import cholesky, log, whitened
from banditroute.core.pool import (
    ABILITY,
    CENTRE,
    CENTRE_VARIANCE,
    DIFFICULTY,
    MAX_NOISE,
    MIN_NOISE,
    MIN_SPREAD,
    NOISE_WEIGHT,
    POOLED_NOISE_WEIGHT,
    PRIOR_NOISE,
    PRIOR_SIZE,
    SPREAD_LOG_SD,
    SPREAD_MEDIAN,
    SPREADS,
    START,
    START_NOISE,
    START_SPREAD,
    USAGE_WEIGHT,
    interaction_variance,
    log_likelihoods,
    shrunk_ratio,
)
from banditroute.core.settings import parse_shared
from banditroute.core.sights import Sights


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
    precision, mean = own(pool_of(seen, noises, START_SPREAD), sights(seen))
    likelihoods = log_likelihoods(precision, mean, [tau * tau for tau in SPREADS])
    rest = []
    for tau, likelihood in zip(SPREADS, likelihoods, strict=True):
        centre, covariance = joint(given_, tau * tau)
        covariance = covariance + np.diag([noises[model] / seen[key, model].n for key, model in given_])
        truth = float(multivariate_normal(centre, covariance).logpdf([seen[key].mean for key in given_]))
        rest.append(truth - likelihood)
        assert likelihood == likelihood_by_single_numbers(precision.tolist(), mean.tolist(), tau * tau)
    assert max(rest) - min(rest) <= 1e-9 * max(1.0, *map(abs, rest))
    # The constant: that of the normal density, the prior of mu + b (its determinant), and log sigma_a^2 per category.
    names = {model for _, model in given_}
    prior = joint([("k", model) for model in sorted(names)], 0.0)[1] - DIFFICULTY
    known = len(given_) * math.log(2 * math.pi) + np.linalg.slogdet(prior)[1] + len({c for c, _ in given_}) * math.log(DIFFICULTY)
    assert rest[0] == pytest.approx(-0.5 * known, abs=1e-8)


def likelihood_by_single_numbers(precision: list[list[float]], mean: list[list[float]], spread: float) -> float:
    """The same arithmetic in the same order, one number at a time: tables must give the same bits."""
    count = len(precision[0])
    shared = CENTRE_VARIANCE / (ABILITY * (ABILITY + count * CENTRE_VARIANCE))
    within, between = [0.0] * count, [[0.0] * count for _ in range(count)]
    moment = [0.0] * count
    logs_of_totals, logs_of_weights, squares = [], [], []
    for sure, means in zip(precision, mean, strict=True):
        weights = [each / (1.0 + spread * each) for each in sure]
        gaps = [value - CENTRE if each else 0.0 for each, value in zip(sure, means, strict=True)]
        total, pull = 0.0, 0.0
        for weight, gap in zip(weights, gaps, strict=True):
            total += weight
            pull += weight * gap
        total += 1.0 / DIFFICULTY
        pull /= total
        logs_of_totals.append(log(total))
        logs_of_weights += [log(weight) for weight in weights if weight]
        for i, (weight, gap) in enumerate(zip(weights, gaps, strict=True)):
            share = weight * (gap - pull)
            squares.append(gap * share)
            moment[i] += share
            within[i] += weight
            for j, other in enumerate(weights):
                between[i][j] += weight / total * other
    matrix = [[(1.0 if i == j else 0.0) / ABILITY - shared for j in range(count)] for i in range(count)]
    for i, row in enumerate(matrix):
        row[i] += within[i]
        matrix[i] = [x - y for x, y in zip(row, between[i], strict=True)]
    low = cholesky(matrix)
    twice = math.fsum(logs_of_totals) - math.fsum(logs_of_weights)
    twice += math.fsum(squares)
    twice += 2.0 * math.fsum(log(row[i]) for i, row in enumerate(low))
    return -0.5 * (twice - math.fsum(x * x for x in whitened(low, moment)))


def test_log_likelihood_of_cells_that_are_not_there() -> None:
    """A category without cells leaves the bits alone; a model without cells changes the constant only."""
    seen = layout(np.random.default_rng(1), categories(9), arms_named(6))
    precision, mean = own(START, sights(seen))
    spreads = [tau * tau for tau in SPREADS]
    whole = log_likelihoods(precision, mean, spreads)
    gap = np.insert(precision, [0, 5, 9], 0.0, axis=0), np.insert(mean, [0, 5, 9], 0.9, axis=0)
    assert log_likelihoods(*gap, spreads) == whole
    wider = log_likelihoods(np.insert(precision, 2, 0.0, axis=1), np.insert(mean, 2, 0.9, axis=1), spreads)
    assert [a - wider[0] for a in wider] == pytest.approx([a - whole[0] for a in whole], abs=1e-9)


def test_log_likelihood_of_nothing() -> None:
    for shape in ((0, 0), (2, 3)):
        assert log_likelihoods(np.zeros(shape), np.zeros(shape), [0.01, 0.02]) == [0.0, 0.0]


def test_the_interaction_variance_before_any_evidence() -> None:
    masses = [math.exp(-0.5 * (math.log(tau / SPREAD_MEDIAN) / SPREAD_LOG_SD) ** 2) for tau in SPREADS]
    mean = sum(mass * tau * tau for mass, tau in zip(masses, SPREADS, strict=True)) / sum(masses)
    assert interaction_variance(np.zeros((0, 0)), np.zeros((0, 0))) == pytest.approx(mean, rel=1e-12)
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
        found.append(math.sqrt(interaction_variance(*own(pool_of(seen, noises, START_SPREAD), sights(seen)))))
    assert 0.7 * tau - 0.005 <= np.mean(found) <= 1.3 * tau + 0.012
    assert min(found) >= math.sqrt(MIN_SPREAD)


def test_the_interaction_variance_has_a_floor_and_a_ceiling() -> None:
    ms, ks = arms_named(6), categories(30)
    noises = dict.fromkeys(ms, 0.01)
    flat: dict[Key, Seen] = {(k, m): Seen(1000.0, 0.5) for k in ks for m in ms}
    assert interaction_variance(*own(pool_of(flat, noises, 0.01), sights(flat))) == MIN_SPREAD
    mad: dict[Key, Seen] = {(k, m): Seen(1000.0, float((i + j) % 2)) for i, k in enumerate(ks) for j, m in enumerate(ms)}
    assert interaction_variance(*own(pool_of(mad, noises, 0.01), sights(mad))) == pytest.approx(max(SPREADS) ** 2)


# --- noise -----------------------------------------------------------------------------------------


def noise_by_hand() -> tuple[Sights, float, float, float]:
    ant = [cell_of(0.9, 0.7, 0.8, 0.8), cell_of(0.2, 0.4)]
    bee = cell_of(0.5, 0.7, 0.6)
    rows = looked_at([("chat", "ant", ant[0]), ("chat", "bee", bee), ("code", "ant", ant[1])])
    within_ant, within_bee = 0.02 + 0.02, 0.02
    common = (within_ant + within_bee + POOLED_NOISE_WEIGHT * START_NOISE) / (3 + 1 + 2 + POOLED_NOISE_WEIGHT)
    one = (within_ant + NOISE_WEIGHT * common) / (4 + NOISE_WEIGHT)
    two = (within_bee + NOISE_WEIGHT * common) / (2 + NOISE_WEIGHT)
    return rows, common, one, two


def test_noise_by_hand() -> None:
    rows, common, one, two = noise_by_hand()
    pool = variances_refreshed(means_refreshed(START, rows), rows)
    assert pool.newcomer.noise == pool.of("never heard of").noise == pytest.approx(common)
    assert [pool.of("ant").noise, pool.of("bee").noise] == pytest.approx([one, two])
    assert pool.spread == interaction_variance(*own(pool, rows))
    assert list(pool.cells["chat"]["bee"]) == pytest.approx([3 / two, 0.6])
    assert pool.cells["code"].keys() == {"ant"}


@pytest.mark.parametrize("weight", [0.1, 0.3, 1.0])
def test_noise_of_small_cells_of_light_signals_is_not_inflated(weight: float) -> None:
    """Many cells with little evidence each: the noise is that of one value, whatever a value weighs."""
    rng = random.Random(3)
    cells = [cell_of(*[min(1.0, max(0.0, rng.gauss(0.5, 0.1))) for _ in range(3)], weight=weight) for _ in range(2000)]
    rows = looked_at((f"k{i:04}", "ant", cell) for i, cell in enumerate(cells))
    pool = variances_refreshed(means_refreshed(START, rows), rows)
    assert pool.of("ant").noise == pytest.approx(0.01, rel=0.1)


# --- refreshes -------------------------------------------------------------------------------------


def test_means_by_hand() -> None:
    rows = [
        ("chat", "ant", cell_of(*[0.8] * 10)),
        ("chat", "bee", cell_of(0.1)),
        ("chat", "cat", cell_of()),
        ("code", "ant", cell_of(*[0.6] * 10)),  # five observations left
    ]
    pool = means_refreshed(START, looked_at(rows, {"code": 0.5}))
    assert {name: list(seen) for name, seen in pool.cells.items()} == {"chat": ["ant", "bee"], "code": ["ant"]}
    assert list(pool.cells["chat"]["ant"]) == pytest.approx([10 / START_NOISE, 0.8])
    assert list(pool.cells["chat"]["bee"]) == pytest.approx([1 / START_NOISE, 0.1])
    assert list(pool.cells["code"]["ant"]) == pytest.approx([5 / START_NOISE, 0.6])
    assert pool.models.keys() == {"ant", "bee"}
    assert pool.of("cat") == pool.of("never heard of") == pool.newcomer == START.newcomer
    assert pool.spread == START.spread


def test_tokens_costs_and_latency_are_pooled_over_categories() -> None:
    billed = Usage(
        input_n=8.0,
        input_tokens=16_000.0,
        output_n=2.0,
        output_tokens=300.0,
        cost_n=10.0,
        computed_usd=1.0,
        reported_usd=2.0,
        latency_n=4.0,
        latency_s=8.0,
    )
    free = Usage(latency_n=2.0, latency_s=16.0)
    rows = [
        ("chat", "ant", cell_of(0.5)._replace(usage=billed)),
        ("chat", "bee", scaled(cell_of(0.5)._replace(usage=free), 0.5)),
        ("chat", "cat", cell_of(0.5)),
        ("code", "ant", cell_of()._replace(usage=billed)),
        ("code", "dog", cell_of()._replace(usage=Usage(input_n=4.0, input_tokens=200.0))),
    ]
    asked = {"chat": (1000.0, 300.0), "code": (500.0, 0.0)}  # nothing is expected of answers on code: they say nothing
    entries = {
        name: category_entry(expected_input_tokens=into, expected_output_tokens=out) for name, (into, out) in asked.items()
    }
    pool = means_refreshed(START, looked_at(rows, {"code": 0.5}, parse_shared(document(entries))))
    ant = pool.of("ant")
    w = USAGE_WEIGHT
    assert ant.cost_ratio == pytest.approx((15 * 2 + w) / (15 + w))
    # 12 attempts used 24,000 tokens where 8 * 1000 + 4 * 500 were expected; a mean attempt expects 10,000 / 12.
    assert ant.input_ratio == pytest.approx((24_000 + w * 10_000 / 12) / (10_000 + w * 10_000 / 12))
    assert ant.output_ratio == pytest.approx((2 * 0.5 + w) / (2 + w))
    assert ant.latency_s == pytest.approx(2.0)
    assert pool.of("bee").latency_s == pytest.approx(8.0)
    assert pool.of("cat").latency_s is None
    assert (pool.of("cat").input_ratio, pool.of("cat").cost_ratio) == (1.0, 1.0)
    assert pool.of("dog").input_ratio == pytest.approx((2 * 0.1 + w) / (2 + w))  # two attempts left, nothing judged
    assert pool.newcomer.latency_s == pytest.approx((8 + 4 + 8) / (4 + 2 + 1))


def test_tokens_where_a_prior_states_them_say_nothing_of_the_model() -> None:
    """They are compared to the prior there, which may be right: what is usual elsewhere does not follow."""
    used = Usage(input_n=50.0, input_tokens=350_000.0, output_n=50.0, output_tokens=30_000.0)
    stated = {"quality": 0.5, "effective_sample_size": 1.0, "input_tokens": 7000.0}
    entries = {"chat": category_entry(), "code": category_entry()}
    for place in ("chat", "*"):
        shared = parse_shared(document(entries, priors={place: {"ant": stated}}))
        pool = means_refreshed(START, looked_at([("chat", "ant", cell_of()._replace(usage=used))], shared=shared))
        assert pool.of("ant").input_ratio == 1.0
        assert pool.of("ant").output_ratio == pytest.approx((50 * 2 + USAGE_WEIGHT) / (50 + USAGE_WEIGHT))


def test_refreshes_of_nothing() -> None:
    assert means_refreshed(START, sights({})) == START
    fresh = variances_refreshed(START, sights({}))
    assert fresh.newcomer.noise == pytest.approx(START_NOISE)
    assert fresh.spread == pytest.approx(START_SPREAD, abs=5e-5)
    assert fresh._replace(newcomer=START.newcomer, spread=START.spread) == START


def test_refreshing_means_keeps_variances_and_refreshing_variances_keeps_the_rest() -> None:
    rows, _, one, _ = noise_by_hand()
    pool = means_refreshed(variances_refreshed(means_refreshed(START, rows), rows), rows)
    assert pool.of("ant").noise == pytest.approx(one)
    assert means_refreshed(pool, rows) == pool
    assert variances_refreshed(pool, rows) == pool


SAID = st.tuples(st.floats(0.0, 1.0), st.floats(1e-3, 1.0))
AMOUNT = st.one_of(st.just(0.0), st.floats(1e-9, 1e12))
USES = st.tuples(*[AMOUNT] * 4)


@profile(max_examples=200, derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("chat", "code", "sums")),
            st.sampled_from(MODELS),
            st.lists(SAID, max_size=6),
            st.floats(0.0, 1.0),
            st.lists(USES, max_size=3),
        ),
        max_size=12,
        unique_by=lambda row: row[:2],
    ),
    st.dictionaries(
        st.tuples(st.sampled_from(("chat", "code", "*")), st.sampled_from(MODELS)),
        st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1e6), st.none() | st.floats(0.0, 1e9)),
    ),
    st.tuples(*[st.one_of(st.just(0.0), st.floats(1e-9, 1e9))] * 3),
)
def test_refreshes_stay_in_range(
    groups: list[tuple[str, str, list[tuple[float, float]], float, list[tuple[float, float, float, float]]]],
    told: dict[Key, tuple[float, float, float | None]],
    expected: tuple[float, float, float],
) -> None:
    priors: dict[str, dict[str, Any]] = {}
    for (category, model), (quality, size, tokens) in told.items():
        stated = {"quality": quality, "effective_sample_size": size, "input_tokens": tokens}
        priors.setdefault(category, {})[model] = stated
    entries = {
        name: category_entry(expected_input_tokens=tokens, expected_output_tokens=expected[0])
        for name, tokens in zip(("chat", "code", "sums"), expected, strict=True)
    }
    rows = []
    for category, model, said, factor, uses in sorted(groups):
        cell = empty_cell(1)
        for value, weight in said:
            cell = add_reward(cell, z=(1.0,), before=(0.0, 0.0), after=(value, weight), weight=1.0, off_policy=False)
        for into, out, usd, seconds in uses:
            attempt = {"error": 0, "input_tokens": into, "output_tokens": out, "cost_usd": usd, "computed_usd": out}
            after = usage_of(attempt | {"latency_s": seconds})
            cell = add_usage(cell, before=(Usage(), False), after=after, weight=1.0)
        rows.append((category, model, scaled(cell, factor)))
    pool, seen = START, looked_at(rows, shared=parse_shared(document(entries, priors=priors)))
    for _ in range(3):
        pool = variances_refreshed(means_refreshed(pool, seen), seen)
    assert MIN_SPREAD <= pool.spread <= max(SPREADS) ** 2 + 1e-12
    for pooled in (*pool.models.values(), pool.newcomer):
        assert MIN_NOISE <= pooled.noise <= MAX_NOISE
        assert 0.0 < pooled.trust <= 1.0
        for ratio in (pooled.cost_ratio, pooled.input_ratio, pooled.output_ratio):
            assert 0.0 < ratio < math.inf
        assert pooled.latency_s is None or 0.0 <= pooled.latency_s <= 1e12
    for known in pool.cells.values():
        for precision, mean in known.values():
            assert 0.0 < precision <= 6.0 / MIN_NOISE + PRIOR_SIZE / PRIOR_NOISE + 1e-9
            assert -1e-9 <= mean <= 1.0 + 1e-9


def test_shrunk_ratio() -> None:
    assert shrunk_ratio(0.0, 0.0, 0.0, prior=1.3) == 1.3
    assert shrunk_ratio(5.0, 5.0, 0.0, prior=1.3) == 1.3
    assert shrunk_ratio(10.0, 3.0, 2.0, prior=1.0) == pytest.approx((3.0 + 0.8) / (2.0 + 0.8))  # four attempts of .2 each
