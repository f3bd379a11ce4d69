"""The mixed model of quality: model ability, category difficulty, interaction.

Quality of model j in category k: q_kj = mu + a_k + b_j + g_kj, with mu ~ N(1/2, .25^2), difficulty
a ~ N(0, .15^2), ability b ~ N(0, .2^2) and interaction g ~ N(0, tau^2); a cell with n observations of noise
sigma_j^2 shows its mean with variance sigma_j^2 / n. So a new category starts from what is known of the
models, a new model from what is known of the category, and in a hard category an untried model is
expected to score low too.

What other categories say of category k leaves k itself out (else a category teaches itself). With
W_k = diag(1 / (tau^2 + sigma_j^2 / n_kj)), each category's information about mu + b is
A_k = W - W 1 1^T W / (1/sigma_a^2 + 1^T W 1) (Woodbury, a_k integrated out), and

    precision of mu + b without k:  P = P_0 + sum_{l != k} A_l,   its mean solves P m = P_0 1/2 + sum A_l y_l
    prior of q_k:  mean m,  covariance Q = P^-1 + sigma_a^2 1 1^T + tau^2 I
    posterior:     V = (Q^-1 + diag(n / sigma^2))^-1,   V (Q^-1 m + S / sigma^2)

(Henderson 1975, best linear unbiased prediction, with plug-in variances.) Everything here is derived from
the fold's state, never part of it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv

from banditroute.core.pool import ABILITY, CENTRE, CENTRE_VARIANCE, DIFFICULTY, Pool

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

LEAST_VARIANCE = 1e-7
_NO_CELLS: Mapping[str, tuple[float, float]] = {}


class Outlook(NamedTuple):
    """What is expected of a category's models before its own evidence: N(mean, precision^-1)."""

    mean: Vector
    precision: Matrix


class Fit:
    """All outlooks at one refresh of the pool; each is worked out when first asked for.

    With `looks` above 0 they are those that so many more observations of each arm, by category in `arms`, would leave:
    the precisions are right, the means are not to be used.
    """

    def __init__(
        self, pool: Pool, models: Sequence[str], *, looks: float = 0.0, arms: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.pool = pool
        self._place = place = {model: i for i, model in enumerate(models)}
        count = len(models)
        # (ability I + centre 1 1^T)^-1, by Sherman and Morrison.
        shared = CENTRE_VARIANCE / (ABILITY * (ABILITY + count * CENTRE_VARIANCE))
        self._information: Matrix = np.eye(count) / ABILITY - shared
        cells = dict(sorted({**dict.fromkeys(arms or (), _NO_CELLS), **pool.cells}.items()))  # whatever order the document has
        self._row = {category: k for k, category in enumerate(cells)}
        row = np.repeat(np.arange(len(cells)), [len(seen) for seen in cells.values()])
        at = [place.get(model, count) for seen in cells.values() for model in seen]  # one column more takes those not asked for
        pairs = itertools.chain.from_iterable(pair for seen in cells.values() for pair in seen.values())
        table = np.zeros((2, len(cells), count + 1))
        table[:, row, at] = np.fromiter(pairs, dtype=np.float64, count=2 * len(at)).reshape(-1, 2).T
        precision = table[0, :, :count]
        gaps = np.where(precision > 0.0, table[1, :, :count] - CENTRE, 0.0)
        for category, names in (arms or {}).items():
            columns = [place[model] for model in names]
            precision[self._row[category], columns] += [looks / pool.of(model).noise for model in names]
        self._weights: Matrix = precision / (1.0 + pool.spread * precision)
        self._totals: Vector = 1.0 / DIFFICULTY + self._weights.sum(axis=1)
        weighted = self._weights * gaps
        self._moments: Matrix = weighted - self._weights * (weighted.sum(axis=1) / self._totals)[:, None]
        self._information += np.diag(self._weights.sum(axis=0))
        self._information -= (self._weights / self._totals[:, None]).T @ self._weights
        self._moment: Vector = self._moments.sum(axis=0)
        self._outlooks: dict[tuple[str, tuple[str, ...]], Outlook] = {}

    def outlook(self, category: str, models: tuple[str, ...]) -> Outlook:
        """The prior of `category`'s qualities, shapes (K,) and (K, K) in the order of `models`."""
        key = (category, models)
        found = self._outlooks.get(key)
        if found is None:
            found = self._outlooks[key] = self._work_out(category, models)
        return found

    def _work_out(self, category: str, models: tuple[str, ...]) -> Outlook:
        information, moment = self._information, self._moment
        k = self._row.get(category)
        if k is not None:
            weights = self._weights[k]
            information = information + weights[:, None] * (weights / self._totals[k])
            diagonals(information)[:] -= weights
            moment = moment - self._moments[k]
        covariance = inverse(information)
        at = [self._place[model] for model in models]
        mean = CENTRE + (covariance @ moment)[at]
        total = covariance[at][:, at] + DIFFICULTY
        diagonals(total)[:] += self.pool.spread
        return Outlook(mean, inverse(total))


class Belief(NamedTuple):
    """Qualities of a category's models at the mean context: N(mean, covariance), shapes (K,) and (K, K)."""

    mean: Vector
    covariance: Matrix


def inverse(precision: Matrix) -> Matrix:
    """Of a positive definite matrix.

    NumPy's takes twice as long for so small ones, and gives up the interpreter lock at 500 elements and more: see
    `propensity._UNTHREADED`.

    Raises:
        ArithmeticError: it is not positive definite; never seen, checked always.
    """
    _, found, failed = dposv(precision, _identity(len(precision)))
    if failed:
        raise ArithmeticError(f"not positive definite: {precision.tolist()!r}")
    inverse: Matrix = found.T  # symmetric, and in NumPy's order
    return inverse


@functools.cache
def _identity(count: int) -> Matrix:
    return np.eye(count)


def diagonals(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The diagonals themselves, shape (..., d), of matrices of shape (..., d, d): what is added to them is added there."""
    own: NDArray[np.float64] = np.einsum("...ii->...i", matrices)
    return own


def contrasts(covariance: Matrix) -> list[float]:
    """Independent variances d, shape (K,), that reproduce the variances of the differences between arms as well as can be.

    D_ij = V_ii + V_jj - 2 V_ij is what comparing i and j is unsure of. With d_i + d_j = D_ij on average over j:
    d_i = (sum_j D_ij - sum D / (2 (K - 1))) / (K - 2), floored at 1e-7; for K = 2, half of D_12 each. What moves
    all arms alike (the category's difficulty) cancels, and does not widen exploration.
    """
    own: list[float] = covariance.diagonal().tolist()
    count = len(own)
    if count == 1:
        return [max(own[0], LEAST_VARIANCE)]
    total, rows = sum(own, 0.0), covariance.tolist()
    sums: list[float] = [count * variance + total - 2.0 * sum(row, 0.0) for variance, row in zip(own, rows, strict=True)]
    if count == 2:
        return [max(each / 2.0, LEAST_VARIANCE) for each in sums]
    common, rest = sum(sums) / (2.0 * (count - 1)), count - 2
    found = [(each - common) / rest for each in sums]
    return found if min(found) >= LEAST_VARIANCE else [max(each, LEAST_VARIANCE) for each in found]
