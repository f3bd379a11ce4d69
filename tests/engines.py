"""What the tests of the engine share."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from banditroute.config import load
from banditroute.core.fold import learn
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Attempt, Event, FeedbackReport, RouteQuery, Signal, SignalKind
from banditroute.engine import Engine
from banditroute.log.checkpoint import encode
from banditroute.log.memory import MemoryLog
from banditroute.tokens import TokenSigner
from banditroute.wiring import new_key, open_engine

DOCUMENT: dict[str, Any] = {
    "models": {"a": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}, "b": {"input_usd_per_mtok": 0.1}},
    "categories": {
        "chat": {"models": ["a", "b"], "cost_weight": 0.2, "features": {"length": {"mean": 3.0, "stddev": 2.0}}},
        "code": {"models": ["b", "a"], "half_life_s": 3600.0},
    },
    "decision_sink": {"enabled": False},
}


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def opened(
    clock: Clock, store: Path | None = None, *, threaded: bool = False, document: Mapping[str, Any] = DOCUMENT, **local: Any
) -> Engine:
    url = "memory:" if store is None else f"sqlite:///{store}"
    return open_engine(load({**document, **local}), store=url, clock=clock, seed=1, threaded=threaded)


def bare(log: MemoryLog, clock: Clock, *, threaded: bool = False) -> Engine:
    """An engine on a log of the test's own."""
    key = new_key("k1", random.Random(1))
    return Engine(
        log=log, signer=TokenSigner([key], log.log_id), clock=clock, rng=random.Random(1), sink=None,
        shared=load(DOCUMENT).shared, checkpoint_every=10_000, log_retention_events=10_000, threaded=threaded,
    )  # fmt: skip


def report(decision_id: str, value: float, source: str = "") -> FeedbackReport:
    signal = Signal(SignalKind.EVAL_SCORE, value, source)
    attempt = Attempt(cost_usd=value / 100, latency_s=value, input_tokens=int(100 * value))
    return FeedbackReport(decision_id, (signal,), (attempt,))


def teach(engine: Engine, clock: Clock, count: int, seed: int = 1) -> None:
    """Decisions with feedback, some of it corrected, late or repeated."""
    rng = random.Random(seed)
    ids: list[str] = []
    for i in range(count):
        clock.now += 60.0
        query = RouteQuery("chat", {"length": rng.gauss(3.0, 2.0)}) if i % 3 else RouteQuery("code")
        ids.append(engine.route(query).id)
        engine.submit(report(rng.choice(ids), rng.random(), rng.choice(["", "judge"]))).result()
        if i % 10 == 9:
            engine.catch_up()
    engine.catch_up()


def state_of(engine: Engine) -> bytes:
    return encode(engine.snapshot.state)


def refolded(events: list[Event]) -> State:
    state = INITIAL
    for event in events:
        state, _ = learn(state, event)
    return state
