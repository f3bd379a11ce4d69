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

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.core.pool import ABILITY, CENTRE, CENTRE_VARIANCE, DIFFICULTY, Pool

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


class Outlook(NamedTuple):
    """What is expected of a category's models before its own evidence: N(mean, precision^-1)."""

    mean: Vector
    precision: Matrix


class Fit:
    """All outlooks at one refresh of the pool; each is worked out when first asked for."""

    def __init__(self, pool: Pool, models: Sequence[str]) -> None:
        self.pool = pool
        self._place = {model: i for i, model in enumerate(models)}
        count = len(models)
        # (ability I + centre 1 1^T)^-1, by Sherman and Morrison.
        spread = CENTRE_VARIANCE / (ABILITY * (ABILITY + count * CENTRE_VARIANCE))
        self._information: Matrix = np.eye(count) / ABILITY - spread
        self._moment: Vector = np.zeros(count)
        self._own: dict[str, tuple[Matrix, Vector]] = {}
        for category, seen in pool.cells.items():
            own = _category_information(seen, self._place)
            self._own[category] = own
            self._information += own[0]
            self._moment += own[1]
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
        own = self._own.get(category)
        if own is not None:
            information, moment = information - own[0], moment - own[1]
        covariance = np.linalg.inv(information)
        at = [self._place[model] for model in models]
        mean = CENTRE + (covariance @ moment)[at]
        total = covariance[np.ix_(at, at)] + DIFFICULTY
        total[np.diag_indices(len(at))] += self.pool.spread
        return Outlook(mean, np.linalg.inv(total))


def _category_information(seen: Mapping[str, tuple[float, float]], place: Mapping[str, int]) -> tuple[Matrix, Vector]:
    """A_k and A_k (y_k - centre), over all models; `seen` gives (weight, mean) per model."""
    count = len(place)
    weights, gaps = np.zeros(count), np.zeros(count)
    for model, (weight, mean) in seen.items():
        if model in place:
            weights[place[model]], gaps[place[model]] = weight, mean - CENTRE
    total = 1.0 / DIFFICULTY + weights.sum()
    weighted = weights * gaps
    moment = weighted - weights * (weighted.sum() / total)
    return np.diag(weights) - np.outer(weights, weights) / total, moment


class Belief(NamedTuple):
    """Qualities of a category's models at the mean context: N(mean, covariance), shapes (K,) and (K, K)."""

    mean: Vector
    covariance: Matrix


def posterior(outlook: Outlook, *, precision: Vector, moment: Vector) -> Belief:
    """The outlook with the category's own evidence.

    Args:
        precision: n / sigma^2 per model, pseudo-observations of priors included, shape (K,).
        moment: S / sigma^2 likewise, shape (K,).
    """
    total = outlook.precision.copy()
    total[np.diag_indices(len(precision))] += precision
    covariance: Matrix = np.linalg.inv(total).astype(np.float64, copy=False)
    return Belief(covariance @ (outlook.precision @ outlook.mean + moment), covariance)


def contrasts(covariance: Matrix) -> tuple[Vector, Matrix]:
    """Independent variances that reproduce the variances of the differences between arms as well as can be.

    D_ij = V_ii + V_jj - 2 V_ij is what comparing i and j is unsure of. With d_i + d_j = D_ij on average over j:
    d_i = (sum_j D_ij - sum D / (2 (K - 1))) / (K - 2), floored at 1e-7; for K = 2, half of D_12 each. What moves
    all arms alike (the category's difficulty) cancels, and does not widen exploration.

    Returns:
        d, shape (K,), and D, shape (K, K).
    """
    diagonal = np.diagonal(covariance)
    differences = diagonal[:, None] + diagonal[None, :] - 2.0 * covariance
    count = len(diagonal)
    if count == 1:
        return np.maximum(diagonal, 1e-7), differences
    if count == 2:
        return np.full(2, max(differences[0, 1] / 2.0, 1e-7)), differences
    sums = differences.sum(axis=1)
    return np.maximum((sums - sums.sum() / (2.0 * (count - 1))) / (count - 2), 1e-7), differences
