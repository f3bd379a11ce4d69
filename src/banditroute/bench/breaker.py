"""Outages: how many calls fail until a model is taken out and while it is out, how soon it is back, and how often one that is as
it always was is taken out. Simulated time, real router; figures are counts and simulated seconds, not speeds."""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from banditroute.bench.timing import quantile
from banditroute.core.breaker import Breaker
from banditroute.core.settings import BreakerSettings
from banditroute.core.types import Attempt, BreakerState, ErrorKind, FeedbackReport, RouteQuery, Signal, SignalKind
from banditroute.router import Router

REQUESTS_PER_S = 5.0
BEFORE_S, AFTER_S = 120.0, 900.0
"""Simulated before the outage, and at most after it."""
SERVES_IN_S = 1.0
FAILURES: Mapping[str, tuple[ErrorKind, float]] = {
    "unavailable": (ErrorKind.UNAVAILABLE, 0.1),
    "rate_limited": (ErrorKind.RATE_LIMITED, 0.1),
    "timeout": (ErrorKind.TIMEOUT, 10.0),
}
"""How calls fail, and after how many seconds."""
OUTAGES: Mapping[str, tuple[str, float, Mapping[str, Any]]] = {
    "unavailable_120_s": ("unavailable", 120.0, {}),
    "rate_limited_120_s": ("rate_limited", 120.0, {}),
    "timeout_120_s": ("timeout", 120.0, {}),
    "unavailable_30_s": ("unavailable", 30.0, {}),
    "unavailable_600_s": ("unavailable", 600.0, {}),
    "unavailable_600_s_cooldown_up_to_300_s": ("unavailable", 600.0, {"max_cooldown_s": 300}),
    "unavailable_120_s_without_breaker": ("unavailable", 120.0, {"enabled": False}),
}
"""How calls fail, for how long, and the breaker's settings."""
SHARES, RISES = (0.01, 0.05, 0.2), (0.1, 0.2, 0.5)
STEADY_CALLS = 100_000
QUALITIES = {"best": 0.9, "second": 0.8, "third": 0.75}


class Outage(NamedTuple):
    """What one outage of the best model cost. Calls of that model that failed before its breaker opened, behind that, and how
    many requests came in the outage; seconds from its begin until the breaker opened, from its end until it was closed."""

    failed_until_out: int
    failed_probes: int
    requests: int
    out_after_s: float
    back_after_s: float


def outage(seed: int, *, how: str, outage_s: float, breaker: Mapping[str, Any]) -> Outage:
    """One outage, of callers who try the first fallback and report both calls once they know."""
    rng = random.Random(seed)
    now = 1_800_000_000.0
    begin = now + BEFORE_S
    end = begin + outage_s
    error, fails_in_s = FAILURES[how]
    config = {
        "store": "memory:",
        "models": {name: {} for name in QUALITIES},
        "categories": {"chat": {"models": list(QUALITIES)}},
        "breaker": dict(breaker),
    }
    failed_until_out = failed_probes = requests = 0
    opened, back = 0.0, end
    waiting: list[tuple[float, int, FeedbackReport]] = []
    ticks = itertools.count()
    with Router.from_config(config, clock=lambda: now, seed=seed) as router:
        engine = router.engine

        def state() -> BreakerState:
            held = engine.snapshot.state.breakers.get("best", Breaker())
            return held.state(int(now * 1e6))

        for start in _times(rng, now):
            while waiting and waiting[0][0] <= start:
                now, _, report = heapq.heappop(waiting)
                engine.submit(report).result()
                engine.catch_up()
                opened = opened or (now if state() is BreakerState.OPEN else 0.0)
            now = start
            if now > end and state() is not BreakerState.CLOSED:
                back = now
            if now > end + 60.0 and (now > back + 60.0 or now > end + AFTER_S):
                break
            decision = engine.route(RouteQuery("chat"))
            down = begin <= now < end
            requests += down
            attempts, took = [], 0.0
            for model in (decision.model, *decision.fallback_models[:1]):
                if not (down and model == "best"):
                    attempts.append(Attempt(model, latency_s=SERVES_IN_S))
                    took += SERVES_IN_S
                    score = min(1.0, max(0.0, rng.gauss(QUALITIES[model], 0.2)))
                    signals: tuple[Signal, ...] = (Signal(SignalKind.EVAL_SCORE, score, model=model),)
                    break
                attempts.append(Attempt(model, error))
                took += fails_in_s
                signals = ()
                failed_until_out += not opened
                failed_probes += bool(opened)
            heapq.heappush(waiting, (now + took, next(ticks), FeedbackReport(decision.id, signals, tuple(attempts))))
    return Outage(failed_until_out, failed_probes, requests, (opened or end) - begin, back - end)


def _times(rng: random.Random, start: float) -> Iterator[float]:
    while True:
        start += rng.expovariate(REQUESTS_PER_S)
        yield start


def openings(phases: Sequence[tuple[float, int]], seed: int) -> int:
    """How often a breaker opens in the last of some phases: the share of calls that fails, and how many calls. They come as they
    do from a router."""
    rng, breaker, settings = random.Random(seed), Breaker(), BreakerSettings()
    moments = _times(rng, 1e6)
    position = found = 0
    for share, calls in phases:
        end, found = position + calls, 0
        while position < end:
            now_us = int(next(moments) * 1e6)
            state = breaker.state(now_us)
            if state is BreakerState.OPEN:
                continue
            if state is BreakerState.HALF_OPEN and rng.random() >= breaker.trial_share(now_us, settings):
                continue
            position += 1
            error = ErrorKind.UNAVAILABLE if rng.random() < share else ErrorKind.NONE
            breaker, turn = breaker.after(error, now_us=now_us, position=position, settings=settings)
            found += turn is not None and turn.kind == "breaker_opened"
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "p95": quantile(values, 0.95)}


def run(*, quick: bool = False) -> dict[str, Any]:
    """Outages by how calls fail, how long it lasts and the longest cooldown; false openings by the share of calls that fail."""
    seeds = 3 if quick else 20
    result: dict[str, Any] = {"seeds": seeds, "requests_per_s": REQUESTS_PER_S, "steady_calls": STEADY_CALLS}
    for name, (how, outage_s, breaker) in OUTAGES.items():
        seen = [outage(seed, how=how, outage_s=outage_s, breaker=breaker) for seed in range(seeds)]
        result[name] = {
            **{field: _spread([float(getattr(one, field)) for one in seen]) for field in Outage._fields},
            "failed_share": statistics.fmean((one.failed_until_out + one.failed_probes) / one.requests for one in seen),
        }
    result["false_openings"] = {
        f"{share:.0%}": _spread([openings([(share, STEADY_CALLS)], seed) for seed in range(seeds)]) for share in SHARES
    }
    result["openings_in_10000_calls_after_a_rise_from_1%"] = {
        f"to_{share:.0%}": _spread([openings([(0.01, 10_000), (share, 10_000)], seed) for seed in range(seeds)])
        for share in RISES
    }
    return result
