"""Whether a model answers at all: a circuit breaker, fed by the calls that callers report, apart from quality.

Closed: an e-detector (Shin, Ramdas and Rinaldo 2022, as in `core/drift.py`) hears each call. With x = 1 for one that failed and p
the share that usually fails, W <- (W + 1) (1 - b + b x / p) has E[W_n] <= n as long as a call fails with probability p at most,
whatever came before; so W > A comes at most once in A calls on average. Several bets b are averaged; W halves with every
`HALF_LIFE_US` between failures, which only makes it smaller, so failures that are far apart never open a breaker.

Open until a time, then half open: it gets a small share of requests, which doubles from step to step. One failure opens it again
for twice as long; `CLOSING` answers in a row close it; so does the end of the last step, since what nobody complains of works.
These times are judged by whoever decides: nothing has to happen for a breaker to become half open. Where calls are rare, seconds
would be over before anything is tried: all these times are then as long as it took the model to get so many calls before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from banditroute.core.numerics import exp2
from banditroute.core.settings import BreakerSettings
from banditroute.core.types import BreakerState, ErrorKind

FAILURES = frozenset(map(int, (ErrorKind.TIMEOUT, ErrorKind.RATE_LIMITED, ErrorKind.UNAVAILABLE, ErrorKind.OTHER)))
"""Nothing came back. A request that was refused (4xx) and an answer that is of no use were answered: they say something of the
request and of quality, and the provider is up."""

BETS = (0.5, 0.95)
FALSE_OPENING_CALLS = 1e5
"""A: calls in which a model that fails no more than usual is taken out once, at most, on average."""
HALF_LIFE_US = 30 * 10**6
LEAST_USUAL, MOST_USUAL, STANDARD_ERRORS = 0.05, 0.5, 2.0
"""p is what was counted plus so many standard errors, within these bounds."""
PRIOR_CALLS, PRIOR_SHARE = 200.0, 0.02
USUAL_HALF_LIFE_CALLS = 1000.0
CLOSING = 3
STEP_US, STEPS, MOST_TRIAL = 30 * 10**6, 4, 0.4
"""Half open lasts so many steps, of so long at least; each doubles the share of the one before, up to the most."""
RELAPSE_US, RELAPSE_STEPS = 300 * 10**6, 10
"""What opens so soon after the last time, or so many steps, is kept out for twice as long."""
LIMITED_PART = 3
"""The cooldown is divided by this where most failures are rate limits, which soon pass."""
LONGEST_PAUSE_US = 900 * 10**6
"""The time of `cooldown_calls` counts up to here."""
PAUSES = 4
"""The longest cooldown is at least so many times the shortest."""
_GAP_PART, _GAP_GROWTH, _GAP_FIRST_US = 32, 10, 10 * 10**6
"""A call moves the mean gap by 1/32 of its own, which counts up to ten times the mean and ten seconds: a night without traffic
changes little."""

_FADE = exp2(-1.0 / USUAL_HALF_LIFE_CALLS)
_LEFT = tuple(1.0 - bet for bet in BETS)
_NOTHING = (0.0,) * len(BETS)


class Turn(NamedTuple):
    """A change of a breaker, by the name that the journal gives it; `evidence` is W where that opened it."""

    kind: str
    evidence: float = 0.0


class Breaker(NamedTuple):
    """One model's breaker.

    `wealth`, `failures` and `limited` (late failures, and those of them that are rate limits) are worth what they say at
    `failed_us`, the latest failure. `usual_failures` of `usual_calls` have failed while it was closed, older ones counting
    less. `since` is the position of its latest turn, `answers` how many came in a row since it opened; `open_until_us` and
    `cooldown_us` are those of the latest opening, 0 before there was one; `step_us` is how long a step lasts after it. While
    closed, calls came `gap_us` apart, the latest at `heard_us`.
    """

    wealth: tuple[float, ...] = _NOTHING
    failed_us: int = 0
    failures: float = 0.0
    limited: float = 0.0
    usual_failures: float = 0.0
    usual_calls: float = 0.0
    since: int = 0
    open_until_us: int = 0
    cooldown_us: int = 0
    answers: int = 0
    step_us: int = STEP_US
    gap_us: int = 0
    heard_us: int = 0

    @property
    def usual(self) -> float:
        """p: the share of calls that may fail without anything being wrong."""
        calls = self.usual_calls + PRIOR_CALLS
        share = (self.usual_failures + PRIOR_CALLS * PRIOR_SHARE) / calls
        return min(MOST_USUAL, max(LEAST_USUAL, share + STANDARD_ERRORS * math.sqrt(share * (1.0 - share) / calls)))

    def state(self, now_us: int) -> BreakerState:
        """As it is at a time."""
        if not self.open_until_us or self.answers >= CLOSING or now_us >= self.open_until_us + STEPS * self.step_us:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_us < self.open_until_us else BreakerState.HALF_OPEN

    def after(self, error: int, *, now_us: int, position: int, settings: BreakerSettings) -> tuple[Breaker, Turn | None]:
        """One call later, which must be of a decision made at `since` or behind: what was decided before knew nothing of the
        turn, and says nothing of the time behind it.

        Args:
            error: an `ErrorKind`, or its number.
            position: of the event that tells of it.
        """
        state = self.state(now_us)
        if error not in FAILURES:
            return (self._served(now_us), None) if state is BreakerState.CLOSED else self._answered(position)
        faded = exp2((self.failed_us - now_us) / HALF_LIFE_US)
        failed = self._replace(
            failed_us=now_us,
            failures=self.failures * faded + 1.0,
            limited=self.limited * faded + (error == ErrorKind.RATE_LIMITED),
        )
        if state is BreakerState.OPEN:  # nothing else could serve, or it was called beside the chosen one
            return failed._replace(answers=0), None
        if state is BreakerState.HALF_OPEN:
            return failed._opened(now_us, position, settings, again=True), Turn("breaker_reopened")
        usual = self.usual
        wealth = tuple([(held * faded + 1.0) * (1.0 - bet + bet / usual) for bet, held in zip(BETS, self.wealth, strict=True)])
        failed = failed._replace(
            wealth=wealth,
            usual_failures=self.usual_failures * _FADE + 1.0,
            usual_calls=self.usual_calls * _FADE + 1.0,
            gap_us=self._gap_us(now_us),
            heard_us=now_us,
        )
        found = math.fsum(wealth) / len(wealth)
        if found <= FALSE_OPENING_CALLS:
            return failed, None
        again = bool(self.open_until_us) and now_us < self.open_until_us + max(RELAPSE_US, RELAPSE_STEPS * self.step_us)
        return failed._opened(now_us, position, settings, again=again), Turn("breaker_opened", found)

    def _gap_us(self, now_us: int) -> int:
        if not self.heard_us:
            return 0
        return self.gap_us + (min(now_us - self.heard_us, _GAP_GROWTH * self.gap_us + _GAP_FIRST_US) - self.gap_us) // _GAP_PART

    def _served(self, now_us: int) -> Breaker:
        wealth, failed_us, failures, limited, usual_failures, usual_calls, since, open_until_us, cooldown_us, answers, step_us = (
            self[:11]
        )
        (one, two), (first, second) = _LEFT, wealth
        return Breaker(
            ((first + 1.0) * one, (second + 1.0) * two),
            failed_us,
            failures,
            limited,
            usual_failures * _FADE,
            usual_calls * _FADE + 1.0,
            since,
            open_until_us,
            cooldown_us,
            answers,
            step_us,
            self._gap_us(now_us),
            now_us,
        )

    def _answered(self, position: int) -> tuple[Breaker, Turn | None]:
        answers = self.answers + 1
        if answers < CLOSING:
            return self._replace(answers=answers), None
        return self._replace(answers=answers, since=position), Turn("breaker_closed")

    def _opened(self, now_us: int, position: int, settings: BreakerSettings, *, again: bool) -> Breaker:
        cooldown = settings.cooldown_us
        if 2.0 * self.limited > self.failures:
            cooldown //= LIMITED_PART
        pause = min(settings.cooldown_calls * self.gap_us, LONGEST_PAUSE_US)
        cooldown = max(cooldown, pause)
        if again:
            cooldown = max(cooldown, 2 * self.cooldown_us)
        cooldown = min(cooldown, max(settings.max_cooldown_us, PAUSES * pause))
        return self._replace(
            wealth=_NOTHING,
            since=position,
            open_until_us=now_us + cooldown,
            cooldown_us=cooldown,
            answers=0,
            step_us=max(STEP_US, pause),
        )

    def trial_share(self, now_us: int, settings: BreakerSettings) -> float:
        """The share of requests that it gets while it is half open."""
        step = (now_us - self.open_until_us) // self.step_us
        return min(MOST_TRIAL, settings.trial_share * float(1 << step))


class Broken(NamedTuple):
    """The models whose breakers are not closed: the open ones, and those half open with their share."""

    open: frozenset[str]
    trials: frozenset[tuple[str, float]]


def tripped(breakers: Mapping[str, Breaker], now_us: int) -> dict[str, Breaker]:
    """Those that are not closed, or may not be: what closes by itself later is still among them."""
    return {
        model: breaker
        for model, breaker in breakers.items()
        if breaker.open_until_us and breaker.state(now_us) is not BreakerState.CLOSED
    }


def broken_at(breakers: Mapping[str, Breaker], now_us: int, settings: BreakerSettings) -> Broken | None:
    """What is broken at a time; None where nothing is."""
    states = {model: breaker.state(now_us) for model, breaker in breakers.items()}
    found = Broken(
        frozenset([model for model, state in states.items() if state is BreakerState.OPEN]),
        frozenset(
            [
                (model, breakers[model].trial_share(now_us, settings))
                for model, at in states.items()
                if at is BreakerState.HALF_OPEN
            ]
        ),
    )
    return found if found.open or found.trials else None
