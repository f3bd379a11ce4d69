"""Learning in process: what one feedback costs, with the refits that it shares with others."""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

from banditroute.bench.setups import crowd
from banditroute.bench.timing import quantile
from banditroute.config import load, resolved
from banditroute.core.fold import MEANS_EVERY, VARIANCES_EVERY, learn
from banditroute.core.settings import parse_shared
from banditroute.core.sights import Columns
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Attempt, Event, EventKind, Signal, SignalKind
from banditroute.log.base import FeedbackAppend
from banditroute.log.memory import MemoryLog
from banditroute.router import Router

SIZES = ((1, 4), (14, 9), (57, 2), (200, 10))
"""Categories and models; the middle two are those of MMLU-Pro and RouteLLM's MMLU."""

WARM = 2 * VARIANCES_EVERY


def events(categories: int, models: int, count: int) -> list[Event]:
    """A configuration and `count` first feedbacks as the engine logs them: a judgement and an attempt each."""
    rng = random.Random(0)
    ticks = itertools.count(1_700_000_000)
    log = MemoryLog(lambda: next(ticks), log_id="0" * 32)
    document = resolved(load(crowd(categories, models)).shared, {})
    log.append(EventKind.CONFIG, {"document": document})
    settings = parse_shared(document)
    names, arms = list(settings.categories), list(settings.models)
    schema = settings.categories[names[0]].schema.hex()
    for number in range(count):
        into, out = rng.randrange(500, 1500), rng.randrange(100, 500)
        model = rng.choice(arms)
        cost = settings.models[model].list_cost_usd(into, out)
        decision = {
            "id": number.to_bytes(16, "big").hex(),
            "category": rng.choice(names),
            "model": model,
            "propensity": 0.25,
            "expected_quality": 0.75,
            "expected_cost_usd": cost,
            "input_tokens": into,
            "state_position": number,
            "schema": schema,
            "context": [],
        }
        signal = Signal(SignalKind.EVAL_SCORE, float(rng.random() < 0.7))
        attempt = Attempt(input_tokens=into, output_tokens=out, cost_usd=1.1 * cost, latency_s=rng.random(), computed_usd=cost)
        log.append_feedback(FeedbackAppend(number.to_bytes(16, "big"), decision, (signal,), (attempt,), None, 2**62))
    return list(log.read(0, count + 1))


def learning(warm: State, told: Sequence[Event], repeats: int) -> dict[str, float]:
    """`learn_us` an event on average, and of that `refits_us`: what it takes longer at the positions that refit."""
    clock = time.perf_counter_ns
    gc.collect()
    gc.freeze()  # the events themselves are not what the collector would have to walk
    best: list[float] = []
    for _ in range(repeats):
        state, took, columns = warm, [], Columns()
        for event in told:
            start = clock()
            state, _ = learn(state, event, columns)
            took.append((clock() - start) / 1e3)
        best = min(best or took, took, key=sum)
    gc.unfreeze()
    plain = quantile([t for t, event in zip(best, told, strict=True) if event.position % MEANS_EVERY], 0.5)
    extra = [t - plain for t, event in zip(best, told, strict=True) if event.position % MEANS_EVERY == 0]
    mean, refits = sum(best) / len(best), sum(extra) / len(best)
    return {"learn_us": mean, "refits_us": refits, "refits_share": refits / mean, "slowest_us": max(best)}


def feedback_us(categories: int, models: int, count: int) -> float:
    """`Router.feedback` on average: check, append to a log in memory, fold, publish."""
    with Router.from_config(crowd(categories, models), seed=1) as router:
        names = list(router.engine.snapshot.state.settings.categories)
        ids = [router.route(names[i % len(names)]).id for i in range(WARM + count)]

        def tell(told: Sequence[str]) -> float:
            start = time.perf_counter()
            for decision_id in told:
                router.feedback(decision_id, eval_score=0.8, input_tokens=900, output_tokens=300, cost_usd=0.001, latency_s=0.5)
            return (time.perf_counter() - start) / len(told) * 1e6

        tell(ids[:WARM])
        return tell(ids[WARM:])


def run(*, quick: bool = False) -> dict[str, Any]:
    """By categories x models: µs an event past position 2,048, over whole cycles of both refits."""
    count, repeats = (VARIANCES_EVERY, 1) if quick else (20 * VARIANCES_EVERY, 3)
    result: dict[str, Any] = {"events": count}
    for categories, models in SIZES:
        told = events(categories, models, WARM + count)
        state, columns = INITIAL, Columns()
        for event in told[:WARM]:
            state, _ = learn(state, event, columns)
        found = learning(state, told[WARM : WARM + count], repeats)
        found["feedback_us"] = feedback_us(categories, models, VARIANCES_EVERY if quick else 4 * VARIANCES_EVERY)
        result[f"{categories}x{models}"] = found
    return result
