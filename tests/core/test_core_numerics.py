from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.core.numerics import exp2, pack, packed_size, solve_spd, unpack

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
@given(st.integers(min_value=1, max_value=17), st.integers(min_value=0, max_value=2**32 - 1))
def test_solve_spd_agrees_with_numpy(dimension: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dimension, dimension + 2))
    matrix = root @ root.T + 0.1 * np.eye(dimension)
    right = rng.normal(size=dimension)
    solution, inverse = solve_spd(matrix.tolist(), right.tolist())
    np.testing.assert_allclose(solution, np.linalg.solve(matrix, right), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-8, atol=1e-9)
    assert inverse == [list(column) for column in zip(*inverse, strict=True)]
    full = matrix.tolist()
    assert len(pack(full)) == packed_size(dimension)
    np.testing.assert_array_equal(unpack(pack(full), dimension), np.triu(matrix) + np.triu(matrix, 1).T)


def test_solve_spd_refuses_what_is_not_positive_definite() -> None:
    for matrix in ([[0.0]], [[1.0, 2.0], [2.0, 1.0]], [[math.nan]], [[1e18 + 400.0, 1e18], [1e18, 1e18 + 400.0]]):
        with pytest.raises(ValueError, match="positive definite"):
            solve_spd(matrix, [1.0] * len(matrix))
