"""Hulls, AIQ and fixed models, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banditroute.lab.datasets import Dataset
from banditroute.lab.frontier import Point, aiq, fixed_models, hull
from banditroute.lab.happenings import Absent, Degraded, Down, Repriced
from banditroute.lab.traffic import Traffic


def test_a_hull_leaves_out_what_is_dominated() -> None:
    cheap, middle, dear = Point(1.0, 0.2), Point(2.0, 0.6), Point(4.0, 0.8)
    below_a_mixture, dominated, same_cost = Point(3.0, 0.65), Point(5.0, 0.7), Point(2.0, 0.5)
    assert hull([dear, same_cost, below_a_mixture, cheap, dominated, middle]) == [cheap, middle, dear]
    assert hull([]) == []
    assert hull([Point(1.0, 0.25), Point(2.0, 0.5), Point(3.0, 0.75)]) == [Point(1.0, 0.25), Point(3.0, 0.75)]


POINTS = st.lists(st.builds(Point, st.floats(0.0, 9.0), st.floats(0.0, 1.0)), min_size=1, max_size=12)


@given(POINTS)
def test_no_point_is_above_the_hull_and_it_rises_ever_more_slowly(points: list[Point]) -> None:
    found = hull(points)
    x, y = [point.cost_usd for point in found], [point.score for point in found]
    for point in points:
        if point.cost_usd >= x[0]:
            assert point.score <= np.interp(point.cost_usd, x, y) + 1e-9
    assert x == sorted(set(x)) and y == sorted(set(y))


def test_aiq_is_the_mean_height_of_the_hull() -> None:
    points = [Point(1.0, 0.4), Point(3.0, 0.8)]
    assert aiq(points, low_usd=1.0, high_usd=3.0) == pytest.approx(0.6)
    assert aiq(points, low_usd=3.0, high_usd=5.0) == pytest.approx(0.8)  # money is left over
    assert aiq([Point(2.0, 0.8)], low_usd=1.0, high_usd=3.0) == pytest.approx((0.6 + 0.8) / 2)  # at 1, half of the time no answer
    assert aiq(points, low_usd=1.0, high_usd=1.0) is None
    assert aiq([*points, Point(2.0, 0.1)], low_usd=1.0, high_usd=3.0) == pytest.approx(0.6)


def about(model: str, cost_usd: float, score: float, always_there: bool) -> Any:
    return model, pytest.approx(cost_usd), pytest.approx(score), always_there


def test_fixed_models_have_the_means_of_all_phases(toy: Dataset) -> None:
    still = fixed_models(toy, (), requests=10, traffic=None)
    assert still[0] == about("cheap", 0.0015, 0.5, True)
    assert still[1] == about("dear", 0.010, 0.9, True)

    happenings = (
        Degraded(model="dear", start=5, loss=0.4),
        Repriced(model="dear", start=5, end=10, factor=3.0),
        Down(model="cheap", start=0, end=5),
    )
    cheap, dear = fixed_models(toy, happenings, requests=10, traffic=None)
    assert cheap == about("cheap", 0.00075, 0.25, True)
    assert dear == about("dear", 0.020, 0.7, True)

    cheap, _ = fixed_models(toy, (Absent(model="cheap", start=0, end=5),), requests=10, traffic=None)
    assert cheap == about("cheap", 0.0015, 0.5, False)


def test_fixed_models_see_the_traffic_of_the_time(toy: Dataset) -> None:
    drift = Traffic(mix={"easy": 1.0}, later={"hard": 1.0})
    cheap, _ = fixed_models(toy, (Down(model="cheap", start=2),), requests=3, traffic=drift)
    assert cheap.score == pytest.approx((0.8 + (0.8 + 0.2) / 2) / 3)
