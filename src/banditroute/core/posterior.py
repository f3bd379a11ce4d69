"""What is believed of one category's arms: the mixed model's outlook, the category's own evidence, and
declared context features beside them.

At context z = (1, x) an arm's quality is theta_0 + theta^T x, where theta_0 follows the mixed model
(`core/mixed.py`) and theta ~ N(0, RIDGE I) is each arm's own. Features are integrated out of the evidence on
theta_0 exactly (a Schur complement), so without features nothing changes. Priors stand outside the decayed
sums: they never age. Derived from the fold's state, never part of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.core.evidence import Cell
from banditroute.core.mixed import Belief, Matrix, Outlook, Vector, diagonals, inverse
from banditroute.core.numerics import packed_size, unpack
from banditroute.core.pool import Pooled, prior_precision
from banditroute.core.settings import CategorySettings, Prior
from banditroute.core.shift import Shift

RIDGE = 0.0025
"""Prior variance of a slope, in quality points per standard deviation of its feature, squared."""
LOOKAHEAD = 6.0
"""Looks at every arm of every category: what they could tell is what draws vary by (`core/policy.py`)."""
_LOST = 1e-9
"""Of a diagonal element: contexts so large and alike that the ridge would drown in rounding get as much more of it."""


class Slopes(NamedTuple):
    """The arms' features given theta_0: theta ~ N(offset - pull theta_0, covariance); shapes (K, d-1), (K, d-1) and
    (K, d-1, d-1)."""

    offset: NDArray[np.float64]
    pull: NDArray[np.float64]
    covariance: NDArray[np.float64]


class Moved(NamedTuple):
    """Open changes of the arms: what is known of each shift, shape (K,); 0 where there is none. `later` as in `Arms`."""

    mean: Vector
    variance: Vector
    later: Vector


class Arms(NamedTuple):
    """All arms of a category. `sizes` are effective sample sizes; `slopes` is None without features; `later` is what
    `LOOKAHEAD` more looks at every arm would leave of the covariance, shape (K, K). Open changes are not in them: see `at`."""

    belief: Belief
    sizes: Sequence[float]
    noises: NDArray[np.float64]
    slopes: Slopes | None
    later: Matrix
    moved: Moved | None = None

    def at(self, z: Sequence[float]) -> tuple[Belief, Matrix]:
        """The belief about the qualities at context z = (1, x), shape (d,), and what `LOOKAHEAD` more looks at every
        arm there would leave of its covariance."""
        belief, later = (self.belief, self.later) if self.slopes is None else self._with_features(self.slopes, z)
        if self.moved is None:
            return belief, later
        covariance, later = belief.covariance.copy(), later.copy()
        diagonals(covariance)[:] += self.moved.variance
        diagonals(later)[:] += self.moved.later
        return Belief(belief.mean + self.moved.mean, covariance), later

    def _with_features(self, slopes: Slopes, z: Sequence[float]) -> tuple[Belief, Matrix]:
        x = np.array(z[1:])
        offset, pull, own = slopes
        scale = 1.0 - pull @ x
        both, own = scale[:, None] * scale, own @ x @ x
        covariance, later = self.belief.covariance * both, self.later * both
        diagonals(covariance)[:] += own
        diagonals(later)[:] += own * self.noises / (self.noises + LOOKAHEAD * own)
        return Belief(self.belief.mean * scale + offset @ x, covariance), later


class Basis(NamedTuple):
    """What a category's beliefs start from: all that nothing but a refit of the pool or a configuration changes.

    `precision`, shape (2, K, K): of the qualities before the category's own evidence, priors included; now, and when
    `LOOKAHEAD` more looks at every arm of every category will have been had. `moment`, shape (K,): the first times the mean.
    """

    precision: NDArray[np.float64]
    moment: Vector
    noises: NDArray[np.float64]


def basis(*, outlook: Outlook, ahead: Outlook, known: Sequence[Pooled], priors: Sequence[Prior | None]) -> Basis:
    """The basis of arms of which this much is `known` across categories; `ahead` is the outlook that `LOOKAHEAD` more looks
    at every arm of every category would leave."""
    noises = np.array([model.noise for model in known])
    given = np.array(
        [0.0 if prior is None else prior_precision(prior, model) for prior, model in zip(priors, known, strict=True)]
    )
    said = np.array([0.0 if prior is None else prior.quality for prior in priors])
    precision = np.stack((outlook.precision, ahead.precision))
    diagonals(precision)[:] += np.stack((given, given + LOOKAHEAD / noises))
    return Basis(precision, outlook.precision @ outlook.mean + given * said, noises)


def arms(cells: Sequence[Cell], *, factor: float, settings: CategorySettings, basis: Basis) -> Arms:
    """What is believed of a category's arms, in the order of `cells`.

    Args:
        factor: what the cells' sums must be multiplied by to be worth what they are now.

    The cap on the effective sample size scales the evidence as it is read, never the sums, so that the order
    of events does not matter.
    """
    cap = settings.max_effective_sample_size
    kept, sizes = [], []
    for cell in cells:
        size = factor * cell.information[0]
        each = factor if size <= cap else factor * cap / size
        kept.append(each)
        sizes.append(each * cell.information[0])
    slopes, noises = None, basis.noises
    if len(cells[0].moment) == 1:
        precision, moment = np.array((sizes, [each * cell.moment[0] for each, cell in zip(kept, cells, strict=True)])) / noises
    else:
        precision, moment, slopes = _without_features(cells, np.array(kept) / noises)
    total = basis.precision.copy()
    total.reshape(2, -1)[:, :: len(sizes) + 1] += precision  # the diagonals
    covariance, later = inverse(total[0]), inverse(total[1])
    return Arms(Belief(covariance @ (basis.moment + moment), covariance), sizes, noises, slopes, later)


def _without_features(cells: Sequence[Cell], per_noise: Vector) -> tuple[Vector, Vector, Slopes]:
    """The evidence on theta_0 with the features integrated out, and the features given theta_0."""
    dimension = len(cells[0].moment)
    sums = per_noise[:, None] * np.array([cell.information + cell.moment for cell in cells])
    table = sums.take(_table_places(dimension), axis=1)  # each arm's information, and its moment as one column more
    own = table.reshape(len(cells), -1)[:, dimension + 2 :: dimension + 2]  # the features' diagonal
    own += np.maximum(1.0 / RIDGE, _LOST * own)
    covariance = np.linalg.inv(table[:, 1:, 1:-1]).astype(np.float64, copy=False)
    solved = covariance @ table[:, 1:, ::dimension]
    left = table[:, 0, ::dimension] - (table[:, :1, 1:-1] @ solved)[:, 0]
    return np.maximum(0.0, left[:, 0]), left[:, 1], Slopes(solved[:, :, 1], solved[:, :, 0], covariance)


@functools.cache
def _table_places(dimension: int) -> NDArray[np.intp]:
    """Where each element of a symmetric matrix, with a vector as its last column, is in their packed forms, shape (d, d + 1)."""
    size = packed_size(dimension)
    return np.array([[*row, size + i] for i, row in enumerate(unpack(range(size), dimension))], dtype=np.intp)


def moved(shifts: Sequence[Shift | None], *, noises: Vector, position: int) -> Moved | None:
    """What is known of the arms' open changes when the log has got to `position`; None where there is none."""
    if not any(shifts):
        return None
    variance = np.array([shift.variance_at(position) if shift else 0.0 for shift in shifts])
    return Moved(
        np.array([shift.mean if shift else 0.0 for shift in shifts]),
        variance,
        variance * noises / (noises + LOOKAHEAD * variance),
    )


def stddevs(belief: Belief) -> list[float]:
    """Posterior standard deviations of the qualities, shape (K,)."""
    return [math.sqrt(variance) if variance > 0.0 else 0.0 for variance in belief.covariance.diagonal().tolist()]
