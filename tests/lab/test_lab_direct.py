"""The lab's short way round the engine against `Router`, the whole way: the same decisions, and in the end the same state."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from banditroute.core.errors import FeedbackWindowOver
from banditroute.core.types import Attempt, RouteQuery, Signal, SignalKind
from banditroute.engine import Engine
from banditroute.lab.course import Phase, make_course
from banditroute.lab.datasets import Dataset
from banditroute.lab.delivery import DIRTY, PROMPT, Delivery, make_mail
from banditroute.lab.direct import Direct
from banditroute.lab.happenings import Absent, Degraded, Down, Happening, Repriced, Reweighted
from banditroute.lab.learners import Begun, router_of
from banditroute.lab.plays import played
from banditroute.lab.router_policy import INPUT_TOKENS, SECONDS_PER_REQUEST, START_TIME, RouterPolicy
from banditroute.log.checkpoint import encode
from banditroute.router import Router
from banditroute.tokens import DecisionToken, as_sent

SEED, REQUESTS = 7, 1200
CASES: dict[str, tuple[list[Happening], Delivery, dict[str, Any]]] = {
    "prompt": ([], PROMPT, {}),
    "dirty": ([Degraded(model="cheap", loss=0.5, start=300)], DIRTY, {"half_life_count": 300}),
    "late": ([Down(model="cheap", start=200, end=500)], Delivery(late=3, noise=0.1), {"quality_floor": 0.5}),
    "changing": (
        [
            Absent(model="dear", start=0, end=100),
            Repriced(model="cheap", factor=3.0, start=300, end=600),
            Reweighted(cost_weight=0.4, start=700),
        ],
        Delivery(corrected=0.2, duplicated=0.2),
        {"half_life_s": 40_000.0},
    ),
}


class Whole:
    """A learner through `Router`, configured as `policy` is."""

    def __init__(self, policy: RouterPolicy, features: Any) -> None:
        self._policy, self._features = policy, features
        self.now, self._ids, self.propensities = START_TIME, dict[int, str](), list[float]()
        self._configured = policy._configured
        self._cost_weight = policy._cost_weight
        config = policy._config(*policy._configured)
        self.router = Router.from_config(config, store="memory:", clock=lambda: self.now, seed=SEED)

    @property
    def engine(self) -> Engine:
        return self.router.engine

    def enter(self, phase: Phase) -> None:
        configured = tuple(phase.list_costs_usd.tolist()), tuple(phase.present.tolist())
        if configured != self._configured:
            self._configured = configured
            self.router.reload(self._policy._config(*configured))
        if phase.cost_weight != self._cost_weight:
            self._cost_weight = phase.cost_weight
            for category in self._policy._categories.values():
                self.router.set_weights(category, cost_weight=phase.cost_weight, reason="the scenario says so")

    def pick(self, request: int, category: int) -> int:
        self.now += SECONDS_PER_REQUEST
        features = None if self._features is None else self._features[request]
        decision = self.router.route(f"c{category}", features=features, input_tokens=INPUT_TOKENS, output_tokens=0)
        self._ids[request] = decision.id
        self.propensities.append(decision.propensity)
        return int(decision.model[1:])

    def tell(self, request: int, *, score: float, cost_usd: float | None = None, source: str = "replay") -> None:
        self.router.feedback(self._ids[request], eval_score=score, cost_usd=cost_usd, source=source)

    def tell_failed(self, request: int) -> None:
        self.router.feedback(self._ids[request], error="timeout")


def state_of(engine: Engine) -> bytes:
    """All of it but the chain value, which only a chained log has."""
    return encode(engine.snapshot.state._replace(chain=b""))


@pytest.mark.parametrize("with_features", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_short_way_comes_to_the_same(toy: Dataset, case: str, with_features: bool) -> None:
    if with_features:
        values = np.random.default_rng(1).normal(5.0, 2.0, size=(len(toy.sample_category), 2))
        toy = dataclasses.replace(toy, features=values, feature_names=("depth", "length"))
    happens, delivery, of_category = CASES[case]
    course = make_course(toy, happens, requests=REQUESTS, seed=1, cost_weight=0.1)
    mail = make_mail(delivery, course, seed=1)

    def picks(learner: Whole | RouterPolicy) -> list[int]:
        def operate(step: int) -> None:
            act = {400: learner.engine.pause_arm, 450: learner.engine.resume_arm}.get(step)
            if act is not None:
                act("m1", "c0", reason="a test", actor="it")

        def another_word(step: int, _: int) -> None:
            if step % 3 == 0:
                learner.tell(step, score=1.0, source="user")

        found: list[int] = played(course, learner, mail, delivery, before=operate, after=another_word)[0].tolist()
        return found

    with router_of(course, seed=SEED, recording=True, begun=Begun(of_category=of_category)) as short:
        whole = Whole(short, short._features)
        with whole.router:
            found = [picks(whole), picks(short)]
            assert found[0] == found[1]
            drawn = short.propensities()[np.arange(REQUESTS), found[1]].tolist()
            assert whole.propensities == drawn
            assert state_of(whole.engine) == state_of(short.engine)
            assert whole.engine.journal(limit=10_000) == short.engine.journal(limit=10_000)
            assert whole.engine.categories() == short.engine.categories()


def test_feedback_after_the_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banditroute.lab.direct.PURGE_EVERY", 50)
    now = START_TIME
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
    config = {"models": {"m0": price, "m1": price}, "categories": {"c0": {"models": ["m0", "m1"]}}}
    direct = Direct(config, clock=lambda: now, seed=1)
    token, _ = direct.route(RouteQuery("c0"))
    signals = (Signal(SignalKind.EVAL_SCORE, 0.5),)
    for _ in range(50):
        direct.feedback(direct.route(RouteQuery("c0"))[0], signals, (Attempt(cost_usd=0.1),))
    assert len(direct._log._records) == 50
    now += 8 * 86400.0
    with pytest.raises(FeedbackWindowOver):
        direct.feedback(token, signals)
    for _ in range(50):
        direct.feedback(direct.route(RouteQuery("c0"))[0], signals)
    assert len(direct._log._records) < 100
    direct.engine.close()


def test_a_token_as_its_id_gives_it_back() -> None:
    token = DecisionToken(b"\1" * 16, "c", "m", 1 / 3, 0.1, 1e-4 / 3, 2e-4 / 3, None, 5, b"\2" * 8, (0.1, 1e9 / 3))
    config = {"models": {"m": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}}, "categories": {"c": {"models": ["m"]}}}
    with Router.from_config(config, store="memory:") as router:
        signer = router.engine.signer
        assert as_sent(token) == signer.verify(signer.sign(token))
        with pytest.raises(ValueError, match="does not fit"):
            as_sent(token._replace(computed_cost_usd=1e300))
