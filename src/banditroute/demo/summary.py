"""The demo's result in numbers: what was kept and what was saved, over exactly the requests that were played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from banditroute.demo.play import Played
from banditroute.lab.source import FloatArray, Source, cost_reference_usd


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One way to choose. Quality in [0, 1], cost in USD, both per request; `utility` is what the router maximises."""

    quality: float
    cost_usd: float
    utility: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """`best_model` has the highest mean quality over the requests played; `oracle` takes each category's best utility.

    Shares are of 1: `quality_kept` of the best model's quality, `money_saved` of its cost; `*_random` against random.
    `lost_*` is utility lost against the oracle, over the same of random choice.
    """

    requests: int
    seconds: float
    requests_per_s: float
    cost_weight: float
    router: Outcome
    first_half: Outcome
    second_half: Outcome
    best_model: str
    best: Outcome
    random: Outcome
    oracle: Outcome
    quality_kept: float
    money_saved: float
    quality_against_random: float
    money_saved_against_random: float
    lost_first_half: float
    lost_second_half: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(played: Sequence[Played], source: Source, *, cost_weight: float, seconds: float) -> Summary:
    """Of at least one request."""
    scores = np.stack([each.scores for each in played])
    costs = np.stack([each.costs_usd for each in played])
    categories = np.array([each.category for each in played])
    chosen = np.array([each.model for each in played])
    reference = cost_reference_usd(source)
    rows = np.arange(len(played))
    means = source.mean_scores - cost_weight * source.mean_costs_usd / reference

    def outcome(quality: FloatArray, cost: FloatArray) -> Outcome:
        q, c = float(quality.mean()), float(cost.mean())
        return Outcome(quality=q, cost_usd=c, utility=q - cost_weight * c / reference)

    got, paid = scores[rows, chosen], costs[rows, chosen]
    ideal = means.argmax(axis=1)[categories]
    middle = max(1, len(played) // 2)
    best = int(scores.mean(axis=0).argmax())
    router, always, chance = outcome(got, paid), outcome(scores[:, best], costs[:, best]), outcome(scores, costs)
    second = outcome(got[middle:], paid[middle:]) if len(played) > 1 else router

    gaps = (means.max(axis=1, keepdims=True) - means)[categories]
    lost, at_random = gaps[rows, chosen], gaps.mean(axis=1)
    return Summary(
        requests=len(played),
        seconds=seconds,
        requests_per_s=len(played) / seconds if seconds > 0 else 0.0,
        cost_weight=cost_weight,
        router=router,
        first_half=outcome(got[:middle], paid[:middle]),
        second_half=second,
        best_model=source.models[best],
        best=always,
        random=chance,
        oracle=outcome(scores[rows, ideal], costs[rows, ideal]),
        quality_kept=_ratio(router.quality, always.quality),
        money_saved=1.0 - _ratio(router.cost_usd, always.cost_usd),
        quality_against_random=_ratio(router.quality, chance.quality) - 1.0,
        money_saved_against_random=1.0 - _ratio(router.cost_usd, chance.cost_usd),
        lost_first_half=_ratio(float(lost[:middle].sum()), float(at_random[:middle].sum()), of_nothing=0.0),
        lost_second_half=_ratio(float(lost[middle:].sum()), float(at_random[middle:].sum()), of_nothing=0.0),
    )


def _ratio(part: float, whole: float, *, of_nothing: float = 1.0) -> float:
    return part / whole if whole else of_nothing
