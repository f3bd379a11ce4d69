"""How fast the lab is: decisions with feedback per second and core, as a simulation runs them (`lab/direct.py`), beside a bare
loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from banditroute.lab.course import make_course
from banditroute.lab.delivery import PROMPT, make_mail
from banditroute.lab.environments import Environment, EnvironmentSpec
from banditroute.lab.learners import router_of
from banditroute.lab.plays import played
from banditroute.lab.source import Source

CASES = {"four_contend": (0.8, 0.8, 0.8, 0.8), "two_contend": (0.8, 0.8, 0.3, 0.3)}
"""Mean qualities of four models in one category."""
PRIOR_VARIANCE, NOISE = 0.09, 0.16


def world(means: Sequence[float]) -> Source:
    """One category of 0/1 scores; all models cost the same."""
    arms = {
        f"model-{k}": {"score": {"kind": "binary", "mean": mean}, "cost_usd": {"mean": 0.001, "sd": 0.0}}
        for k, mean in enumerate(means)
    }
    spec = {"name": "bench", "categories": {"only": {"weight": 1.0, "models": arms}}}
    return Environment(EnvironmentSpec.model_validate(spec))


def bare(means: Sequence[float], requests: int) -> float:
    """Gaussian Thompson sampling in NumPy with nothing around it: decisions with feedback per second of processor time."""
    rng = np.random.default_rng(1)
    counts, sums = np.zeros(len(means)), np.zeros(len(means))
    uniforms = rng.random(requests)
    start = time.process_time()
    for i in range(requests):
        precision = 1.0 / PRIOR_VARIANCE + counts / NOISE
        mean = (0.5 / PRIOR_VARIANCE + sums / NOISE) / precision
        model = int((mean + rng.standard_normal(len(means)) / np.sqrt(precision)).argmax())
        counts[model] += 1.0
        sums[model] += float(uniforms[i] < means[model])
    return requests / (time.process_time() - start)


def run(*, quick: bool = False) -> dict[str, Any]:
    """By case: `per_second` of processor time through the lab's engine, `bare_per_second`, and what share of it the former is."""
    requests, repeats = (500, 1) if quick else (6000, 3)
    found = {}
    for name, means in CASES.items():
        course = make_course(world(means), requests=requests, seed=1, cost_weight=0.1)
        mail, best = make_mail(PROMPT, course, seed=1), 0.0
        for _ in range(repeats):
            with router_of(course, seed=1) as router:
                start = time.process_time()
                played(course, router, mail, PROMPT)
                best = max(best, requests / (time.process_time() - start))
        loop = max(bare(means, requests) for _ in range(repeats))
        found[name] = {"per_second": best, "bare_per_second": loop, "share_of_bare": best / loop}
    return found
