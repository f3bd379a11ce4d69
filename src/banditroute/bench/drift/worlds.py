"""The router that serves, on simulated worlds: false alarms where nothing changes, and what becomes of them where all models get
worse alike, since the prompts of one category got harder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from banditroute.bench.drift.nulls import BUDGETS, MEANS, Scores, binary, judged
from banditroute.bench.drift.spread import SEEDS, over_seeds
from banditroute.bench.drift.twin import Vector
from banditroute.core.types import JournalRow
from banditroute.router import Router

MODELS = 4
MODEL_SD, CELL_SD = 0.03, 0.02
"""How models differ in quality, everywhere and in one category."""
COST_WEIGHT = 0.05
HARDER_IN, HARDER_BY = 0, 0.2
"""The category whose prompts get harder, and by how much every model falls there."""
SLOWLY = 1000
"""Requests that it takes where it comes slowly."""
START_TIME, SECONDS_PER_REQUEST = 1_750_000_000.0, 30.0
ALARMS = ("demoted", "degraded", "improved")

Harder = Callable[[int], float]


class Size(NamedTuple):
    """Requests of one world, and from which on prompts may get harder."""

    requests: int
    change: int


def config(budget: float) -> dict[str, Any]:
    """MODELS models of rising price over the categories of MEANS."""
    models = {f"model-{k}": {"input_usd_per_mtok": 0.5 + 0.2 * k, "output_usd_per_mtok": 2.0 + 0.5 * k} for k in range(MODELS)}
    return {
        "store": "memory:",
        "models": models,
        "categories": {f"category-{c}": {"models": list(models), "cost_weight": COST_WEIGHT} for c in range(len(MEANS))},
        "false_alarms_per_million_feedbacks": budget,
        "decision_sink": {"enabled": False},
    }


def journal(scores: Scores, *, budget: float, seed: int, requests: int, harder: Harder = lambda _: 0.0) -> Sequence[JournalRow]:
    """What the fold noted, oldest first; event t + 2 is the feedback on request t."""
    rng = np.random.default_rng(seed)
    qualities: Vector = MEANS[:, None] + MODEL_SD * rng.standard_normal(MODELS)
    qualities = np.clip(qualities + CELL_SD * rng.standard_normal(qualities.shape), 0.05, 0.95)
    now = START_TIME
    with Router.from_config(config(budget), clock=lambda: now, seed=seed) as router:
        for t in range(requests):
            now += SECONDS_PER_REQUEST
            category = int(rng.integers(len(MEANS)))
            decision = router.route(f"category-{category}")
            quality = qualities[category, int(decision.model[-1])] - (harder(t) if category == HARDER_IN else 0.0)
            (value,) = scores(rng, np.array([max(0.05, quality)])).tolist()
            router.feedback(decision.id, eval_score=value)
        return router.engine.journal(limit=1_000_000)[::-1]


def alarms(rows: Sequence[JournalRow]) -> list[JournalRow]:
    """Those that tests raised; later reviews of where rivals are better are none."""
    return [row for row in rows if row.kind in ALARMS and "since_position" in row.body]


def stationary(*, budget: float, seeds: int, requests: int) -> dict[str, Any]:
    """Alarms per million feedbacks; every other world has 0/1 scores, the rest a judge's."""
    down, up, became = [], [], Counter[str]()
    for seed in range(seeds):
        rows = journal((binary, judged)[seed % 2], budget=budget, seed=seed, requests=requests)
        found = alarms(rows)
        up.append(sum(row.kind == "improved" for row in found) * 1e6 / requests)
        down.append(len(found) * 1e6 / requests - up[-1])
        became.update(row.kind for row in rows if "model" in row.body)
    return {"feedbacks": seeds * requests, "down": over_seeds(down), "up": over_seeds(up), "journal": dict(became)}


class Outcome(NamedTuple):
    """What became of one world's alarms downward after the change: how many there were, how many of models as a whole, how many
    of the changes were ended by the contrast with rivals, how otherwise, and which were open at the end; and the requests
    from alarm to contrast."""

    alarms: int
    of_models_as_a_whole: int
    settled_by_contrast: int
    settled_otherwise: int
    promoted: int
    open_at_the_end: int
    took: tuple[int, ...]


def outcome(rows: Sequence[JournalRow]) -> Outcome:
    """From the lines of a journal, oldest first."""
    since: dict[tuple[str, str], int] = {}
    took: list[int] = []
    ended: Counter[str] = Counter()
    found = [row for row in alarms(rows) if row.kind != "improved"]
    for row in rows:
        key = str(row.body.get("model", "")), str(row.body.get("category", ""))
        if row in found:
            if not key[1]:  # a change of the whole model ends those of its arms
                since = {other: position for other, position in since.items() if other[0] != key[0]}
            since[key] = row.position
        elif row.kind in ("settled", "promoted") and key in since:
            position = since.pop(key)
            by_contrast = "rivals" in row.body.get("reason", "")
            ended["contrast" if by_contrast else row.kind] += 1
            if by_contrast:
                took.append(row.position - position)
    whole = sum(not row.body["category"] for row in found)
    return Outcome(len(found), whole, ended["contrast"], ended["settled"], ended["promoted"], len(since), tuple(took))


def harder_prompts(size: Size, *, slowly: bool, seeds: int) -> dict[str, Any]:
    """What becomes of alarms after the change, in means a world, and how long the contrast takes."""

    def harder(t: int) -> float:
        return HARDER_BY * min(1.0, max(0.0, (t - size.change + 1) / (SLOWLY if slowly else 1)))

    found = []
    for seed in range(seeds):
        rows = journal(binary, budget=BUDGETS[0], seed=seed, requests=size.requests, harder=harder)
        found.append(outcome([row for row in rows if row.position >= size.change + 2]))
    took = [each for world in found for each in world.took]
    spread = {"mean": float(np.mean(took)), "p95": float(np.quantile(took, 0.95))} if took else {}
    counts = {name: over_seeds([float(getattr(world, name)) for world in found]) for name in Outcome._fields[:-1]}
    return {"worlds": seeds, "requests_after": size.requests - size.change, **counts, "requests_to_contrast": spread}


def run(*, quick: bool = False) -> dict[str, Any]:
    """False alarms by budget, and harder prompts, at once and slowly."""
    logging.getLogger("banditroute.journal").setLevel(logging.CRITICAL)
    seeds, requests, size = (2, 300, Size(600, 300)) if quick else (SEEDS, 8000, Size(4000, 2000))
    return {
        "stationary": {f"budget_{budget:g}": stationary(budget=budget, seeds=seeds, requests=requests) for budget in BUDGETS},
        "harder_at_once": harder_prompts(size, slowly=False, seeds=seeds),
        "harder_slowly": harder_prompts(size, slowly=True, seeds=seeds),
    }
