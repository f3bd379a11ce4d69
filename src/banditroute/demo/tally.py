"""Running figures of what was played so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from banditroute.demo.play import Played
from banditroute.lab.source import Source, cost_reference_usd


class Tally:
    """Sums over the requests played; `take` adds those that are new. Not for several threads."""

    def __init__(self, source: Source, *, cost_weight: float) -> None:
        self.count = 0
        self.by_category: Counter[int] = Counter()
        self.quality = self.cost_usd = 0.0
        self.scores = np.zeros(len(source.models))
        self.costs_usd = np.zeros(len(source.models))
        self.regrets: list[float] = []
        """Utility lost in each stretch between two `take`s, over what random choice would have lost."""
        means = source.mean_scores - cost_weight * source.mean_costs_usd / cost_reference_usd(source)
        self._gaps = means.max(axis=1, keepdims=True) - means

    def take(self, played: Sequence[Played]) -> None:
        """Adds what is new in `played`, which only grows."""
        fresh = played[self.count :]
        lost = at_random = 0.0
        for each in fresh:
            self.by_category[each.category] += 1
            self.quality += float(each.scores[each.model])
            self.cost_usd += float(each.costs_usd[each.model])
            self.scores += each.scores
            self.costs_usd += each.costs_usd
            lost += float(self._gaps[each.category, each.model])
            at_random += float(self._gaps[each.category].mean())
        self.count += len(fresh)
        if fresh:
            self.regrets.append(lost / at_random if at_random else 0.0)

    @property
    def best(self) -> int:
        """The model with the highest mean quality so far."""
        return int(self.scores.argmax())
