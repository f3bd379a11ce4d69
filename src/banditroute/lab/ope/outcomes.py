"""What an outcome is expected to be, per category and model: the q of doubly robust estimates.

Ridge regression per (category, model) on the context, its intercept pulled to the model's mean over all categories. With no
context that is the cell's mean, shrunk. What it says of a decision is *predictable*: fitted from blocks of earlier
decisions only, so that the terms of an estimate are martingale differences even though the logging policy learned
from the same outcomes (Bibaut et al. 2021, "Post-contextual-bandit inference", section 3; Hadad et al. 2021).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from banditroute.lab.ope.logged import Logged
from banditroute.lab.source import FloatArray, IntArray

PULL, RIDGE = 4.0, 4.0
"""Observations that the model's mean counts in each cell, and that a slope of 0 counts (features are standardised)."""
FIRST_BLOCK, GROWTH = 25, 10
"""Decisions of the first blocks; later ones are a GROWTH-th of all before, so that few fits see nearly all there is."""


class Expected(NamedTuple):
    """`predictable`, `final` (n, K): the outcome that each model was expected to have at each decision, from what came before
    it and from everything. `inverses` (cells, d + 1, d + 1): of the final fits' matrices, cell = category * K + model."""

    predictable: FloatArray
    final: FloatArray
    inverses: FloatArray


def block_edges(count: int) -> list[int]:
    """Where blocks of decisions begin, with `count` at the end."""
    edges = [0]
    while edges[-1] < count:
        edges.append(min(count, edges[-1] + max(FIRST_BLOCK, edges[-1] // GROWTH)))
    return edges


def with_intercept(logged: Logged) -> FloatArray:
    """z = (1, context), of shape (n, d + 1)."""
    return np.hstack([np.ones((len(logged), 1)), logged.context])


def cells_of(logged: Logged) -> IntArray:
    """Each decision's cell, category * K + chosen model, of shape (n,)."""
    return logged.category * len(logged.models) + logged.chosen


def expected(logged: Logged, outcome: FloatArray) -> Expected:
    """The fits of one outcome.

    Args:
        outcome: shape (n,), such as quality or cost in USD.
    """
    z, cells = with_intercept(logged), cells_of(logged)
    models, width = len(logged.models), z.shape[1]
    size = len(logged.categories) * models
    penalty = np.diag([PULL] + [RIDGE] * (width - 1))
    matrices, moments = np.tile(penalty, (size, 1, 1)), np.zeros((size, width))
    counts, totals = np.zeros(models), np.zeros(models)
    predictable = np.zeros((len(logged), models))

    def slopes() -> FloatArray:
        """Of shape (categories, K, d + 1)."""
        overall = totals.sum() / counts.sum() if counts.any() else 0.0
        usual = (totals + PULL * overall) / (counts + PULL)
        pulled = moments.copy()
        pulled[:, 0] += PULL * np.tile(usual, size // models)
        found = np.linalg.solve(matrices, pulled[:, :, None])[:, :, 0]
        return np.asarray(found.reshape(-1, models, width), dtype=np.float64)

    edges = block_edges(len(logged))
    for start, stop in itertools.pairwise(edges):
        rows = slice(start, stop)
        predictable[rows] = np.einsum("nkd,nd->nk", slopes()[logged.category[rows]], z[rows])
        np.add.at(matrices, cells[rows], z[rows, :, None] * z[rows, None, :])
        np.add.at(moments, cells[rows], z[rows] * outcome[rows, None])
        counts += np.bincount(logged.chosen[rows], minlength=models)
        totals += np.bincount(logged.chosen[rows], weights=outcome[rows], minlength=models)
    final = np.einsum("nkd,nd->nk", slopes()[logged.category], z)
    return Expected(predictable, final, np.linalg.inv(matrices))
