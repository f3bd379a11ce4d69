from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.core.numerics import cholesky, exp2, exp2s, log, logs, pack, packed_size, unpack, whitened

PROFILE = settings(max_examples=300, derandomize=True, deadline=None)


@PROFILE
@given(st.floats(min_value=-1021.0, max_value=1023.9))
def test_exp2_agrees_with_the_library(x: float) -> None:
    truth = math.exp2(x) if hasattr(math, "exp2") else 2.0**x
    assert abs(exp2(x) - truth) <= 1e-15 * truth


@pytest.mark.parametrize("whole", [-1074, -1022, -64, -1, 0, 1, 52, 1023])
def test_exp2_is_exact_at_whole_numbers(whole: int) -> None:
    assert exp2(float(whole)) == math.ldexp(1.0, whole)


def test_exp2_at_the_ends() -> None:
    assert exp2(-1081.0) == exp2(-1e300) == exp2(-1e18) == 0.0
    for much in (1024.0, 1e300):
        with pytest.raises(OverflowError):
            exp2(much)


@PROFILE
@given(st.floats(min_value=-600.0, max_value=600.0), st.integers(min_value=-300, max_value=300))
def test_whole_steps_only_scale(x: float, steps: int) -> None:
    moved = x + steps
    if moved - steps == x and math.floor(moved + 0.5) - steps == math.floor(x + 0.5):
        assert exp2(moved) == math.ldexp(exp2(x), steps)


@PROFILE
@given(st.floats(min_value=5e-324, max_value=1.7976931348623157e308) | st.floats(min_value=0.5, max_value=2.0))
def test_log_agrees_with_the_library(x: float) -> None:
    assert log(x) == pytest.approx(math.log(x), rel=1e-14, abs=1e-14)


def test_log_by_hand() -> None:
    assert log(1.0) == 0.0
    for power in (-1074, -1022, -1, 1, 10, 1023):
        assert log(math.ldexp(1.0, power)) == pytest.approx(power * math.log(2.0), rel=1e-15)
    for near in (1.0 - 2.0**-53, 1.0 + 2.0**-52, 1.0 - 1e-9, 1.0 + 1e-9, math.sqrt(0.5), math.sqrt(2.0)):
        assert log(near) == pytest.approx(math.log(near), rel=1e-14)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="log of"):
            log(bad)


@PROFILE
@given(st.lists(st.floats(min_value=-1e19, max_value=1023.9) | st.floats(min_value=-1100.0, max_value=0.0), min_size=1))
def test_exp2s_are_exp2_to_the_bit(xs: list[float]) -> None:
    assert exp2s(np.array(xs)).tolist() == [exp2(x) for x in xs]


@PROFILE
@given(st.lists(st.floats(min_value=5e-324, max_value=1.7976931348623157e308) | st.floats(min_value=0.1, max_value=4000.0)))
def test_logs_are_log_to_the_bit(xs: list[float]) -> None:
    assert logs(np.array(xs)).tolist() == [log(x) for x in xs]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_logs_of_what_has_none(bad: float) -> None:
    with pytest.raises(ValueError, match="log of"):
        logs(np.array([1.0, bad]))


@PROFILE
@given(st.integers(min_value=1, max_value=17), st.integers(min_value=0, max_value=2**32 - 1))
def test_cholesky_and_whitened_agree_with_numpy(dimension: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dimension, dimension + 2))
    matrix = root @ root.T + 0.1 * np.eye(dimension)
    right = rng.normal(size=dimension)
    low = cholesky(matrix.tolist())
    np.testing.assert_allclose(low, np.linalg.cholesky(matrix), rtol=1e-9, atol=1e-10)
    solution = whitened(low, right.tolist())
    np.testing.assert_allclose(solution, np.linalg.solve(np.linalg.cholesky(matrix), right), rtol=1e-8, atol=1e-9)
    assert math.fsum(x * x for x in solution) == pytest.approx(right @ np.linalg.solve(matrix, right), rel=1e-8)
    assert 2.0 * math.fsum(log(row[i]) for i, row in enumerate(low)) == pytest.approx(np.linalg.slogdet(matrix)[1], abs=1e-10)


@PROFILE
@given(st.integers(min_value=1, max_value=17), st.integers(min_value=0, max_value=2**32 - 1))
def test_packing_keeps_the_upper_triangle(dimension: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(dimension, dimension))
    packed = pack(matrix.tolist())
    assert len(packed) == packed_size(dimension)
    np.testing.assert_array_equal(unpack(packed, dimension), np.triu(matrix) + np.triu(matrix, 1).T)


def test_cholesky_refuses_what_is_not_positive_definite() -> None:
    for matrix in ([[0.0]], [[1.0, 2.0], [2.0, 1.0]], [[math.nan]], [[1e18 + 400.0, 1e18], [1e18, 1e18 + 400.0]]):
        with pytest.raises(ValueError, match="positive definite"):
            cholesky(matrix)


def test_whitened_by_hand() -> None:
    assert cholesky([[4.0, 2.0], [2.0, 5.0]]) == [[2.0, 0.0], [1.0, 2.0]]
    assert whitened([[2.0, 0.0], [1.0, 2.0]], [6.0, 7.0]) == [3.0, 2.0]
    with pytest.raises(ValueError, match="zip"):
        whitened([[1.0]], [1.0, 2.0])
