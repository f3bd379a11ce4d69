"""The mathematics of off-policy evaluation: by enumeration, by hand-sized examples and by fixed seeds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ope_logs import adaptive_log, make_logged

from banditroute.lab.ope import estimators
from banditroute.lab.ope.logged import Logged
from banditroute.lab.ope.outcomes import PULL, RIDGE, block_edges, expected
from banditroute.lab.source import FloatArray

Share = st.floats(0.05, 0.95)
Unit = st.floats(0.0, 1.0)


def table(first: list[float]) -> FloatArray:
    """Probabilities of two models, a row for each context."""
    return np.array([[share, 1.0 - share] for share in first])


@given(
    behaviour=st.lists(Share, min_size=2, max_size=2),
    target=st.lists(Unit, min_size=2, max_size=2),
    truth=st.lists(Unit, min_size=4, max_size=4),
    guess=st.lists(st.floats(-2.0, 3.0), min_size=4, max_size=4),
)
def test_ips_and_dr_are_unbiased_by_enumeration(
    behaviour: list[float], target: list[float], truth: list[float], guess: list[float]
) -> None:
    """Two equally likely contexts, two models, outcomes 0 or 1: every case with its probability, whatever q is."""
    b, pi, r, q = table(behaviour), table(target), np.reshape(truth, (2, 2)), np.reshape(guess, (2, 2))
    cases = list(itertools.product(range(2), range(2), (0.0, 1.0)))
    x, a, y = (np.array(column) for column in zip(*cases, strict=True))
    x, a = x.astype(np.int64), a.astype(np.int64)
    chance = 0.5 * b[x, a] * np.where(y == 1.0, r[x, a], 1.0 - r[x, a])
    logged = make_logged(category=x, chosen=a, propensities=b[x], quality=y)
    sample = estimators.make_sample(logged, pi[x], y, q[x])
    value = 0.5 * float((pi * r).sum())
    assert float((chance * estimators.dr_terms(sample)).sum()) == pytest.approx(value, abs=1e-9)
    assert float((chance * sample.weights * y).sum()) == pytest.approx(value, abs=1e-9)


@given(st.lists(Unit, min_size=3, max_size=30), st.integers(0, 2**32 - 1))
def test_the_logging_policy_itself_has_the_sample_mean(outcomes: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([1.0, 1.0, 1.0], size=len(outcomes)).clip(1e-3)
    shares /= shares.sum(axis=1, keepdims=True)
    logged = make_logged(chosen=rng.integers(0, 3, len(outcomes)), propensities=shares, quality=np.array(outcomes))
    sample = estimators.make_sample(logged, shares, logged.quality, np.zeros((len(logged), 3)))
    for estimate in (estimators.ips, estimators.snips, estimators.dr):
        assert estimate(sample).value == pytest.approx(np.mean(outcomes), abs=1e-12)


def test_with_the_right_expectations_dr_does_not_vary() -> None:
    logged = adaptive_log(seed=1, count=200)
    right = np.tile([0.3, 0.6], (len(logged), 1))
    told = right[np.arange(len(logged)), logged.chosen]
    sample = estimators.make_sample(logged, np.tile([0.25, 0.75], (len(logged), 1)), told, right)
    for estimate in (estimators.dr, estimators.stabilised_dr, estimators.switch_dr, estimators.dros):
        found = estimate(sample)
        assert (found.value, found.low, found.high) == pytest.approx((0.525, 0.525, 0.525))
    assert estimators.ips(sample).width > 0.05


def test_a_hand_sized_log() -> None:
    logged = make_logged(chosen=np.array([0, 1, 1]), propensities=np.array([[0.5, 0.5]] * 3), quality=np.array([1.0, 0.0, 1.0]))
    target = np.array([[0.0, 1.0]] * 3)
    sample = estimators.make_sample(logged, target, logged.quality, np.full((3, 2), 0.5))
    assert sample.weights.tolist() == [0.0, 2.0, 2.0]
    assert estimators.ips(sample).value == pytest.approx(2.0 / 3.0)
    assert estimators.snips(sample).value == pytest.approx(0.5)
    assert estimators.dr(sample).value == pytest.approx((0.5 - 0.5 + 1.5) / 3.0)
    # IPS' terms 0, 0, 2 have the standard deviation 2 / sqrt(3); so has the mean over sqrt(3).
    assert estimators.ips(sample).width / 2.0 == pytest.approx(1.959964 * 2.0 / 3.0, rel=1e-6)


def test_shrunk_weights_are_those_of_the_papers() -> None:
    w = np.array([0.0, 0.5, 1.0, 8.0])
    sample = estimators.Sample(w, np.ones(4), np.zeros(4), np.zeros(4), np.ones(4))
    assert estimators.switch_dr(sample).value <= estimators.dr(sample).value
    assert estimators.dros(sample).value <= estimators.dr(sample).value
    even = sample._replace(weights=np.ones(4))
    assert estimators.switch_dr(even).value == estimators.dr(even).value == 1.0
    assert estimators.dros(even).value == pytest.approx(1.0, abs=0.02)


class TestExpectations:
    @settings(max_examples=20)
    @given(changed=st.integers(0, 299), seed=st.integers(0, 1000))
    def test_what_is_expected_depends_on_earlier_outcomes_only(self, changed: int, seed: int) -> None:
        logged = adaptive_log(seed=seed, count=300, width=1)
        other = logged.quality.copy()
        other[changed] = 1.0 - other[changed]
        before, after = expected(logged, logged.quality).predictable, expected(logged, other).predictable
        assert np.array_equal(before[: changed + 1], after[: changed + 1])
        assert changed > 250 or not np.array_equal(before, after)

    def test_blocks_leave_nothing_out(self) -> None:
        for count in (1, 25, 26, 1000):
            edges = block_edges(count)
            assert edges[0] == 0
            assert edges[-1] == count
            assert all(a < b for a, b in itertools.pairwise(edges))

    def test_the_final_fit_is_ridge_regression_pulled_to_the_models_mean(self) -> None:
        logged = adaptive_log(seed=3, count=120, width=2)
        found = expected(logged, logged.quality).final
        overall = logged.quality.mean()
        for k in range(2):
            rows = logged.chosen == k
            usual = (logged.quality[rows].sum() + PULL * overall) / (rows.sum() + PULL)
            z = np.hstack([np.ones((120, 1)), logged.context])
            penalty = np.diag([PULL, RIDGE, RIDGE])
            slopes = np.linalg.solve(
                z[rows].T @ z[rows] + penalty, z[rows].T @ logged.quality[rows] + penalty @ np.array([usual, 0.0, 0.0])
            )
            np.testing.assert_allclose(found[:, k], z @ slopes, atol=1e-9)

    def test_slopes_are_found(self) -> None:
        logged = adaptive_log(seed=4, count=3000, width=1, slope=0.2)
        sample = estimators.make_sample(
            logged, np.tile([0.0, 1.0], (3000, 1)), logged.quality, expected(logged, logged.quality).predictable
        )
        flat = estimators.make_sample(
            logged,
            np.tile([0.0, 1.0], (3000, 1)),
            logged.quality,
            expected(without_context(logged), logged.quality).predictable,
        )
        assert estimators.dr(sample).width < estimators.dr(flat).width


def without_context(logged: Logged) -> Logged:
    kept: dict[str, Any] = {**vars(logged), "context": np.zeros((len(logged), 0))}
    return Logged(**kept)


def test_intervals_cover_on_logs_of_a_policy_that_learns() -> None:
    """150 logs of a greedy policy with a floor; fixed seeds, so the share is what it is. 2.5 standard errors are 4.5 points."""
    covered, narrower = {"DR": 0, "DR-stabilised": 0, "SNIPS": 0, "DM": 0}, 0
    for seed in range(150):
        logged = adaptive_log(seed=seed, count=600)
        target = np.tile([0.9, 0.1], (600, 1))
        found = estimators.all_estimates(logged, target, logged.quality, expected(logged, logged.quality))
        by_name = {estimate.name: estimate for estimate in found}
        for name in covered:
            covered[name] += by_name[name].low <= 0.9 * 0.3 + 0.1 * 0.6 <= by_name[name].high
        narrower += by_name["DR"].width < by_name["IPS"].width
    assert all(0.9 <= covered[name] / 150 <= 0.995 for name in ("DR", "DR-stabilised", "SNIPS"))
    assert narrower > 140
