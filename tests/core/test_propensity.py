from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtr

from banditroute.bench.propensity import Case, draw_z, plan_of, quadrature_errors, reference, run
from banditroute.core import propensity
from banditroute.core.policy import draw, keyed_draw
from banditroute.core.propensity import NEGLIGIBLE, beats, integrate, thompson, with_floor

PROFILE = settings(max_examples=150, derandomize=True, deadline=None)


@st.composite
def cases(drawn: st.DrawFn, most: int = 8) -> Case:
    count = drawn(st.integers(min_value=2, max_value=most))
    means = drawn(st.lists(st.floats(min_value=-1.0, max_value=1.0), min_size=count, max_size=count))
    stddevs = drawn(st.lists(st.floats(min_value=0.003, max_value=0.3), min_size=count, max_size=count))
    return Case(means, stddevs)


def test_against_adaptive_quadrature_on_a_thousand_cases() -> None:
    error, sum_error = quadrature_errors(1000, seed=0)
    assert error <= 1e-8
    assert sum_error <= 1e-8


def test_the_benchmark_reports_what_it_measured() -> None:
    found = run(quick=True, seed=1)
    assert found["cases"] == 100
    assert found["draws"] == 100_000
    assert found["max_abs_error"] <= 1e-8
    assert found["max_sum_error"] <= 1e-8
    assert found["max_draw_z"] <= 4.0


def test_a_million_draws() -> None:
    assert draw_z(1_000_000, seed=0) <= 4.0


# --- each of the two rules, and where one takes over from the other ---

EVEN, PANELS = 10**9, 0
"""As `_MOST_STEPS`: even steps everywhere, or panels everywhere."""
PLACES, WEIGHTS = np.polynomial.legendre.leggauss(16)


def by_brute_force(case: Case) -> NDArray[np.float64]:
    """Each arm's integral over panels of at most half of every arm's deviation: its sum is 1 to 1e-13."""
    means, stddevs = np.array(case.means)[:, None], np.array(case.stddevs)[:, None]
    low, high = (means - 8.5 * stddevs).max(), (means + 8.5 * stddevs).max()
    edges = np.unique(np.clip(means + stddevs * np.arange(-8.5, 8.51, 0.5), low, high))
    half = np.diff(edges)[:, None] / 2
    z = ((edges[:-1, None] + half + half * PLACES).reshape(-1) - means) / stddevs
    below, density = ndtr(z), np.exp(-z * z / 2) / math.sqrt(2 * math.pi) / stddevs
    others = np.array([np.delete(below, i, axis=0).prod(axis=0) for i in range(len(z))])
    found: NDArray[np.float64] = (density * others) @ (half * WEIGHTS).reshape(-1)
    return found


def even_steps(case: Case) -> float:
    """How many even steps an arm the case would take."""
    low, high = (max(m + side * 7 * s for m, s in zip(case.means, case.stddevs, strict=True)) for side in (-1, 1))
    return (high - low) / 0.9 * math.sqrt(sum(1 / (s * s) for s in case.stddevs)) / len(case.means)


def is_even(case: Case) -> bool:
    """Whether the product takes even steps."""
    gaps = np.diff(propensity._nodes(case.means, case.stddevs)[0])
    return bool(np.ptp(gaps) < 1e-6 * gaps.mean())


def shaped_case(rng: random.Random, count: int, shape: str, ratio: float) -> Case:
    smallest = 10.0 ** rng.uniform(-4.0, -1.0)
    stddevs = {
        "any": [smallest * ratio ** rng.random() for _ in range(count)],
        "one wide": [smallest] * (count - 1) + [smallest * ratio],
        "one narrow": [smallest] + [smallest * ratio] * (count - 1),
        "equal": [smallest] * count,
    }[shape]
    width = rng.choice((0.0, 0.3, 1.0, 3.0)) * rng.choice(stddevs)
    return Case([rng.gauss(0.0, 1.0) * width for _ in stddevs], stddevs)


@pytest.mark.parametrize("shape", ["any", "one wide", "one narrow", "equal"])
def test_both_rules_against_brute_force(shape: str) -> None:
    """3 to 20 arms, largest to smallest deviation from 1 to 1,000. Even steps keep the 1e-10 that their step is chosen for."""
    rng = random.Random(3)
    taken: Counter[bool] = Counter()
    for i in range(540):
        case = shaped_case(rng, 3 + i % 18, shape, 10.0 ** rng.uniform(0.0, 3.0))
        even, truth = is_even(case), by_brute_force(case)
        assert even == (even_steps(case) <= 32.0)
        exact = integrate(np.array(case.means), np.array(case.stddevs))
        np.testing.assert_allclose(exact, truth, rtol=0, atol=1e-10 if even else 1e-9)
        np.testing.assert_allclose(thompson(case.means, case.stddevs), truth, rtol=0, atol=1e-8)
        assert abs(float(exact.sum()) - 1.0) <= 1e-9
        taken[even] += 1
    assert taken[True] >= 100
    assert taken[False] == 0 if shape == "equal" else taken[False] >= 100


@pytest.mark.parametrize("shape", ["any", "one wide", "one narrow"])
def test_where_one_rule_takes_over_both_are_exact(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a belief that moves across moves no propensity by more than that."""
    rng = random.Random(4)
    near: Counter[bool] = Counter()
    while near.total() < 200:
        case = shaped_case(rng, rng.randint(3, 20), shape, 10.0 ** rng.uniform(0.0, 3.0))
        if not 26.0 <= even_steps(case) <= 40.0:
            continue
        near[is_even(case)] += 1
        truth = by_brute_force(case)
        for steps, error in ((EVEN, 1e-10), (PANELS, 1e-9)):
            with monkeypatch.context() as patch:
                patch.setattr(propensity, "_MOST_STEPS", steps)
                assert is_even(case) == (steps == EVEN)
                exact = integrate(np.array(case.means), np.array(case.stddevs))
            np.testing.assert_allclose(exact, truth, rtol=0, atol=error)
    assert min(near[True], near[False]) >= 40


@pytest.mark.parametrize("count", [3, 4, 5, 10, 20])
@pytest.mark.parametrize("ratio", [1.0, 3.0, 30.0, 1000.0])
def test_equal_arms_beside_one_of_another_deviation_share_alike(count: int, ratio: float) -> None:
    for other in (0.01 * ratio, 0.01 / ratio):
        exact = integrate(np.full(count, 0.5), np.array([*[0.01] * (count - 1), other]))
        np.testing.assert_allclose(exact[:-1], np.full(count - 1, exact[0]), rtol=0, atol=1e-14)
        assert abs(float(exact.sum()) - 1.0) <= 1e-9


@pytest.mark.parametrize("count", [3, 5, 10, 16, 20, 21, 50, 100, 256])
def test_many_equal_arms_as_in_a_fresh_category(count: int) -> None:
    exact = integrate(np.full(count, 0.5), np.full(count, 0.25))
    assert abs(float(exact.sum()) - 1.0) <= 1e-9
    assert thompson([0.5] * count, [0.25] * count) == pytest.approx([1.0 / count] * count, abs=1e-9)


@pytest.mark.parametrize("height", [0.0, 50.0, -1e5])
@pytest.mark.parametrize("stddev", [0.0, 1e-9, 1e-6, 0.1])
def test_small_deviations_far_from_zero(height: float, stddev: float) -> None:
    assert thompson([height] * 4, [stddev] * 4) == pytest.approx([0.25] * 4, abs=1e-8)


def test_no_deviation_at_all() -> None:
    assert thompson([0.1, 0.3, 0.2], [0.0] * 3) == [0.0, 1.0, 0.0]
    assert thompson([0.3, 0.3], [0.0, 0.0]) == [0.5, 0.5]
    assert thompson([0.5], [0.0]) == [1.0]
    mixed = thompson([0.0, -0.1, -0.1], [0.2, 0.0, 0.0])  # two fixed arms tie at -.1; the first varies about 0
    assert mixed[0] == pytest.approx(beats(0.1, 0.2), abs=1e-8)
    assert mixed[1] == pytest.approx(mixed[2], abs=1e-8)


def test_two_arms_have_the_closed_form() -> None:
    shares = thompson([0.7, 0.6], [0.03, 0.04])
    assert shares[0] == pytest.approx(0.5 * math.erfc(-2.0 / math.sqrt(2.0)), abs=1e-12)
    assert sum(shares) == 1.0


def test_hopeless_arms_are_dropped_and_cost_less_than_the_bound() -> None:
    case = Case([1.0, 0.98, 0.97, 0.2, 0.1], [0.02, 0.02, 0.02, 0.1, 0.1])
    shares = thompson(case.means, case.stddevs)
    assert shares[3] == shares[4] == 0.0
    assert shares == pytest.approx(reference(case), abs=4 * NEGLIGIBLE)
    just = 6.1449 * 0.1 * math.sqrt(2.0)  # every rival just inside or outside of the threshold, the worst case
    for gap in (just, just + 1e-4):
        edge = Case([0.0] + [-gap] * 19, [0.1] * 20)
        assert thompson(edge.means, edge.stddevs) == pytest.approx(reference(edge), abs=1e-8)


@PROFILE
@given(cases(), st.randoms(use_true_random=False), st.floats(min_value=-20.0, max_value=20.0))
def test_order_and_level_do_not_matter(case: Case, rng: random.Random, shift: float) -> None:
    shares = thompson(case.means, case.stddevs)
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)
    order = list(range(len(shares)))
    rng.shuffle(order)
    shuffled = thompson([case.means[i] for i in order], [case.stddevs[i] for i in order])
    assert shuffled == pytest.approx([shares[i] for i in order], abs=1e-8)
    moved = thompson([m + shift for m in case.means], case.stddevs)
    assert moved == pytest.approx(shares, abs=1e-8)


@st.composite
def distributions(drawn: st.DrawFn) -> list[float]:
    raw = drawn(st.lists(st.floats(min_value=0.0, max_value=1.0), min_size=1, max_size=30).filter(lambda x: sum(x) > 1e-3))
    total = sum(raw)
    return [x / total for x in raw]


@PROFILE
@given(distributions(), st.floats(min_value=0.0, max_value=0.2))
def test_floor(shares: list[float], floor: float) -> None:
    floored = with_floor(shares, floor)
    effective = min(floor, 0.5 / len(shares))
    assert sum(floored) == pytest.approx(1.0, abs=1e-12)
    assert min(floored) >= effective
    for i, a in enumerate(shares):
        for j, b in enumerate(shares):
            if a <= b:
                assert floored[i] <= floored[j]


def test_floor_by_hand() -> None:
    assert with_floor([0.9, 0.1, 0.0], 0.05) == pytest.approx([0.855, 0.095, 0.05])
    assert with_floor([0.9, 0.051, 0.049], 0.05) == pytest.approx([0.95 * 0.9 / 0.951, 0.95 * 0.051 / 0.951, 0.05])
    assert with_floor([0.948, 0.05, 0.002], 0.05) == pytest.approx(
        [0.9, 0.05, 0.05]
    )  # the second falls below by the first's lift
    assert with_floor([1.0, 0.0, 0.0, 0.0], 0.2) == pytest.approx([0.625, 0.125, 0.125, 0.125])  # K * floor > 1/2
    assert with_floor([1.0], 0.2) == [1.0]


def test_keyed_draws_have_the_same_frequencies() -> None:
    shares = [0.6, 0.25, 0.1, 0.05, 0.0]
    plan, draws = plan_of(shares), 40_000
    counts = [0] * len(shares)
    for i in range(draws):
        counts[keyed_draw(plan, b"key-%d" % i)] += 1
    assert counts[4] == 0
    for count, share in zip(counts[:4], shares[:4], strict=True):
        assert abs(count - draws * share) <= 4.0 * math.sqrt(draws * share * (1.0 - share))


def test_a_key_repeats_its_draw_and_keeps_it_under_small_changes() -> None:
    before, after = plan_of([0.5, 0.3, 0.2]), plan_of([0.51, 0.295, 0.195])
    kept = 0
    for i in range(4000):
        key = b"key-%d" % i
        assert keyed_draw(before, key) == keyed_draw(before, key)
        kept += keyed_draw(before, key) == keyed_draw(after, key)
    # An exponential race changes its winner with probability near the total variation distance, .01.
    assert kept >= 4000 * 0.97


def test_draw_inverts_the_distribution() -> None:
    plan = plan_of([0.5, 0.3, 0.2])
    assert [draw(plan, u) for u in (0.0, 0.4999, 0.5, 0.7999, 0.8001, math.nextafter(1.0, 0.0))] == [0, 0, 1, 1, 2, 2]
    short = plan_of([0.7, 0.3 - 1e-15])  # a sum that rounds below 1 gives the leftover to the likeliest
    assert draw(short, math.nextafter(1.0, 0.0)) == 0
