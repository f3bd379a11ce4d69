"""Deciding in process, beside a bare NumPy draw over as many arms and, where installed, other libraries' picks."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from banditroute.bench import peers
from banditroute.bench.setups import CASES, TOKENS, config, rivals
from banditroute.bench.timing import Call, Subject, in_turn
from banditroute.core.types import Decision
from banditroute.router import Router

FRESH = {"fresh_k4": (4, 0), "fresh_k10_features": (10, 8), "fresh_k20": (20, 0)}
"""Arms and context features. Each decision is on a state that has just learned, so that everything is derived anew."""

WARM = 1100
"""Feedbacks beforehand: from position 1,024 on, the pool is refitted every 64 events."""

CONTENDS = 1e-7


class Fixed:
    """Decisions on one state: equal ones, or with ever other tokens, which no plan is kept for."""

    def __init__(self, router: Router, case: str) -> None:
        self._router, self._case = router, case
        self._tokens = itertools.repeat(TOKENS[0]) if case == "cached" else itertools.cycle(TOKENS)
        plan = router.route(case, input_tokens=TOKENS[len(TOKENS) // 2]).plan
        self.contenders = sum(share > CONTENDS for share in plan.unfloored)

    def __call__(self) -> Call:
        router, case, count = self._router, self._case, next(self._tokens)
        return lambda: router.route(case, input_tokens=count)


class Fresh:
    """Each decision on a state that has just folded what became of the one before."""

    def __init__(self, arms: int, features: int) -> None:
        self.router = Router.from_config(rivals(arms, features), seed=1)
        self._rng = random.Random(arms)
        self._names = list(rivals(arms, features)["categories"]["rivals"]["features"])
        self._seen: list[int] = []
        self._last = self._decide({})
        for _ in range(WARM):
            self()()
        self._seen.clear()

    def _decide(self, features: Mapping[str, float]) -> Decision:
        self._last = self.router.route("rivals", features=features)
        return self._last

    def __call__(self) -> Call:
        rng = self._rng
        self._seen.append(sum(share > CONTENDS for share in self._last.plan.unfloored))
        self.router.feedback(self._last.id, eval_score=float(rng.random() < 0.6), cost_usd=0.001, latency_s=rng.random())
        features = {name: rng.gauss(0.0, 1.0) for name in self._names}
        return lambda: self._decide(features)

    @property
    def contenders(self) -> float:
        """How many arms contended, on average."""
        return statistics.fmean(self._seen)


def run(*, quick: bool = False) -> dict[str, Any]:
    """p50 and p99 in µs of `Router.route`, of a bare draw and of the peers' picks, all in turn; and their ratios."""
    count, rounds = (200, 2) if quick else (1000, 7)
    rng = np.random.default_rng(0)
    means, deviations = np.full(4, 0.8), np.full(4, 0.05)
    with Router.from_config(config(store="memory:"), seed=1) as router:
        fixed = {case: Fixed(router, case) for case in CASES}
        fresh = {name: Fresh(*size) for name, size in FRESH.items()}
        ours: dict[str, Fixed | Fresh] = {**fixed, **fresh}
        others, missing = peers.subjects()
        subjects: dict[str, Subject] = {
            "bare_numpy_draw": lambda: lambda: int(np.argmax(rng.normal(means, deviations))),
            **{f"route_{name}": subject for name, subject in ours.items()},
            **others,
        }
        result: dict[str, Any] = {**in_turn(subjects, count=count, rounds=rounds), **dict.fromkeys(missing, peers.NOT_INSTALLED)}
        for name, subject in ours.items():
            result[f"route_{name}"]["contenders"] = subject.contenders
        for each in fresh.values():
            each.router.close()
    bare, four = (result[name]["p50_us"] for name in ("bare_numpy_draw", "route_fresh_k4"))
    for name in ours:
        result[f"route_{name}"]["ratio_to_bare_draw"] = result[f"route_{name}"]["p50_us"] / bare
    result["fresh_k20_ratio_to_k4"] = result["route_fresh_k20"]["p50_us"] / four
    result["fresh_k4_ratio_to_peers"] = {name: four / result[name]["p50_us"] for name in others}
    return result
