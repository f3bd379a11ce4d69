"""Decisions in flight: counted by process, and heeded by the gate."""

from __future__ import annotations

import math
import threading

import pytest

from banditroute import Router
from banditroute.core.policy import IN_FLIGHT_LOOK, looks_left
from banditroute.inflight import LATEST, InFlight


def test_counts_by_category_and_model() -> None:
    flights = InFlight()
    for i in range(3):
        flights.started("chat", "ant", bytes([i]))
    flights.started("chat", "bee", b"b")
    flights.started("code", "ant", b"c")
    assert flights.of("chat") == {"ant": 3, "bee": 1}
    flights.answered("chat", "ant", bytes([1]))
    flights.answered("chat", "ant", bytes([1]))  # told twice
    flights.answered("chat", "cat", b"x")  # another process' decision
    flights.answered("none", "ant", b"x")
    assert flights.of("chat") == {"ant": 2, "bee": 1}
    assert flights.of("none") == {}


def test_what_is_never_answered_is_forgotten() -> None:
    flights = InFlight()
    flights.started("chat", "bee", b"lost")
    for i in range(3 * LATEST):
        flights.started("chat", "ant", i.to_bytes(4, "big"))
    assert flights.of("chat") == {"ant": LATEST}


def test_threads_lose_no_count() -> None:
    flights = InFlight()

    def work(name: str) -> None:
        for i in range(5000):
            key = f"{name}{i}".encode()
            flights.started("chat", name, key)
            flights.of("chat")
            flights.answered("chat", name, key)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ant", "bee", "cat", "dog")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flights.of("chat") == {}


def config(horizon: int) -> dict[str, object]:
    models = {
        "ant": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0},
        "bee": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0},
    }
    return {
        "store": "memory:",
        "models": models,
        "categories": {"chat": {"models": list(models), "planning_horizon_count": horizon, "propensity_floor": 0.002}},
        "priors": {
            "chat": {"ant": {"quality": 0.8, "effective_sample_size": 25}, "bee": {"quality": 0.77, "effective_sample_size": 25}}
        },
    }


def test_an_arm_that_is_awaited_is_not_asked_again_until_its_feedback_comes() -> None:
    with Router.from_config(config(40), seed=1) as router:
        before = router.route("chat").plan
        place = before.models.index("bee")
        most = before.patience[place]
        assert 0.0 < most < math.inf
        assert before.propensities[place] > 0.01
        asked: list[str] = []
        while len(asked) <= most:
            decision = router.route("chat")
            if decision.model == "bee":
                asked.append(decision.id)
        closed = router.route("chat").plan
        assert closed.propensities[closed.models.index("bee")] == pytest.approx(0.002)
        for decision_id in asked:
            router.feedback(decision_id, latency_s=0.1)  # says nothing of quality
        assert router.route("chat").plan.propensities[place] == pytest.approx(0.002)


def test_looks_left_by_hand() -> None:
    gap, difference, noise, horizon = 0.03, 0.0016, 0.02, 500
    z = gap / math.sqrt(difference)
    psi = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) - z * 0.5 * math.erfc(z / math.sqrt(2))
    assert looks_left(gap, difference, noise=noise, horizon=horizon) == pytest.approx(horizon * psi / z - noise / difference)
    assert looks_left(0.0, difference, noise=noise, horizon=horizon) == math.inf
    assert looks_left(0.2, difference, noise=noise, horizon=horizon) < 0.0
    assert IN_FLIGHT_LOOK == 0.5


def test_feedback_at_once_leaves_nothing_in_flight() -> None:
    with Router.from_config(config(500), seed=1) as router:
        for _ in range(20):
            decision = router.route("chat")
            router.feedback(decision.id, eval_score=0.8)
        assert router.engine._in_flight.of("chat") == {}
