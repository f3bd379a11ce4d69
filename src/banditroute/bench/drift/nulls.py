"""False alarms where no model changes: per million feedbacks, downward and upward, with references learned as in production.

Every scenario makes batches of one value each of different models, for the twin of `core.drift`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from banditroute.bench.drift.spread import SEEDS, over_seeds
from banditroute.bench.drift.twin import Alarm, Index, Twin, Vector
from banditroute.core.drift import threshold

BUDGETS = (20.0, 100.0)
"""False alarms per million feedbacks that are allowed: the default, and more."""
MEANS = np.array([0.92, 0.8, 0.6, 0.35])
"""Of the scores in each category."""
JUDGE_SD = 0.1
PERIOD, STEEP = 5000, 3.0
"""Feedbacks of a model until its mix of categories is what it was, and how far it goes: a share of .03 to .87."""
SPELL, ASIDE = 1000, 0.05
"""Feedbacks for which one category has nearly all traffic, and how much goes anywhere else."""
RIVALS, RIVAL_SD = 4, 0.02
"""Models of a world, and the sd of their qualities in a category."""
EXPLORED = 0.05

Batch = tuple[Index, Index, Vector]
Scores = Callable[[np.random.Generator, Vector], Vector]


class Size(NamedTuple):
    """Worlds in all and feedbacks of each; a world is one model, or RIVALS of them."""

    worlds: int
    feedbacks: int


def binary(rng: np.random.Generator, means: Vector) -> Vector:
    """Scores of 0 or 1."""
    return (rng.random(len(means)) < means).astype(np.float64)


def judged(rng: np.random.Generator, means: Vector) -> Vector:
    """Scores as a judge gives them, clipped to [0, 1]."""
    return np.clip(rng.normal(means, JUDGE_SD), 0.0, 1.0)


def steady(scores: Scores, rng: np.random.Generator, worlds: int) -> Iterator[Batch]:
    """All categories alike often."""
    models = np.arange(worlds)
    while True:
        categories = rng.integers(0, len(MEANS), worlds)
        yield models, categories, scores(rng, MEANS[categories])


def wandering(scores: Scores, rng: np.random.Generator, worlds: int) -> Iterator[Batch]:
    """The mix goes smoothly from one category to the next."""
    models, start = np.arange(worlds), rng.random((worlds, 1))
    place, t = np.arange(len(MEANS)) / len(MEANS), 0
    while True:
        weights = np.exp(STEEP * np.cos(2.0 * np.pi * (t / PERIOD + start + place))).cumsum(axis=1)
        categories = (rng.random((worlds, 1)) * weights[:, -1:] > weights).sum(axis=1)
        yield models, categories, scores(rng, MEANS[categories])
        t += 1


def jumping(scores: Scores, rng: np.random.Generator, worlds: int) -> Iterator[Batch]:
    """The mix jumps: one category at a time has nearly all traffic."""
    models, start = np.arange(worlds), rng.integers(0, len(MEANS) * SPELL, worlds)
    t = 0
    while True:
        aside = rng.random(worlds) < ASIDE
        categories = np.where(aside, rng.integers(0, len(MEANS), worlds), (start + t) // SPELL % len(MEANS))
        yield models, categories, scores(rng, MEANS[categories])
        t += 1


def chosen(scores: Scores, rng: np.random.Generator, worlds: int, *, thompson: bool) -> Iterator[Batch]:
    """Each value is of the model that looked best by the values so far: what a bandit makes of its own logs. Draws as Thompson's
    (sd .4 / sqrt(n + 1)), or the best mean and EXPLORED of any."""
    world = np.arange(worlds)
    qualities = np.clip(MEANS[None, :, None] + RIVAL_SD * rng.standard_normal((worlds, len(MEANS), RIVALS)), 0.05, 0.95)
    count, total = np.zeros((2, *qualities.shape))
    while True:
        categories = rng.integers(0, len(MEANS), worlds)
        n = count[world, categories]
        looks = (total[world, categories] + 0.7) / (n + 1.0)
        if thompson:
            picked = (looks + 0.4 / np.sqrt(n + 1.0) * rng.standard_normal(looks.shape)).argmax(axis=1)
        else:
            best = (looks + 1e-9 * rng.random(looks.shape)).argmax(axis=1)
            picked = np.where(rng.random(worlds) < EXPLORED, rng.integers(0, RIVALS, worlds), best)
        values = scores(rng, qualities[world, categories, picked])
        count[world, categories, picked] += 1.0
        total[world, categories, picked] += values
        yield world * RIVALS + picked, categories, values


SCENARIOS: dict[str, tuple[int, Callable[[np.random.Generator, int], Iterator[Batch]]]] = {
    "binary": (1, lambda rng, worlds: steady(binary, rng, worlds)),
    "judged": (1, lambda rng, worlds: steady(judged, rng, worlds)),
    "mix_wanders": (1, lambda rng, worlds: wandering(binary, rng, worlds)),
    "mix_wanders_judged": (1, lambda rng, worlds: wandering(judged, rng, worlds)),
    "mix_jumps": (1, lambda rng, worlds: jumping(binary, rng, worlds)),
    "chosen_by_thompson": (RIVALS, lambda rng, worlds: chosen(binary, rng, worlds, thompson=True)),
    "chosen_by_epsilon_greedy": (RIVALS, lambda rng, worlds: chosen(binary, rng, worlds, thompson=False)),
    "chosen_by_thompson_judged": (RIVALS, lambda rng, worlds: chosen(judged, rng, worlds, thompson=True)),
}
"""Models of a world, and its batches."""


def false_alarms(name: str, *, budget: float, size: Size, seed: int = 0) -> list[Alarm]:
    """All alarms of one scenario."""
    per_world, batches = SCENARIOS[name]
    twin, found, needed = Twin(size.worlds * per_world, len(MEANS)), [], threshold(budget)
    for models, categories, values in islice(batches(np.random.default_rng(seed), size.worlds), size.feedbacks):
        twin.step(models, categories, values)
        found += twin.alarms(models, categories, needed)
    return found


def per_million(name: str, found: list[Alarm], size: Size, seeds: int) -> dict[str, Any]:
    """Alarms per million feedbacks, over `seeds` equal parts of the worlds."""
    per_world, _ = SCENARIOS[name]
    feedbacks = size.worlds // seeds * size.feedbacks
    result: dict[str, Any] = {"feedbacks": size.worlds * size.feedbacks}
    for way in ("down", "up"):
        mine = [alarm for alarm in found if alarm.up == (way == "up")]
        parts = np.bincount([alarm.model // per_world * seeds // size.worlds for alarm in mine], minlength=seeds)
        result[way] = over_seeds((parts * 1e6 / feedbacks).tolist())
        result[f"{way}_of_models_as_a_whole"] = sum(alarm.category is None for alarm in mine) * 1e6 / result["feedbacks"]
    return result


def run(*, quick: bool = False) -> dict[str, Any]:
    """By scenario and budget."""
    seeds, size = (2, Size(10, 1000)) if quick else (SEEDS, Size(25 * SEEDS, 10_000))
    return {
        name: {
            f"budget_{budget:g}": per_million(name, false_alarms(name, budget=budget, size=size), size, seeds)
            for budget in BUDGETS
        }
        for name in SCENARIOS
    }
