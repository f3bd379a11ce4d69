"""Worlds of the mixed model for the tests: random layouts, and the joint Gaussian that answers everything the slow way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.core.evidence import Cell, Usage
from banditroute.core.pool import ABILITY, CENTRE, CENTRE_VARIANCE, DIFFICULTY, START, START_NOISE, Pool, Pooled, Sight, _cells

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Key = tuple[str, str]


class Seen(NamedTuple):
    """A cell's evidence: n observations with their mean and their sum of squares about it."""

    n: float
    mean: float
    squares: float = 0.0

    @property
    def cell(self) -> Cell:
        """The same as sums."""
        return Cell((self.n,), (self.n * self.mean,), self.squares + self.n * self.mean**2, Usage(), round(self.n), 0, 0)


def categories(count: int) -> list[str]:
    return [f"k{i:02}" for i in range(count)]


def arms_named(count: int) -> list[str]:
    return [f"m{i:02}" for i in range(count)]


def layout(rng: np.random.Generator, ks: list[str], ms: list[str], *, filled: float = 0.6) -> dict[Key, Seen]:
    """Some cells, of 1 to 300 observations, with arbitrary means."""
    return {
        (k, m): Seen(float(rng.choice((1, 2, 7, 40, 300))), float(rng.random())) for k in ks for m in ms if rng.random() < filled
    }


def sights(seen: Mapping[Key, Seen]) -> list[Sight]:
    return [Sight(k, m, told.cell, 1.0) for (k, m), told in sorted(seen.items())]


def pool_of(seen: Mapping[Key, Seen], noises: Mapping[str, float], spread: float) -> Pool:
    """The pool with these variances given."""
    models = {model: Pooled(noise, 0.0, 1.0, None) for model, noise in noises.items()}
    pool = START._replace(models=models, spread=spread)
    return pool._replace(cells=_cells(pool, sights(seen), spread))


def joint(keys: list[Key], spread: float) -> tuple[Vector, Matrix]:
    """Mean and covariance of the qualities q_kj at `keys` (some perhaps twice), by building mu, all a_k, b_j and g_kj."""
    ks, ms, cells = sorted({k for k, _ in keys}), sorted({m for _, m in keys}), sorted(set(keys))
    variances = [CENTRE_VARIANCE, *[DIFFICULTY] * len(ks), *[ABILITY] * len(ms), *[spread] * len(cells)]
    design = np.zeros((len(keys), len(variances)))
    for i, (k, m) in enumerate(keys):
        design[i, [0, 1 + ks.index(k), 1 + len(ks) + ms.index(m), 1 + len(ks) + len(ms) + cells.index((k, m))]] = 1.0
    return np.full(len(keys), CENTRE), design @ np.diag(variances) @ design.T


def conditioned(wanted: list[Key], seen: Mapping[Key, Seen], noises: Mapping[str, float], spread: float) -> tuple[Vector, Matrix]:
    """Mean and covariance of the qualities at `wanted` given the cell means of `seen`."""
    given = sorted(seen)
    mean, total = joint([*wanted, *given], spread)
    count = len(wanted)
    if not given:
        return mean, total
    shown = total[count:, count:] + np.diag([noises.get(m, START_NOISE) / seen[k, m].n for k, m in given])
    gain = np.linalg.solve(shown, total[count:, :count]).T
    gaps = np.array([seen[key].mean for key in given]) - CENTRE
    return mean[:count] + gain @ gaps, total[:count, :count] - gain @ total[count:, :count]
