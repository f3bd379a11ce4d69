"""Confidence sequences: the supermartingale by quadrature, the terms by enumeration, coverage at all times by fixed seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ope_logs import adaptive_log, make_logged
from scipy.integrate import quad

from banditroute.lab.ope.outcomes import expected
from banditroute.lab.ope.sequences import (
    RHO,
    Bernstein,
    asymptotic,
    boundary,
    difference_terms,
    log_mixture,
    quality_terms,
    running_guess,
)


@pytest.mark.parametrize(("s", "v"), [(0.5, 0.2), (3.0, 2.0), (12.0, 30.0), (60.0, 400.0)])
def test_the_mixture_is_its_integral(s: float, v: float) -> None:
    def density(bet: float) -> float:
        return math.pow(1.0 - bet, RHO - 1.0) * math.exp(-RHO * (1.0 - bet))

    def bets(bet: float) -> float:
        return density(bet) * math.exp(bet * s + (math.log1p(-bet) + bet) * v)

    wanted = float(quad(bets, 0.0, 1.0, limit=200)[0] / quad(density, 0.0, 1.0)[0])
    assert log_mixture(np.array([s]), np.array([v]))[0] == pytest.approx(math.log(wanted), rel=1e-6)


def test_sums_below_nothing_are_no_evidence() -> None:
    assert (log_mixture(np.array([0.0, -1.0, -400.0]), np.array([1.0, 0.0, 300.0])) == -np.inf).all()


@pytest.mark.parametrize("alpha", [0.05, 0.025])
def test_the_boundary_is_where_the_mixture_is_reached(alpha: float) -> None:
    v = np.array([0.0, 0.1, 3.0, 40.0, 5000.0])
    np.testing.assert_allclose(log_mixture(boundary(v, alpha), v), math.log(1.0 / alpha), rtol=1e-6)
    assert (np.diff(boundary(v, alpha)) > 0.0).all()


def test_guesses_know_earlier_terms_only() -> None:
    assert running_guess(np.array([1.0, 5.0, -7.0]), low=0.0, high=2.0, first=0.5).tolist() == [0.5, 1.0, 2.0]


@given(
    behaviour=st.floats(0.05, 0.95),
    target=st.floats(0.0, 1.0),
    unsupported=st.floats(0.0, 0.5),
    truth=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),
    guess=st.lists(st.floats(-0.5, 1.5), min_size=3, max_size=3),
    most=st.floats(1.0, 30.0),
)
def test_truncated_terms_bound_the_value_from_both_sides(
    behaviour: float, target: float, unsupported: float, truth: list[float], guess: list[float], most: float
) -> None:
    """By enumeration, also where weights are cut, and where the target chooses a third model that the log never does."""
    b, r, q = np.array([behaviour, 1.0 - behaviour, 0.0]), np.array(truth), np.array(guess)
    pi = np.array([target * (1.0 - unsupported), (1.0 - target) * (1.0 - unsupported), unsupported])
    cases = list(itertools.product(range(2), (0.0, 1.0)))
    a, y = np.array([k for k, _ in cases], dtype=np.int64), np.array([y for _, y in cases])
    chance, rows = b[a] * np.where(y == 1.0, r[a], 1.0 - r[a]), len(cases)
    logged = make_logged(chosen=a, propensities=np.tile(b, (rows, 1)), quality=y)
    terms = quality_terms(logged, np.tile(pi, (rows, 1)), np.tile(q, (rows, 1)), most=most)
    value = float(pi @ r)
    assert float(chance @ terms.lower) <= value + 1e-9
    assert float(chance @ terms.upper) >= value - 1e-9
    if unsupported == 0.0 and (pi <= most * b).all():
        assert float(chance @ terms.lower) == pytest.approx(value, abs=1e-9)
        assert terms.lower == pytest.approx(terms.upper)
    assert (terms.guesses_lower - terms.lower <= terms.reach).all()
    assert (terms.upper - terms.guesses_upper <= terms.reach).all()
    less = difference_terms(logged, np.tile(pi, (rows, 1)), np.tile(q, (rows, 1)), most=most)
    assert float(chance @ less.lower) <= value - float(b @ r) + 1e-9
    assert float(chance @ less.upper) >= value - float(b @ r) - 1e-9
    assert (less.guesses_lower - less.lower <= less.reach).all()
    assert (less.upper - less.guesses_upper <= less.reach).all()


def test_the_sequence_holds_at_all_times_at_once() -> None:
    """120 logs of a policy that learns, looked at after every decision."""
    always, both = 0, 0
    for seed in range(120):
        logged = adaptive_log(seed=seed, count=600)
        target = np.tile([0.5, 0.5], (600, 1))
        terms = quality_terms(logged, target, expected(logged, logged.quality).predictable, most=10.0)
        truth = np.full(600, 0.45)
        holds = terms.always_covers(truth)
        always += holds
        end = terms.at_end()
        both += holds and not end.low <= 0.45 <= end.high
    assert always >= 114
    assert both == 0  # what holds always holds at the end


def test_it_says_no_to_what_is_wrong() -> None:
    logged = adaptive_log(seed=0, count=2000)
    terms = quality_terms(logged, np.tile([0.0, 1.0], (2000, 1)), expected(logged, logged.quality).predictable, most=10.0)
    assert not terms.always_covers(np.full(2000, 0.2))
    assert not terms.always_covers(np.full(2000, 0.95))
    end = terms.at_end()
    assert 0.2 < end.low < 0.6 < end.high < 0.95
    assert end.to_json()["width"] == pytest.approx(end.high - end.low)


def test_a_wider_reach_is_a_wider_interval() -> None:
    values, guesses = np.full(500, 0.5), np.full(500, 0.5)
    narrow, wide = [Bernstein(values, values, guesses, guesses, reach=reach).at_end() for reach in (2.0, 50.0)]
    assert narrow.high - narrow.low < wide.high - wide.low


def test_the_asymptotic_sequence_says_that_it_is_one() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        values = rng.exponential(1.0, 4000)
        held += all(asymptotic(values[:count]).low <= 1.0 <= asymptotic(values[:count]).high for count in range(500, 4001, 100))
    assert held >= 95
    found = asymptotic(values)
    assert found.is_asymptotic
    assert found.high - found.low > 2.0 * 1.96 * values.std() / math.sqrt(4000)
