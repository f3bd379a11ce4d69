"""What is believed of one category's arms: the mixed model's outlook, the category's own evidence, and
declared context features beside them.

At context z = (1, x) an arm's quality is theta_0 + theta^T x, where theta_0 follows the mixed model
(`core/mixed.py`) and theta ~ N(0, RIDGE I) is each arm's own. Features are integrated out of the evidence on
theta_0 exactly (a Schur complement), so without features nothing changes. Priors stand outside the decayed
sums: they never age. Derived from the fold's state, never part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.core.evidence import Cell
from banditroute.core.mixed import Belief, Outlook, posterior
from banditroute.core.numerics import unpack
from banditroute.core.settings import CategorySettings, Prior

RIDGE = 0.0025
"""Prior variance of a slope, in quality points per standard deviation of its feature, squared."""
PRIOR_NOISE = 0.02
"""A prior's observations are taken to be at least so noisy. The learned noise says how well one category's values
repeat; what a file carries over from elsewhere does not become surer by that."""
_LOST = 1e-9
"""Of a diagonal element: contexts so large and alike that the ridge would drown in rounding get as much more of it."""


class Slopes(NamedTuple):
    """One arm's features given theta_0: theta ~ N(offset - pull theta_0, covariance); shapes (d-1,)."""

    offset: NDArray[np.float64]
    pull: NDArray[np.float64]
    covariance: NDArray[np.float64]


class Arms(NamedTuple):
    """All arms of a category. `sizes` are effective sample sizes; `slopes` is empty without features."""

    belief: Belief
    sizes: tuple[float, ...]
    noises: NDArray[np.float64]
    slopes: tuple[Slopes, ...]

    def at(self, z: Sequence[float]) -> Belief:
        """The belief about the qualities at context z = (1, x), shape (d,)."""
        if not self.slopes:
            return self.belief
        x = np.array(z[1:])
        scale = np.array([1.0 - float(x @ slopes.pull) for slopes in self.slopes])
        shift = np.array([float(x @ slopes.offset) for slopes in self.slopes])
        own = np.array([float(x @ slopes.covariance @ x) for slopes in self.slopes])
        covariance = self.belief.covariance * np.outer(scale, scale)
        covariance[np.diag_indices(len(scale))] += own
        return Belief(self.belief.mean * scale + shift, covariance)


def arms(
    cells: Sequence[Cell],
    *,
    factor: float,
    settings: CategorySettings,
    noises: Sequence[float],
    outlook: Outlook,
    priors: Sequence[Prior | None],
) -> Arms:
    """What is believed of a category's arms, in the order of `cells`.

    Args:
        factor: what the cells' sums must be multiplied by to be worth what they are now.

    The cap on the effective sample size scales the evidence as it is read, never the sums, so that the order
    of events does not matter.
    """
    precision, moment = np.empty(len(cells)), np.empty(len(cells))
    sizes, slopes = [], []
    for i, (cell, noise, prior) in enumerate(zip(cells, noises, priors, strict=True)):
        evidence = factor * cell.information[0]
        cap = settings.max_effective_sample_size
        keep = factor if evidence <= cap else factor * cap / evidence
        sizes.append(keep * cell.information[0])
        per_noise = keep / noise
        if len(cell.moment) == 1:
            precision[i], moment[i] = per_noise * cell.information[0], per_noise * cell.moment[0]
        else:
            precision[i], moment[i], own = _without_features(cell, per_noise)
            slopes.append(own)
        if prior is not None:
            trust = prior.effective_sample_size / max(noise, PRIOR_NOISE)
            precision[i] += trust
            moment[i] += trust * prior.quality
    return Arms(posterior(outlook, precision=precision, moment=moment), tuple(sizes), np.array(noises), tuple(slopes))


def _without_features(cell: Cell, per_noise: float) -> tuple[float, float, Slopes]:
    """The evidence on theta_0 with the features integrated out, and the features given theta_0."""
    full = per_noise * np.array(unpack(cell.information, len(cell.moment)))
    vector = per_noise * np.array(cell.moment)
    inner = full[1:, 1:].copy()
    inner[np.diag_indices(len(inner))] += np.maximum(1.0 / RIDGE, _LOST * np.diagonal(inner))
    covariance = np.linalg.inv(inner).astype(np.float64, copy=False)
    pull, offset = covariance @ full[1:, 0], covariance @ vector[1:]
    precision = max(0.0, float(full[0, 0] - full[0, 1:] @ pull))
    return precision, float(vector[0] - full[0, 1:] @ offset), Slopes(offset, pull, covariance)


def stddevs(belief: Belief) -> list[float]:
    """Posterior standard deviations of the qualities, shape (K,)."""
    return [math.sqrt(max(0.0, variance)) for variance in np.diagonal(belief.covariance).tolist()]
