"""What one policy's run of one seed came to, small enough to keep for thousands of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from banditroute.lab.results import Covered

BINS = 60
"""Parts of a run of which each has its own means."""


class Transition(NamedTuple):
    """One line of the router's journal: the request that it followed, a model's index, a category's if it is about one arm."""

    request: int
    kind: str
    model: int
    category: int | None


class Cells(NamedTuple):
    """What the router believes at the end: lists of shape (categories, models); None for models that are not configured."""

    mean: Sequence[Sequence[float | None]]
    stddev: Sequence[Sequence[float | None]]
    feedback_counts: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One policy's run. Regret in utility, summed from the first request on; cost in USD per request.

    `regrets_at` has the regret after so many requests. `shares` (bins, models), `scores` and `costs_usd` (bins,) are means over
    the parts of the run. What is about beliefs and transitions is the router's alone.
    """

    policy: str
    seed: int
    regret: float
    random_regret: float
    mean_score: float
    mean_cost_usd: float
    regrets_at: Mapping[int, float]
    shares: Sequence[Sequence[float]]
    scores: Sequence[float]
    costs_usd: Sequence[float]
    coverage: Covered | None = None
    beliefs: Cells | None = None
    transitions: tuple[Transition, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON data, from which `from_json` makes an equal outcome."""
        told = dict(vars(self))
        told["regrets_at"] = list(self.regrets_at.items())
        return told

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Outcome:
        """Raises KeyError, TypeError or ValueError where it is no such data."""
        values = dict(raw)
        values["regrets_at"] = {int(requests): float(regret) for requests, regret in raw["regrets_at"]}
        values["coverage"] = None if raw["coverage"] is None else Covered(*raw["coverage"])
        values["beliefs"] = None if raw["beliefs"] is None else Cells(*raw["beliefs"])
        values["transitions"] = tuple([Transition(*each) for each in raw["transitions"]])
        return cls(**values)
