"""What changes come to, on small worlds: figures by hand, and that the production router does what they say."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest

from banditroute.lab import change_figures
from banditroute.lab.change_figures import ALONE, CASES, Bar, Case, built_sources, measured, summed_up
from banditroute.lab.changes import (
    NO_DETECTOR,
    Figures,
    arrival,
    dearer,
    degradation,
    expected_losses,
    loss_rate,
    outage,
    ranked_models,
    slander,
    standing_firm,
)
from banditroute.lab.course import make_course
from banditroute.lab.datasets import Dataset
from banditroute.lab.delivery import DIRTY
from banditroute.lab.environments import Environment, EnvironmentSpec
from banditroute.lab.happenings import Degraded
from banditroute.lab.plays import play

JUDGED = 900
"""Requests; the change comes after 300, when references are there."""


def world(*means: float, sd: float | None = 0.08) -> Environment:
    score = {"kind": "binary"} if sd is None else {"kind": "continuous", "sd": sd}
    models = {f"m{k}": {"score": score | {"mean": mean}, "cost_usd": {"mean": 0.001, "sd": 0.0}} for k, mean in enumerate(means)}
    return Environment(EnvironmentSpec.model_validate({"name": "w", "categories": {"a": {"weight": 1.0, "models": models}}}))


def test_ranks_and_losses_by_hand(toy: Dataset) -> None:
    assert ranked_models(toy) == ["dear", "cheap"]
    course = make_course(toy, requests=40, seed=0, cost_weight=0.5)
    shares = np.array([[0.75, 0.25], [0.5, 0.5]])
    assert loss_rate(course, shares, phase=0) == pytest.approx(0.5 * 0.25 * 0.35 + 0.5 * 0.5 * 0.30)
    run = play(course, seed=0)._replace(propensities=shares[course.stream.categories])
    lost = np.array([0.25 * 0.35, 0.5 * 0.30])
    np.testing.assert_allclose(expected_losses(course, run), lost[course.stream.categories])


def numbers(figures: Figures) -> dict[str, float]:
    return {name: value for name, value in figures.items() if not isinstance(value, tuple)}


def test_a_leader_that_got_worse_is_demoted_and_comes_back() -> None:
    figures = degradation(world(0.9, 0.8, 0.5), seed=0, requests=2 * JUDGED, loss=0.4, rivals=False)
    found = numbers(figures)
    assert found["undetected"] == 0.0
    assert 1.0 <= found["feedbacks_to_demotion"] <= found["requests_to_demotion"] + 1.0 < 60.0
    assert found["share_before"] > 0.5 > found["share_after"]
    regained = figures["regained_after_500"]
    assert isinstance(regained, tuple) and regained[0] > 0.8 * regained[1] > 0.0
    assert "regained_after_600" not in figures  # the run is over by then


def test_rivals_have_no_detector() -> None:
    source = world(0.9, 0.8)
    course = make_course(source, [Degraded(model="m0", loss=0.4, start=300)], requests=600, seed=0, cost_weight=0.1)
    assert [line.kind for line in play(course, seed=0).lines] != []
    assert play(course, seed=0, of_category=NO_DETECTOR).lines == ()


def test_a_model_that_nothing_rivals_stays_and_is_noticed() -> None:
    figures = standing_firm(world(0.8), seed=0, requests=JUDGED, loss=0.6)
    found = numbers(figures)
    assert found["demotions"] == 0.0 and found["noticed"] == 1.0
    np.testing.assert_allclose(figures["share_kept"], [1.0, 1.0])
    assert 0.0 < found["feedbacks_to_notice"] < 60.0


def test_the_only_model_serves_though_it_is_down() -> None:
    found = numbers(outage(world(0.8), seed=0, requests=150))
    assert found["served"] == found["warned"] == 1.0
    assert 1.0 <= found["calls_to_warning"] < 20.0


def test_newcomers_are_adopted_or_left() -> None:
    source = world(0.9, 0.75, 0.4)
    best = numbers(arrival(source, seed=0, requests=JUDGED, best=True))
    assert best["not_adopted"] == 0.0 and best["final_share"] > 0.9 and best["requests_to_half"] < 300.0
    worst = numbers(arrival(source, seed=0, requests=JUDGED, best=False))
    assert worst["looks_until_below_1_percent"] <= worst["looks_in_all"] < 30.0


def test_a_leader_that_got_dear_is_left_at_once() -> None:
    found = numbers(dearer(world(0.9, 0.85), seed=0, requests=JUDGED, factor=20.0))
    assert found["share_before"] > 0.5
    assert found["share_on_next_request"] < 0.5


def test_one_source_alone_cannot_demote() -> None:
    source = world(0.9, 0.8)
    assert slander(source, seed=0, requests=JUDGED, min_sources=2)["demotions"] == 0.0
    assert slander(source, seed=0, requests=JUDGED, min_sources=1)["demotions"] == 1.0


def test_summaries_by_hand() -> None:
    plain = summed_up([1.0, 3.0, math.nan])
    assert (plain.defined_count, plain.mean, plain.least, plain.most) == (2, 2.0, 1.0, 3.0)
    assert plain.ci95 == pytest.approx([2.0 - 12.7062, 2.0 + 12.7062], abs=1e-3)
    shares = summed_up([(1.0, 2.0), (3.0, 4.0), (0.0, 0.0)])
    assert shares.mean == pytest.approx(4.0 / 6.0) and (shares.least, shares.most) == (0.5, 0.75)
    nothing = summed_up([math.nan])
    assert nothing.defined_count == 0 and math.isnan(nothing.mean)
    json.dumps([each.to_json() for each in (plain, shares, nothing)], allow_nan=False)


def test_bars_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(source: object, *, seed: int, requests: int, times: float) -> Figures:
        return {"figure": times * (seed + 1)}

    cases = (
        Case("plain", ALONE, partial(measure, times=1.0), (Bar("figure", "mean", 1.5), Bar("figure", "most", 1.9))),
        Case("twice", ALONE, partial(measure, times=2.0), (Bar("figure", "mean", 1.5, times="plain"), Bar("other", "mean", 1.0))),
        Case("absent", "nowhere", partial(measure, times=1.0), ()),
    )
    monkeypatch.setattr(change_figures, "CASES", cases)
    monkeypatch.setattr(change_figures, "_CASES", {case.name: case for case in cases})
    found = measured({}, seeds=2, requests=10, jobs=1)
    assert [[verdict.met for verdict in case.verdicts] for case in found.cases] == [[True, False], [False, None]]
    assert found.cases[1].verdicts[0].limit == 1.5 * 1.5
    assert found.left_out == (("absent", "nowhere"),)
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["cases"][0]["figures"]["figure"]["per_seed"] == [[1.0, 1.0], [2.0, 1.0]]
    assert measured({}, seeds=2, only=["twice"], jobs=1).cases[0].verdicts[0].met is None


def test_the_number_of_processes_changes_nothing() -> None:
    one, two = (measured({}, seeds=2, requests=60, only=["last-model"], jobs=jobs) for jobs in (1, 2))
    assert json.dumps(one.to_json()) == json.dumps(two.to_json())


def test_every_case_has_its_bars_among_its_figures() -> None:
    for case in CASES:
        source = world(0.8, sd=None) if case.source == ALONE else world(0.9, 0.8, sd=None)
        figures = case.measure(source, seed=0, requests=60)
        late = {bar.figure for bar in case.bars if bar.figure.startswith("regained_after_")}
        assert {bar.figure for bar in case.bars} - late <= figures.keys()
        assert not case.bars or {bar.times for bar in case.bars} <= {"", *(other.name for other in CASES)}
    assert set(built_sources()) <= {case.source for case in CASES}


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown cases nothing"):
        measured({}, only=["nothing"])
    with pytest.raises(ValueError, match="seeds is 0"):
        measured({}, seeds=0)
    assert degradation(world(0.9, 0.8), seed=0, requests=90, loss=0.1, delivery=DIRTY, rivals=False)["undetected"] == 1.0
