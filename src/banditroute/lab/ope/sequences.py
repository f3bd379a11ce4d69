"""Confidence sequences: intervals that hold at all times at once, so that one may look as often as one likes and stop when one
likes.

`Bernstein` is nonasymptotic, for terms X_t of which only the distance below a predictable guess is bounded: if X_t - m_t >= -s,
then with S = sum (X_t - mean_t) / s and V = sum (X_t - m_t)^2 / s^2, exp(l S - (-log(1 - l) - l) V) is a supermartingale for
every l in [0, 1) (Fan, Grama and Liu 2015, lemma 4.1; Howard et al. 2021). Mixed over l by a truncated gamma density with
parameter rho it has a closed form (Waudby-Smith et al. 2022, arXiv 2210.10768, theorem 4), and exceeds 1 / alpha ever with
probability alpha at most (Ville 1939). It speaks of the running mean of the conditional means mean_t, which may change in time.

`asymptotic` needs no bound and holds from some time on only (Waudby-Smith et al. 2021, arXiv 2103.06476, theorem 2.2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import gammainc, gammaln

from banditroute.lab.ope.logged import Logged
from banditroute.lab.source import FloatArray

ALPHA = 0.05
RHO = 1.0
"""Narrowest where V is some ten times as large; any value is valid."""
_BISECTIONS = 60


class Sequence(NamedTuple):
    """A 95 % confidence sequence's interval at its end. `is_asymptotic`: it holds from some time on only."""

    low: float
    high: float
    is_asymptotic: bool

    def to_json(self) -> dict[str, object]:
        """JSON data."""
        return {"ci95": [self.low, self.high], "width": self.high - self.low, "asymptotic": self.is_asymptotic}


def log_mixture(s: FloatArray, v: FloatArray) -> FloatArray:
    """The logarithm of the mixed supermartingale at sums S and V, both of shape (n,); -inf where S <= 0, where it is below 1."""
    a, z = v + RHO, s + v + RHO
    constant = RHO * math.log(RHO) - float(gammaln(RHO)) - math.log(float(gammainc(RHO, RHO)))
    with np.errstate(all="ignore"):
        found = constant + s + v - a * np.log(z) + gammaln(a) + np.log(gammainc(a, z))
    return np.asarray(np.where(s > 0.0, found, -np.inf), dtype=np.float64)


def boundary(v: FloatArray, alpha: float) -> FloatArray:
    """The S at which the supermartingale is 1 / alpha, by bisection; shape (n,) as `v`."""
    low, high = np.zeros_like(v), 4.0 * (math.log(1.0 / alpha) + np.sqrt(v * math.log(1.0 / alpha)) + RHO)
    needed = math.log(1.0 / alpha)
    while (short := log_mixture(high, v) < needed).any():
        high = np.where(short, 2.0 * high, high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        beyond = log_mixture(middle, v) >= needed
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return high


class Bernstein(NamedTuple):
    """Terms whose conditional means bound a running mean from below and from above.

    `lower`, `upper` (n,); `guesses_lower`, `guesses_upper` (n,) are predictable; no lower term is further than `reach` below its
    guess and no upper one further above it.
    """

    lower: FloatArray
    upper: FloatArray
    guesses_lower: FloatArray
    guesses_upper: FloatArray
    reach: float

    def _spread(self, terms: FloatArray, guesses: FloatArray) -> FloatArray:
        return np.asarray(np.cumsum((terms - guesses) ** 2) / self.reach**2, dtype=np.float64)

    def at_end(self) -> Sequence:
        """The interval after all n terms."""
        count = len(self.lower)
        v = np.array([self._spread(self.lower, self.guesses_lower)[-1], self._spread(self.upper, self.guesses_upper)[-1]])
        below, above = (self.reach * boundary(v, ALPHA / 2.0) / count).tolist()
        return Sequence(float(self.lower.mean()) - below, float(self.upper.mean()) + above, is_asymptotic=False)

    def always_covers(self, means: FloatArray) -> bool:
        """Whether the sequence holds the running mean of `means` (n,) at every time from the first on."""
        needed = math.log(2.0 / ALPHA)
        for sign, terms, guesses in ((1.0, self.lower, self.guesses_lower), (-1.0, self.upper, self.guesses_upper)):
            s = np.cumsum(sign * (terms - means)) / self.reach
            if (log_mixture(s, self._spread(terms, guesses)) >= needed).any():
                return False
        return True


def running_guess(terms: FloatArray, *, low: float, high: float, first: float) -> FloatArray:
    """The mean of all earlier terms, cut to [low, high]; shape (n,)."""
    before = np.concatenate([[first], np.cumsum(terms)[:-1] / np.arange(1, len(terms))])
    return np.asarray(np.clip(before, low, high), dtype=np.float64)


def quality_terms(logged: Logged, target: FloatArray, q: FloatArray, *, most: float) -> Bernstein:
    """The value of a target policy pi, in [0, 1], by doubly robust terms with weights truncated at `most`.

    With v = min(w, most) a lower term is v (y - q) + sum_a b v q, whose mean is sum_a b v r <= value; an upper one adds the mass
    that truncation and missing support leave out, sum_a (pi - b v), as if it were worth 1. With most >= 1 / floor nothing is cut.

    Args:
        q: predictable expectations, shape (n, K); cut to [0, 1].
    """
    possible = logged.propensities > 0.0
    ratios = np.divide(target, logged.propensities, out=np.zeros_like(target), where=possible)
    cut = np.minimum(ratios, most)
    q = np.clip(q, 0.0, 1.0)
    rows = np.arange(len(logged))
    kept = logged.propensities * cut
    lower = cut[rows, logged.chosen] * (logged.quality - q[rows, logged.chosen]) + (kept * q).sum(axis=1)
    upper = lower + np.maximum(0.0, target - kept).sum(axis=1)
    # A lower term is at least -most and an upper one at most 1 + most, so from a guess in [0, 1] neither is further.
    return Bernstein(
        lower,
        upper,
        running_guess(lower, low=0.0, high=1.0, first=0.5),
        running_guess(upper, low=0.0, high=1.0, first=0.5),
        reach=1.0 + most,
    )


def difference_terms(logged: Logged, target: FloatArray, q: FloatArray, *, most: float) -> Bernstein:
    """The same of the target's value less the logging policy's, in [-1, 1]: each term less that of the policy that was logged,
    sum_a b q + y - q."""
    value = quality_terms(logged, target, q, most=most)
    q = np.clip(q, 0.0, 1.0)
    own = (logged.propensities * q).sum(axis=1) + logged.quality - q[np.arange(len(logged)), logged.chosen]
    lower, upper = value.lower - own, value.upper - own
    # The logging policy's term lies in [-1, 2], and guesses in [-1, 1].
    return Bernstein(
        lower,
        upper,
        running_guess(lower, low=-1.0, high=1.0, first=0.0),
        running_guess(upper, low=-1.0, high=1.0, first=0.0),
        reach=3.0 + most,
    )


def asymptotic(terms: FloatArray, *, rho_count: float = 5000.0) -> Sequence:
    """For the running mean of the terms' conditional means, whatever their range.

    Args:
        terms: shape (n,).
        rho_count: the number of terms at which the sequence is narrowest.
    """
    count, needed = len(terms), -2.0 * math.log(ALPHA)
    rho2 = (needed + math.log(needed + 1.0)) / rho_count
    factor = (count * rho2 + 1.0) / (count * count * rho2)
    half = float(terms.std()) * math.sqrt(2.0 * factor * math.log(math.sqrt(count * rho2 + 1.0) / ALPHA))
    return Sequence(float(terms.mean()) - half, float(terms.mean()) + half, is_asymptotic=True)
