"""Deciding and folding in process, beside a bare NumPy Thompson draw over as many arms."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from banditroute.bench.setups import CASES, TOKENS, config
from banditroute.core.types import RouteQuery
from banditroute.router import Router


def _microseconds(work: Callable[[int], object], count: int, repeats: int) -> float:
    """Best mean time of one call, in µs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for i in range(count):
            work(i)
        best = min(best, time.perf_counter() - start)
    return best / count * 1e6


def run(*, quick: bool = False) -> dict[str, Any]:
    """`route_us` per case and `feedback_us` (append, fold and publish), with ratios to the bare draw."""
    count, repeats = (500, 2) if quick else (3000, 5)
    rng = np.random.default_rng(0)
    means, deviations = np.full(4, 0.8), np.full(4, 0.05)
    bare = _microseconds(lambda _: int(np.argmax(rng.normal(means, deviations))), count, repeats)
    result: dict[str, Any] = {"bare_numpy_draw_us": bare}
    with Router.from_config(config(store="memory:"), seed=1) as router:
        engine = router.engine
        for case in CASES:
            tokens = itertools.cycle(TOKENS)

            def route(_: int, case: str = case, tokens: Any = tokens) -> object:
                return engine.route(RouteQuery(case, {}, TOKENS[0] if case == "cached" else next(tokens)))

            took = _microseconds(route, count, repeats)
            plan = engine.route(RouteQuery(case, {}, TOKENS[len(TOKENS) // 2])).plan
            result[f"route_{case}_contenders"] = sum(share > 1e-7 for share in plan.unfloored)
            result[f"route_{case}_us"] = took
            result[f"route_{case}_ratio_to_bare_draw"] = took / bare
        ids = iter([router.route("four").id for _ in range(count * repeats)])
        took = _microseconds(lambda _: router.feedback(next(ids), eval_score=0.8, cost_usd=0.001), count, repeats)
        result["feedback_us"] = took
        result["feedback_ratio_to_bare_draw"] = took / bare
    return result
