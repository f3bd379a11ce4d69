"""Other projects' learners on the same course; each is skipped where its package is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from banditroute.lab.course import Course, make_course
from banditroute.lab.datasets import Dataset
from banditroute.lab.delivery import Delivery, make_mail
from banditroute.lab.happenings import Absent, Down, Happening, Reweighted
from banditroute.lab.learners import Learner, make_learner
from banditroute.lab.peers import PEERS
from banditroute.lab.plays import played
from banditroute.lab.runs import Setting, Task, run_task
from banditroute.lab.source import IntArray

MODULES = {"vowpalwabbit": "vowpalwabbit", "mabwiser": "mabwiser.mab", "paretobandit": "pareto_bandit"}
EASY, HARD = 0, 1
CHEAP, DEAR = 0, 1


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> str:
    """The name of one that is installed."""
    name: str = request.param
    pytest.importorskip(MODULES[name], exc_type=ImportError)
    return name


@contextmanager
def learner_of(peer: str, course: Course, seed: int = 1) -> Iterator[Learner]:
    with make_learner(peer, course, seed=seed) as learner:
        yield learner


def picks_of(peer: str, course: Course, *, seed: int = 1, delivery: Delivery = Delivery()) -> IntArray:  # noqa: B008
    with learner_of(peer, course, seed) as learner:
        return played(course, learner, make_mail(delivery, course, seed=0), delivery)[0]


def course_of(toy: Dataset, *happenings: Happening, requests: int = 400, cost_weight: float = 0.1) -> Course:
    return make_course(toy, happenings, requests=requests, seed=0, cost_weight=cost_weight)


def test_its_draws_depend_on_the_seed_only(peer: str, toy: Dataset) -> None:
    course = course_of(toy, requests=60)
    assert (picks_of(peer, course) == picks_of(peer, course)).all()


def test_it_learns_what_each_category_needs(peer: str, toy: Dataset) -> None:
    """Where one model is right every time and the other never is."""
    scores = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    clear = Dataset(
        name="clear",
        categories=toy.categories,
        models=toy.models,
        sample_category=toy.sample_category,
        scores=scores,
        costs_usd=np.full((4, 2), 0.001),
    )
    course = make_course(clear, requests=1500, seed=0, cost_weight=0.1)
    picks, late = picks_of(peer, course), np.arange(1500) >= 1200
    for category, best in ((EASY, CHEAP), (HARD, DEAR)):
        assert (picks[late & (course.stream.categories == category)] == best).mean() > 0.8


def test_models_come_and_go(peer: str, toy: Dataset) -> None:
    course = course_of(toy, Absent(model="cheap", end=50), Absent(model="dear", start=50, end=100), requests=150)
    picks = picks_of(peer, course, delivery=Delivery(late=20))
    assert (picks[:50] == DEAR).all()
    assert (picks[50:100] == CHEAP).all()


def test_failed_calls_and_dirty_feedback_are_learned_from(peer: str, toy: Dataset) -> None:
    dirty = Delivery(late=3, missing=0.1, duplicated=0.2, corrected=0.2, noise=0.1)
    course = course_of(toy, Down(model="dear", start=20, end=60), Reweighted(start=40, cost_weight=2.0), requests=100)
    assert set(picks_of(peer, course, delivery=dirty).tolist()) <= {CHEAP, DEAR}


def test_rewards_are_utilities_in_the_unit_interval(peer: str, toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    course = course_of(toy, Reweighted(start=1, cost_weight=0.25), requests=2, cost_weight=0.1)
    told: list[float] = []
    with learner_of(peer, course) as learner:
        monkeypatch.setattr(learner._library, "learn", lambda request, reward: told.append(reward))  # type: ignore[attr-defined]
        learner.enter(course.phases[0])
        learner.pick(0, EASY)
        learner.tell(0, score=0.78, cost_usd=0.010)
        learner.enter(course.phases[1])
        learner.tell(0, score=0.5, cost_usd=0.0)
        learner.tell_failed(0)
    assert told == pytest.approx([0.78 / 1.1, 0.75 / 1.25, 0.25 / 1.25])


def test_a_run_of_a_peer_is_as_any_other(peer: str, toy: Dataset) -> None:
    setting = Setting(source=toy, requests=20, cost_weight=0.1, policies=(peer, "random"))
    first, _ = run_task(Task(setting, 0))
    assert first.policy == peer
    assert first.beliefs is None
    assert first.regret >= 0.0


@pytest.mark.parametrize("name", PEERS)
def test_a_missing_package_is_named(name: str, toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    with pytest.raises(ImportError, match=rf"the peer {name} needs an extra: pip install 'banditroute\[peers\]'"):
        make_learner(name, course_of(toy, requests=1), seed=0)
