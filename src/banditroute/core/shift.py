"""What is known of a change: a model (or one arm) that is not what it was keeps its evidence and gets a shift beside it.

q' = q + delta, the same delta wherever the change is, delta ~ N(0, .3^2) learned alone (Kalman 1960): every observation of q'
less what q was known to be is one of delta, and its variance grows from event to event, since what changed once changes
again. When the change is over delta goes, and all that was known returns at once. Pure values, folded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from banditroute.core.drift import GIVEN_UP, Recovery
from banditroute.core.numerics import exp2

PRIOR_VARIANCE = 0.09
GROWTH = 0.18 * 0.18 / 2000.0
"""By which the variance of a shift grows from one event of the log to the next."""
LEAST_FIRST, MOST_FIRST, FIRST_ERRORS = 8, 40, 3.0
"""Probes before the test of recovery: as many as make the shift so many standard errors of their mean, within limits."""
LOW_ERRORS = 3.0
"""Standard deviations of one value below the shifted mean, from where on values count as equally bad."""
_LOG2_E = 1.4426950408889634
ERRORS, LEAST_LEVEL, HALF = 1.65, -0.01, 0.5
"""Standard errors by which a shift may be less than it was found to be; the least that is one; half of it is half recovered."""
UNLUCKY, LUCK_ERRORS = 0.5, 4.0
"""The part of a shift that may be bad luck at its alarm, but no more than so many of its standard deviations."""
LEAST_PART = 0.25
"""Of what was found first: a level is no less, for a model that recovers while it is being found how bad it is."""
KEPT = 200
"""Rows of a model that are kept, so that those since a change can be moved."""
PAST = 16
"""Ended changes of a model or arm that are remembered: late feedback and corrections of what was decided in them."""


class Row(NamedTuple):
    """What one decision's feedback taught about an arm's quality, and how far off what was known it was."""

    position: int
    ordinal: int
    time_us: int
    category: str
    reward: tuple[float, float]
    z: tuple[float, ...]
    residual: float


class Span(NamedTuple):
    """An ended change: it began behind `start`, was found at `detected` and over at `end`; positions."""

    start: int
    detected: int
    end: int

    def covers(self, *, position: int, made: int) -> bool:
        """Whether a decision was made, or first judged, in it."""
        return self.start < position <= self.end or self.detected <= made < self.end


class Shift(NamedTuple):
    """An open change. `demoted` are the categories where a rival is better by now; `level` is the shift that the test of
    recovery takes for not recovered, 0 until the `first` probes have told, `low` the residual below which all are alike; the
    rivals' sums are residuals of other models since it was found (`core/change.py` contrasts them); `known` is by category what
    the model's quality was known to be when the change was found, mean and variance: evidence ages on while the model is out;
    `found_by` are the observations that it was found by."""

    start: int
    detected: int
    up: bool
    mean: float = 0.0
    variance: float = PRIOR_VARIANCE
    size: int = 0
    updated: int = 0
    low: float = -1.0
    first: int = 0
    level: float = 0.0
    probes: int = 0
    probed: float = 0.0
    recovery: Recovery = Recovery()
    probing: bool = False
    demoted: tuple[str, ...] = ()
    rivals_count: int = 0
    rivals_sum: float = 0.0
    rivals_square: float = 0.0
    contrasted: bool = False
    known: Mapping[str, tuple[float, float]] = {}
    found_by: int = 0

    @property
    def doubt(self) -> float:
        """The standard deviation of delta."""
        return math.sqrt(self.variance)

    @property
    def luck(self) -> float:
        """What of delta may be bad luck: what raised the alarm, `found_by` observations, was chosen for being bad."""
        return min(UNLUCKY * abs(self.mean) * self.found_by / max(1, self.size), LUCK_ERRORS * self.doubt)

    def variance_at(self, position: int) -> float:
        """Of delta when the log has got to `position`."""
        return min(PRIOR_VARIANCE, self.variance + GROWTH * max(0, position - self.updated))

    def after(self, residual: float, *, noise: float, position: int) -> Shift:
        """One observation of delta of variance `noise` later."""
        prior = self.variance_at(position)
        gain = prior / (prior + noise)
        return self._replace(
            mean=self.mean + gain * (residual - self.mean),
            variance=(1.0 - gain) * prior,
            size=self.size + 1,
            updated=max(self.updated, position),
        )

    def begun(self, noise: float) -> Shift:
        """Ready for the test of recovery, with what is known at the alarm; `noise` is the variance of one value."""
        needed = FIRST_ERRORS * FIRST_ERRORS * noise / max(self.mean * self.mean, 1e-6)
        first = int(min(MOST_FIRST, max(LEAST_FIRST, needed)))
        return self._replace(low=self.mean - LOW_ERRORS * math.sqrt(noise), first=first, found_by=self.size)

    def corrected(self, change: float, *, noise: float) -> Shift:
        """One observation turned out to be `change` more: exact where the variance has not grown since."""
        return self._replace(mean=self.mean + change * min(1.0, self.variance / noise))

    def kept(self, position: int) -> float:
        """About what is left of the weight of an observation made at `position`, now that the variance has grown, in (0, 1]."""
        grown = GROWTH * max(0, self.updated - position)
        return max(1e-9, exp2(-_LOG2_E * grown / self.variance))

    def tested(self, value: float, known: float, *, noise: float, trust: float) -> Shift:
        """The test of recovery one probe later.

        What raised the alarm was chosen for being bad, so the first probes only tell how bad it is (`level`). A hopeless
        epoch ends, and the next one tests against what was learned by then.

        Args:
            known: the mean that the value had before the change, `trust` in (0, 1] how well that is known.
            noise: variance of one value.
        """
        floor = max(0.0, known + self.low)  # what is far below, even for a bad model, says no more than that
        value = max(value, floor)
        count, total = self.probes + 1, self.probed + value - known
        told = self._replace(probes=count, probed=total)
        mean, error = total / count, math.sqrt(noise / count)
        if self.level == 0.0:
            return told if count < self.first else told._replace(level=min(_level(mean, error), LEAST_PART * self.mean))
        recovery = self.recovery.after(value, min(1.0, max(floor, known + self.level)), floor=floor, trust=trust)
        unsure = self.doubt
        if recovery.evidence >= recovery.needed and self.mean + unsure <= HALF * self.level:  # better, but not what it was
            level = min(LEAST_LEVEL, max(self.level, self.mean + ERRORS * unsure))
            return told._replace(recovery=Recovery(recovery.epoch + 1), level=level)
        if recovery.evidence >= GIVEN_UP:
            return told._replace(recovery=recovery)
        level = min(_level(mean, error), LEAST_PART * self.level)
        return told._replace(recovery=Recovery(recovery.epoch + 1), level=level)

    @property
    def recovered(self) -> bool:
        """Whether the test is passed, and what was learned of delta agrees."""
        agreed = self.mean > HALF * self.level
        return agreed and not self.up and self.level < 0.0 and self.recovery.evidence >= self.recovery.needed


def _level(mean: float, error: float) -> float:
    """The shift that may still hold, when it was found to be `mean`; below 0."""
    return min(mean + ERRORS * error, LEAST_LEVEL)
