"""The cost/quality plane: what fixed models and constant mixtures of them reach, and AIQ.

RouterBench (Hu et al. 2024, arXiv 2403.12031, section 3): a router that picks one of two others by a coin has, in expectation,
the points between theirs; so what a set of points can reach at a cost is the non-decreasing upper convex hull of them. To the
left of the cheapest point it is mixed with the router that answers nothing, at no cost and no quality; to the right of the
dearest, money is left over. AIQ, the average improvement in quality, is the mean of that hull over a range of costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from banditroute.lab.course import states_of
from banditroute.lab.happenings import Happening
from banditroute.lab.source import Source
from banditroute.lab.traffic import Traffic


class Point(NamedTuple):
    """USD and score per request, in the mean."""

    cost_usd: float
    score: float


class FixedModel(NamedTuple):
    """What it comes to if one model is given every request, in expectation. `always_there`: never absent."""

    model: str
    cost_usd: float
    score: float
    always_there: bool


def fixed_models(
    source: Source, happenings: Sequence[Happening], *, requests: int, traffic: Traffic | None
) -> tuple[FixedModel, ...]:
    """Each model of a source over all that happens, from the exact means. Calls that fail cost nothing and are worth nothing;
    of a model that is absent for a while, the rest is told. Raises as `states_of`."""
    states = states_of(source, happenings, requests=requests, cost_weight=0.0)
    ends = [*[state.start for state in states[1:]], requests]
    shares = None
    if traffic is not None:
        weights = traffic.weights(source, requests=requests)
        shares = weights / weights.sum(axis=1, keepdims=True)
    score, cost_usd, served = (np.zeros(len(source.models)) for _ in range(3))
    for state, end in zip(states, ends, strict=True):
        length = end - state.start
        of_categories = length * source.weights if shares is None else shares[state.start : end].sum(axis=0)
        answers = state.present & ~state.failing
        score += np.where(answers, of_categories @ state.source.mean_scores, 0.0)
        cost_usd += np.where(answers, of_categories @ state.source.mean_costs_usd, 0.0)
        served += np.where(state.present, length, 0)
    served_at_all = np.maximum(served, 1.0)
    rows = zip(source.models, (cost_usd / served_at_all).tolist(), (score / served_at_all).tolist(), served.tolist(), strict=True)
    return tuple([FixedModel(model, cost, quality, there == requests) for model, cost, quality, there in rows])


def hull(points: Iterable[Point]) -> list[Point]:
    """The non-decreasing upper convex hull, cheapest first; what is dominated by points or by mixtures of them is left out."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost_usd, -each.score)):
        if found and point.score <= found[-1].score:
            continue
        while len(found) >= 2 and _is_below(found[-1], found[-2], point):
            found.pop()
        found.append(point)
    return found


def _is_below(middle: Point, left: Point, right: Point) -> bool:
    run, rise = right.cost_usd - left.cost_usd, right.score - left.score
    return (middle.score - left.score) * run <= rise * (middle.cost_usd - left.cost_usd)


def aiq(points: Iterable[Point], *, low_usd: float, high_usd: float) -> float | None:
    """Mean quality over the costs from `low_usd` to `high_usd` that mixtures of the points reach; None where the range is
    empty."""
    if high_usd <= low_usd:
        return None
    found = hull([Point(0.0, 0.0), *points])
    costs, scores = [point.cost_usd for point in found], [point.score for point in found]
    bends = np.array([low_usd, *[cost for cost in costs if low_usd < cost < high_usd], high_usd])
    return float(np.trapezoid(np.interp(bends, costs, scores), bends) / (high_usd - low_usd))
