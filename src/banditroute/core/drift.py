"""Sequential tests of whether a model is still what it was: when to raise an alarm, and when to call it off.

An e-detector of Shiryaev-Roberts type (Shin, Ramdas and Rinaldo 2022, "E-detectors"): for values x in [0, 1] whose mean is at
least m, M <- (1 + lambda (m - x)) (M + 1) has E[M_n] <= n, so alarms at M > A come at most n / A times in n values on
average, at any time one looks, whichever values one chose to see and across restarts. Several bets lambda are averaged,
so are several sources of values; the bound is that of the average. Upward it is the same with x and m mirrored.

Recovery is the other question, asked of few values that are dear: a product of bets, started once per epoch, exceeds
1 / alpha with probability alpha at most while the mean is at or below its level (Ville 1939).

Guarantees are exact given the references. These are estimated: from values that came before, at least `LAG` of them ago, less
a margin. What that costs in false alarms is measured (docs/explanation/degradation.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

BETS = (0.1, 0.2, 0.4, 0.7)
"""Fractions of the largest bet that cannot lose everything, 1 / (1 - m)."""
LEVELS = 2
"""Detectors that one value moves in each direction: its arm's, and its model's."""
QUALIFYING = 100
"""First values of a model, which made it look good enough to be used: they are no part of its reference."""
LAG = 64
"""Values of a model that wait before they join its reference, so that a change does not become its own reference."""
LEAST_OF_ARM, LEAST_OF_MODEL, LEAST_ALONE = 10, 50, 50
"""Values that a reference must have: an arm's to take part in its model's test, the model's, and an arm's to be tested alone."""
SLACK, STANDARD_ERRORS = 0.01, 1.0
"""The margin below the reference: this, and so many standard errors of it."""
SURELY = 2.0
"""Standard deviations that a count may be above what it should be by chance."""
MAX_SOURCES = 8
"""Sources of one model that are tested apart; what others say is tested together."""
NOISE, NOISE_WEIGHT = 0.06, 3.0
BIAS_WEIGHT, BIAS_SIZE = 50.0, 400
"""Tested values of which none, and all, of a bias is believed; and from how many on it stays, so that it learns no fall."""

Wealth = tuple[float, ...]
NOTHING: Wealth = (0.0,) * len(BETS)


class Pair(NamedTuple):
    """One detector downward, one upward: the wealth of each bet."""

    down: Wealth = NOTHING
    up: Wealth = NOTHING

    def after(self, value: float, *, reference: float, margin: float, bias: float = 0.0) -> Pair:
        """One value later; `reference` is the mean that it should have, known before it, `bias` how far off such were."""
        low, high = reference - margin, reference + margin
        if bias < 0.0:
            low += bias
        elif bias > 0.0:
            high += bias
        low, high = low if low > 0.0 else 0.0, high if high < 1.0 else 1.0
        return Pair(_stepped(self.down, low - value, 1.0 - low), _stepped(self.up, value - high, high))


def _stepped(wealth: Wealth, gain: float, room: float) -> Wealth:
    """Written out, a bet a line: a loop takes three times as long, and four of these are much of what a feedback costs."""
    unit = gain / (room if room > SLACK else SLACK)
    one, two, three, four = BETS
    first, second, third, fourth = wealth
    return (
        (1.0 + one * unit) * (first + 1.0),
        (1.0 + two * unit) * (second + 1.0),
        (1.0 + three * unit) * (third + 1.0),
        (1.0 + four * unit) * (fourth + 1.0),
    )


class Reference(NamedTuple):
    """What one source says of one arm: how many values, their sum, how many wait to join these, and the tests of the arm
    alone."""

    size: int = 0
    total: float = 0.0
    waiting: int = 0
    tests: Pair = Pair()

    @property
    def mean(self) -> float:
        """Of the reference; 0 before there is one."""
        return self.total / self.size if self.size else 0.0

    def low(self, stream: Stream) -> float:
        """The mean less the margin of the arm's own test and what such references have been too high by: what values of an
        arm that did not change are hardly below on average, although it was chosen for its mean."""
        return max(0.0, self.mean - SLACK - STANDARD_ERRORS * math.sqrt(stream.variance / self.size) + min(0.0, stream.bias))


class Stream(NamedTuple):
    """What one source says of one model: values so far, those in references and their squares about these, those that were
    tested as well and how far they were off, those that wait (category, value, how far off or None), oldest first, and the
    tests of the model as a whole."""

    seen: int = 0
    size: int = 0
    square: float = 0.0
    tested: int = 0
    gap: float = 0.0
    waiting: tuple[tuple[str, float, float | None], ...] = ()
    tests: Pair = Pair()

    @property
    def bias(self) -> float:
        """How far off references are on average. A bandit uses an arm because it looked good: of what it chose for its mean,
        the next value is worse than that."""
        return self.gap / (self.tested + BIAS_WEIGHT)

    @property
    def variance(self) -> float:
        """Of one value about its arm's reference, pulled to NOISE."""
        return (self.square + NOISE_WEIGHT * NOISE) / (self.size + NOISE_WEIGHT)


def observed(stream: Stream, reference: Reference, category: str, value: float) -> tuple[Stream, Reference]:
    """Both tests one value later. The value waits; `joined` tells which one's waiting is over."""
    seen, size, square, tested, off, waiting, tests = stream
    count, total, recent, alone = reference
    gap = None
    if count >= LEAST_OF_ARM:
        variance, mean = stream.variance, total / count
        if size >= LEAST_OF_MODEL:
            # References' errors cancel as far as categories come as often as they came; one that comes surely more often has
            # its own.
            often = recent - SURELY * math.sqrt(recent)
            error = max(1.0 / size, often / (LAG * count))
            margin = SLACK + STANDARD_ERRORS * math.sqrt(variance * error)
            tests = tests.after(value, reference=mean, margin=margin, bias=stream.bias)
            gap = value - mean
        if count >= LEAST_ALONE:
            margin = SLACK + STANDARD_ERRORS * math.sqrt(variance / count)
            alone = alone.after(value, reference=mean, margin=margin)
    waits = seen >= QUALIFYING
    waiting = (*waiting, (category, value, gap)) if waits else ()
    return Stream(seen + 1, size, square, tested, off, waiting, tests), Reference(count, total, recent + waits, alone)


def joined(stream: Stream, reference: Reference) -> tuple[Stream, Reference]:
    """The oldest value that waits joins `reference`, which is that of its category."""
    seen, size, square, tested, gap, waiting, tests = stream
    count, total, recent, alone = reference
    _, value, off = waiting[0]
    if count:
        about = value - total / count
        square += about * about * (count / (count + 1.0))
    if off is not None and tested < BIAS_SIZE:
        tested, gap = tested + 1, gap + off
    joint = Reference(count + 1, total + value, max(0, recent - 1), alone)
    return Stream(seen, size + 1, square, tested, gap, waiting[1:], tests), joint


def evidence(wealths: Mapping[str, Wealth], *, min_sources: int) -> float:
    """What the sources' detectors say together: their mean, but no more than the `min_sources`-th strongest warrants.

    With s sources asked for, S there and e the s-th largest, s e / S is no more than the mean of all, so the mean's bound
    holds; one source alone cannot raise it. A source is what stands before the kind in a stream's key.
    """
    if not wealths:
        return 0.0
    means = {key: math.fsum(wealth) / len(wealth) for key, wealth in wealths.items()}
    if min_sources <= 1:
        return math.fsum(means.values()) / len(means)
    by_source: dict[str, list[float]] = {}
    for key, mean in means.items():
        by_source.setdefault(source_of(key), []).append(mean)
    ranked = sorted((math.fsum(each) / len(each) for each in by_source.values()), reverse=True)
    return min_sources * ranked[min_sources - 1] / len(ranked) if len(ranked) >= min_sources else 0.0


def stream_key(source: str, kind: str) -> str:
    """Of a stream: one source's values of one kind."""
    return f"{source}\x1f{kind}"


def source_of(key: str) -> str:
    """The source of a stream."""
    return key.rpartition("\x1f")[0]


LEAST_SINCE, MOST_SINCE, NOISE_SINCE = 5, 40, 0.008
"""Values since a change: one for each so much of their variance, within limits."""


def threshold(false_alarms_per_million: float) -> float:
    """A: what the evidence must exceed. Both levels together then raise at most so many false alarms in a million values."""
    return LEVELS * 1e6 / false_alarms_per_million


def change_point(residuals: Sequence[float], *, noise: float) -> int:
    """The index from which on `residuals`, oldest first, most likely have another mean: argmax over k of S_k^2 / (n - k), S_k
    the sum from k on (maximum likelihood of a Gaussian's change, the former mean 0). A change has so many residuals at least
    that a run of luck is no change; `noise` is the variance of one."""
    least = int(min(MOST_SINCE, max(LEAST_SINCE, noise / NOISE_SINCE)))
    best, at, total = -1.0, max(0, len(residuals) - least), 0.0
    for back, residual in enumerate(reversed(residuals), start=1):
        total += residual
        if back >= least and total * total > best * back:
            best, at = total * total / back, len(residuals) - back
    return at


# --- recovery --------------------------------------------------------------------------------------

FALSE_RECOVERY = 0.02
"""alpha: how likely a model that stays as bad as it was found to be is ever called recovered."""
RECOVERY_BETS = (0.25, 0.5, 0.95)
GIVEN_UP = 0.135
"""An epoch whose evidence is below this begins anew."""


class Recovery(NamedTuple):
    """The test of one shift. `wealth` by bet, in the `epoch`-th attempt."""

    epoch: int = 1
    wealth: Wealth = (1.0,) * len(RECOVERY_BETS)

    @property
    def evidence(self) -> float:
        """The e-value of this epoch."""
        return math.fsum(self.wealth) / len(self.wealth)

    @property
    def needed(self) -> float:
        """What it must reach: epochs spend alpha / (j (j + 1)) each."""
        return self.epoch * (self.epoch + 1) / FALSE_RECOVERY

    def after(self, value: float, level: float, *, floor: float = 0.0, trust: float = 1.0) -> Recovery:
        """One value later; `level` is the highest mean that still counts as not recovered, `trust` scales the bets, and values
        are at least `floor`."""
        unit = trust * (value - level) / max(level - floor, SLACK)
        return self._replace(wealth=tuple([(1.0 + b * unit) * held for b, held in zip(RECOVERY_BETS, self.wealth, strict=True)]))
