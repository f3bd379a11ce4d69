"""Happenings by hand: what they do to scores, costs and means, phase by phase; and how the router hears of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from banditroute.core.errors import DatasetError
from banditroute.lab.course import Course, make_course, make_stream
from banditroute.lab.datasets import Dataset
from banditroute.lab.delivery import DIRTY, Delivery, make_mail
from banditroute.lab.environments import Environment, EnvironmentSpec
from banditroute.lab.happenings import Absent, Degraded, Happening, Repriced
from banditroute.lab.plays import NEVER, Voice, play
from banditroute.lab.source import Source, mean_utilities


def course_of(source: Source, *happenings: Happening, requests: int = 60, seed: int = 1) -> Course:
    return make_course(source, happenings, requests=requests, seed=seed, cost_weight=0.5)


@pytest.fixture
def world() -> Environment:
    arms = {
        "right-or-wrong": {"score": {"kind": "binary", "mean": 0.7}, "cost_usd": {"mean": 0.01, "sd": 0.002}},
        "marked": {"score": {"kind": "continuous", "mean": 0.6, "sd": 0.3}, "cost_usd": {"mean": 0.02, "sd": 0.0}},
    }
    spec = {"name": "world", "categories": {name: {"weight": 0.5, "models": arms} for name in ("a", "b")}}
    return Environment(EnvironmentSpec.model_validate(spec))


def test_without_happenings_the_requests_are_those_of_a_replay(toy: Dataset) -> None:
    course, stream = course_of(toy), make_stream(toy, requests=60, seed=1)
    for mine, theirs in zip(course.stream, stream, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(course.phases) == 1
    np.testing.assert_allclose(course.phases[0].utilities, mean_utilities(toy, cost_weight=0.5))


def test_recorded_scores_fall_one_by_one_and_not_below_0(toy: Dataset) -> None:
    course = course_of(toy, Degraded(model="cheap", loss=0.2, start=20, end=40))
    assert [phase.start for phase in course.phases] == [0, 20, 40]
    plain = make_stream(toy, requests=60, seed=1)
    expected = plain.scores.copy()
    expected[20:40, 0] = np.maximum(0.0, expected[20:40, 0] - 0.2)
    np.testing.assert_array_equal(course.stream.scores, expected)
    np.testing.assert_array_equal(course.stream.categories, plain.categories)
    # easy: (.7 + .5) / 2, hard: (0 + .1) / 2, each less half a point for a tenth, a fifth of the reference
    np.testing.assert_allclose(course.phases[1].utilities[:, 0], [0.6 - 0.05, 0.05 - 0.1])
    np.testing.assert_allclose(course.phases[1].utilities[:, 1], course.phases[0].utilities[:, 1])
    np.testing.assert_allclose(course.phases[2].utilities, course.phases[0].utilities)


def test_true_means_of_an_environment_fall(world: Environment) -> None:
    lowered = Degraded(model="right-or-wrong", loss=0.18, start=0).changed(world)
    np.testing.assert_allclose(lowered.mean_scores, [[0.52, 0.6], [0.52, 0.6]])
    rng = np.random.default_rng(0)
    scores = np.array([lowered.draw(rng).scores for _ in range(4000)])
    assert set(scores[:, 0]) == {0.0, 1.0}
    assert abs(scores[:, 0].mean() - 0.52) < 4 * math.sqrt(0.25 / 4000)
    broken = Degraded(model="marked", loss=0.55, start=0, categories=("b",)).changed(world)
    np.testing.assert_allclose(broken.mean_scores, [[0.7, 0.6], [0.7, 0.05]])
    assert abs(np.array([broken.draw(rng).scores[1] for _ in range(4000)]).mean() - 0.325) < 0.03
    assert Degraded(model="marked", loss=2.0, start=0).changed(world).mean_scores[0, 1] == 0.0


def test_happenings_that_overlap_add_up(toy: Dataset) -> None:
    course = course_of(toy, Degraded(model="dear", loss=0.3, start=10, end=30), Degraded(model="dear", loss=0.1, start=20))
    assert [phase.start for phase in course.phases] == [0, 10, 20, 30]
    dear = [round(float(phase.utilities[0, 1]), 9) for phase in course.phases]
    assert dear == [0.4, 0.1, 0.0, 0.3]


def test_models_come_go_and_change_their_price(toy: Dataset) -> None:
    course = course_of(toy, Absent(model="dear", end=20), Repriced(model="cheap", factor=4.0, start=40))
    first, second, third = course.phases
    assert first.present.tolist() == [True, False]
    assert first.utilities[:, 1].tolist() == [-math.inf, -math.inf]
    assert second.present.all() and third.present.all()
    np.testing.assert_allclose(second.list_costs_usd, [0.0015, 0.010])
    np.testing.assert_allclose(third.list_costs_usd, [0.006, 0.010])
    assert not first.configured_as(second) and not second.configured_as(third) and third.configured_as(third)
    np.testing.assert_allclose(third.utilities[:, 0], [0.8 - 0.2, 0.2 - 0.4])
    assert course.gaps[:20].tolist() == [[0.0, math.inf]] * 20
    np.testing.assert_allclose(course.stream.costs_usd[40:, 0], 4.0 * make_stream(toy, requests=60, seed=1).costs_usd[40:, 0])


def test_what_cannot_happen_is_refused(toy: Dataset, world: Environment) -> None:
    for wrong in (Degraded(model="none", loss=0.1, start=0), Absent(model="none"), Repriced(model="none", factor=2.0, start=0)):
        with pytest.raises(DatasetError, match="no model 'none'"):
            course_of(toy, wrong)
    with pytest.raises(DatasetError, match="no model is left at request 30"):
        course_of(world, Absent(model="marked", start=10), Absent(model="right-or-wrong", start=30))


def test_the_router_hears_of_models_and_prices_only(toy: Dataset) -> None:
    course = course_of(toy, Absent(model="dear", end=20), Degraded(model="cheap", loss=0.1, start=40))
    run = play(course, seed=3, shares_at={19, 20})
    assert (run.picks[:20] == 0).all() and (run.propensities[:20] == [1.0, 0.0]).all()
    assert (run.picks[20:] == 1).any()
    assert run.shares[19].tolist() == [[1.0, 0.0]] * 2
    assert (run.shares[20][:, 1] > 0.0).all()
    np.testing.assert_allclose(run.propensities.sum(axis=1), 1.0)
    np.testing.assert_array_equal(run.told_at, np.arange(60))
    again = play(course, seed=3)
    np.testing.assert_array_equal(again.picks, run.picks)


def test_a_price_acts_on_the_next_request(world: Environment) -> None:
    course = make_course(
        world, [Repriced(model="right-or-wrong", factor=1000.0, start=300)], requests=301, seed=0, cost_weight=0.1
    )
    run = play(course, seed=0)
    assert run.propensities[299, 0] > 0.5 > run.propensities[300, 0]


def test_dirty_mail(toy: Dataset) -> None:
    course = course_of(toy, Degraded(model="cheap", loss=0.1, start=700), requests=2000)
    mail = make_mail(DIRTY, course, seed=0)
    own = np.arange(2000)
    wrong = mail.first_told != own
    for found, share in ((mail.comes, 0.5), (mail.copies == 2, 0.1), (wrong, 0.05)):
        assert abs(found.mean() - share) < 4 * math.sqrt(share * (1 - share) / 2000)
    assert (course.phase_of[mail.first_told] == course.phase_of).all()


def test_feedback_comes_late_or_never_and_counts_once(toy: Dataset) -> None:
    course = course_of(toy, requests=120)
    run = play(course, seed=0, delivery=Delivery(late=7, missing=0.25, duplicated=0.5, corrected=0.5))
    comes = make_mail(Delivery(missing=0.25), course, seed=0).comes
    comes[-7:] = False
    np.testing.assert_array_equal(run.told_at, np.where(comes, np.arange(120) + 7, NEVER))


def test_another_voice_is_heard_beside_the_feedback(world: Environment) -> None:
    course = make_course(world, requests=400, seed=0, cost_weight=0.1)
    quiet = play(course, seed=0)
    slandered = play(course, seed=0, voice=Voice(source="adversary", model=0, score=0.0, start=150))
    assert slandered.propensities[-1, 0] < 0.1 < quiet.propensities[-1, 0]
