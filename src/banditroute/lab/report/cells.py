"""Which of the router's beliefs a report shows, for the picture and the table alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from banditroute.lab.runs import Z90

MOST_CATEGORIES, MOST_MODELS = 60, 20


class Cell(NamedTuple):
    """A belief about one model in one category, with the bounds of its central 90 % interval, and the truth."""

    category: str
    model: str
    mean: float
    low: float
    high: float
    truth: float
    feedback_count: int

    @property
    def holds(self) -> bool:
        return self.low <= self.truth <= self.high


def shown(scene: Mapping[str, Any]) -> tuple[list[str], list[str], dict[tuple[str, str], Cell]]:
    """Categories, models and their cells: all that are there at the end, or those with the most feedback where there are too many
    to look at."""
    beliefs = scene["beliefs"]
    counts = beliefs["feedback_counts"]
    there = [k for k, mean in enumerate(beliefs["mean"][0]) if mean is not None]
    rows = _busiest({c: sum(row) for c, row in enumerate(counts)}, MOST_CATEGORIES)
    columns = _busiest({k: sum(row[k] for row in counts) for k in there}, MOST_MODELS)
    cells = {}
    for c in rows:
        for k in columns:
            mean, half = beliefs["mean"][c][k], Z90 * beliefs["stddev"][c][k]
            category, model, truth = scene["categories"][c], scene["models"][k], beliefs["truth"][c][k]
            cells[category, model] = Cell(category, model, mean, mean - half, mean + half, truth, counts[c][k])
    return [scene["categories"][c] for c in rows], [scene["models"][k] for k in columns], cells


def _busiest(counts: Mapping[int, int], most: int) -> list[int]:
    return sorted(sorted(counts, key=lambda i: -counts[i])[:most])
