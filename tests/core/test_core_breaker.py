"""One breaker: when it opens, for how long, when it closes."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from banditroute.core.breaker import (
    BETS,
    CLOSING,
    FALSE_OPENING_CALLS,
    HALF_LIFE_US,
    LEAST_USUAL,
    LONGEST_PAUSE_US,
    MOST_TRIAL,
    PAUSES,
    RELAPSE_US,
    STEP_US,
    STEPS,
    Breaker,
    broken_at,
    tripped,
)
from banditroute.core.settings import BreakerSettings
from banditroute.core.types import BreakerState, ErrorKind

SETTINGS = BreakerSettings()
START = 10**15
S = 10**6
NONE, TIMEOUT, LIMITED, UNAVAILABLE = ErrorKind.NONE, ErrorKind.TIMEOUT, ErrorKind.RATE_LIMITED, ErrorKind.UNAVAILABLE
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def told(
    breaker: Breaker, *errors: ErrorKind, now_us: int = START, every_us: int = 0, settings: BreakerSettings = SETTINGS
) -> tuple[Breaker, list[str]]:
    """After calls of which the first ends at `now_us`, and the names of its turns."""
    turns = []
    for i, error in enumerate(errors):
        breaker, turn = breaker.after(error, now_us=now_us + i * every_us, position=100 + i, settings=settings)
        turns += [turn.kind] if turn else []
    return breaker, turns


def opened(now_us: int = START) -> Breaker:
    breaker, turns = told(Breaker(), *[UNAVAILABLE] * 5, now_us=now_us)
    assert turns == ["breaker_opened"]
    return breaker


def test_the_first_calls_by_hand() -> None:
    """p = .05: a failure multiplies by 1 - b + b / p = 10.5 and 19.05, an answer by 1 - b = .5 and .05."""
    assert Breaker().usual == LEAST_USUAL == 0.05
    breaker, _ = told(Breaker(), UNAVAILABLE)
    assert breaker.wealth == pytest.approx((10.5, 19.05))
    breaker, _ = told(breaker, NONE)
    assert breaker.wealth == pytest.approx((11.5 * 0.5, 20.05 * 0.05))
    breaker, _ = told(breaker, TIMEOUT, now_us=START + HALF_LIFE_US)  # what was believed before has halved
    assert breaker.wealth == pytest.approx(((5.75 / 2 + 1.0) * 10.5, (1.0025 / 2 + 1.0) * 19.05))
    assert (breaker.failures, breaker.usual_calls) == pytest.approx((1.5, 3.0), rel=3e-3)


def test_what_usually_fails_by_hand() -> None:
    """180 of 1,000 beside the prior's 4 of 200: 184 of 1,200, and two standard errors."""
    share = 184.0 / 1200.0
    expected = share + 2.0 * math.sqrt(share * (1.0 - share) / 1200.0)
    assert Breaker(usual_failures=180.0, usual_calls=1000.0).usual == pytest.approx(expected)
    assert Breaker(usual_failures=9e5, usual_calls=1e6).usual == 0.5


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    breaker, turns = told(Breaker(), *[TIMEOUT] * 4)
    assert not turns
    assert breaker.state(START) is CLOSED
    breaker, turns = told(breaker, TIMEOUT, now_us=START + S)
    assert turns == ["breaker_opened"]
    assert (breaker.since, breaker.open_until_us, breaker.cooldown_us) == (100, START + 16 * S, 15 * S)
    assert [breaker.state(START + at * S) for at in (1, 15, 16, 135, 136)] == [OPEN, OPEN, HALF_OPEN, HALF_OPEN, CLOSED]


def test_a_model_that_usually_fails_is_given_more_failures() -> None:
    rng = random.Random(1)
    breaker, turns = told(Breaker(), *[UNAVAILABLE if rng.random() < 0.2 else NONE for _ in range(3000)], every_us=S // 5)
    assert not turns
    assert 0.2 < breaker.usual < 0.25
    now_us = START + 10**9
    failures = next(count for count in range(1, 20) if told(breaker, *[TIMEOUT] * count, now_us=now_us)[1])
    assert failures == 8


@pytest.mark.parametrize(("gap_s", "opens_at"), [(1, 5), (15, 5), (60, 8), (130, None)])
def test_failures_that_are_far_apart_are_no_outage(gap_s: int, opens_at: int | None) -> None:
    turns = [bool(told(Breaker(), *[TIMEOUT] * count, every_us=gap_s * S)[1]) for count in range(1, 200)]
    assert (turns.index(True) + 1 if True in turns else None) == opens_at


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_what_counts_is_that_nothing_came_back(kind: ErrorKind) -> None:
    """What the provider refused, and what it answered badly, it answered."""
    _, turns = told(Breaker(), *[kind] * 20)
    assert turns[:1] == ([] if kind in (NONE, ErrorKind.REJECTED, ErrorKind.BAD_OUTPUT) else ["breaker_opened"])


@pytest.mark.parametrize(("limited", "cooldown_s"), [(2, 15), (3, 5), (5, 5)])
def test_rate_limits_pass_sooner(limited: int, cooldown_s: int) -> None:
    breaker, _ = told(Breaker(), *[LIMITED] * limited, *[TIMEOUT] * (5 - limited))
    assert breaker.cooldown_us == cooldown_s * S


def test_a_failed_probe_opens_it_again_for_twice_as_long_up_to_the_most() -> None:
    breaker, now_us, cooldowns = opened(), START, []
    for _ in range(4):
        now_us = breaker.open_until_us
        breaker, turns = told(breaker, TIMEOUT, now_us=now_us)
        assert turns == ["breaker_reopened"]
        cooldowns.append((breaker.open_until_us - now_us) // S)
    assert cooldowns == [30, 60, 60, 60]
    breaker, _ = told(opened(), LIMITED, now_us=START + 15 * S)
    assert breaker.cooldown_us == 30 * S  # one rate limit makes no rate-limited model, and never less than before


def test_three_answers_in_a_row_close_it() -> None:
    breaker, turns = told(opened(), NONE, NONE, now_us=START + 15 * S)
    assert not turns
    assert breaker.state(START + 15 * S) is HALF_OPEN
    breaker, turns = told(breaker, NONE, now_us=START + 16 * S)
    assert turns == ["breaker_closed"]
    assert (breaker.state(START + 16 * S), breaker.since, breaker.wealth) == (CLOSED, 100, (0.0, 0.0))


def test_where_it_serves_nevertheless_failures_change_nothing_and_answers_close_it() -> None:
    breaker, turns = told(opened(), *[TIMEOUT] * 50, NONE, NONE, TIMEOUT, NONE, NONE, now_us=START + S)
    assert not turns
    assert (breaker.open_until_us, breaker.since) == (opened().open_until_us, opened().since)
    assert told(breaker, NONE, now_us=START + 2 * S)[1] == ["breaker_closed"]


def test_what_nobody_complains_of_closes_by_itself() -> None:
    end = START + 15 * S + STEPS * STEP_US
    breaker, turns = told(opened(), NONE, now_us=START + 20 * S)
    assert [breaker.state(at) for at in (end - 1, end)] == [HALF_OPEN, CLOSED]
    breaker, turns = told(breaker, *[TIMEOUT] * 4, now_us=end)
    assert not turns
    breaker, turns = told(breaker, TIMEOUT, now_us=end)
    assert turns == ["breaker_opened"]
    assert breaker.cooldown_us == 30 * S  # a relapse
    late, _ = told(opened(), *[TIMEOUT] * 5, now_us=START + 15 * S + RELAPSE_US)
    assert late.cooldown_us == 15 * S


def test_the_share_of_trials_doubles_from_step_to_step() -> None:
    until = opened().open_until_us
    shares = [opened().trial_share(until + at, SETTINGS) for at in (0, STEP_US - 1, STEP_US, 2 * STEP_US, 3 * STEP_US)]
    assert shares == [0.05, 0.05, 0.1, 0.2, 0.4]
    assert opened().trial_share(until + 3 * STEP_US, SETTINGS._replace(trial_share=0.3)) == MOST_TRIAL


def paced(gap_us: int, calls: int = 2000) -> Breaker:
    """After so many answers, so far apart."""
    return told(Breaker(), *[NONE] * calls, every_us=gap_us)[0]


@pytest.mark.parametrize(("gap_s", "cooldowns", "step_s"), [(0.2, (15, 30, 60, 60), 30), (20, (200, 400, 800, 800), 200)])
def test_where_calls_are_rare_its_times_are_those_of_calls(gap_s: float, cooldowns: tuple[int, ...], step_s: int) -> None:
    breaker = paced(int(gap_s * S))
    assert breaker.gap_us == pytest.approx(gap_s * S, rel=0.01)
    now_us = breaker.heard_us
    while breaker.state(now_us) is CLOSED:
        now_us += int(gap_s * S)
        breaker, _ = told(breaker, TIMEOUT, now_us=now_us)
    found = [breaker.cooldown_us]
    for _ in range(3):
        now_us = breaker.open_until_us + STEPS * breaker.step_us - 1
        assert breaker.trial_share(now_us, SETTINGS) == 0.4
        breaker, turns = told(breaker, TIMEOUT, now_us=now_us)
        assert turns == ["breaker_reopened"]
        found.append(breaker.cooldown_us)
    assert [each / S for each in found] == pytest.approx(cooldowns, rel=0.01)
    assert breaker.step_us / S == pytest.approx(step_s, rel=0.01)


def test_a_night_without_traffic_changes_the_pace_little() -> None:
    before = paced(20 * S)
    after, _ = told(before, NONE, now_us=before.heard_us + 8 * 3600 * S)
    assert before.gap_us < after.gap_us < 1.35 * before.gap_us
    rare, _ = told(paced(300 * S), *[TIMEOUT] * 5, now_us=START * 2)
    assert rare.cooldown_us == LONGEST_PAUSE_US


def test_what_is_broken_at_a_time() -> None:
    held = {"a": opened(), "b": opened(START - 20 * S), "c": Breaker(), "d": told(opened(), *[NONE] * 3)[0]}
    assert tripped(held, START).keys() == {"a", "b"}
    found = broken_at(held, START, SETTINGS)
    assert found == (frozenset({"a"}), frozenset({("b", 0.05)}))
    assert broken_at(held, START + 200 * S, SETTINGS) is None
    assert tripped(held, START + 200 * S) == {}


# --- for any calls ---------------------------------------------------------------------------------

CALLS = st.lists(
    st.tuples(st.sampled_from([NONE, NONE, TIMEOUT, LIMITED, UNAVAILABLE, ErrorKind.REJECTED]), st.integers(0, 100 * S)),
    max_size=80,
)
BREAKERS = st.builds(
    BreakerSettings,
    cooldown_us=st.integers(10**3, 20 * S),
    max_cooldown_us=st.integers(20 * S, 400 * S),
    trial_share=st.floats(0.001, 0.4),
    cooldown_calls=st.sampled_from([0, 10]),
)


@profile(max_examples=400, derandomize=True, deadline=None)
@given(CALLS, BREAKERS)
def test_turns_keep_their_rules_whatever_happens(calls: list[tuple[ErrorKind, int]], settings: BreakerSettings) -> None:
    breaker, now_us, failures, answers = Breaker(), START, 0, 0
    for position, (error, gap_us) in enumerate(calls, start=1):
        now_us += gap_us
        before, state = breaker, breaker.state(now_us)
        breaker, turn = breaker.after(error, now_us=now_us, position=position, settings=settings)
        failed = error in (TIMEOUT, LIMITED, UNAVAILABLE)
        failures = failures + failed if state is CLOSED else 0
        answers = 0 if failed or state is CLOSED else answers + 1
        kind = turn.kind if turn else ""
        assert (kind == "breaker_reopened") == (state is HALF_OPEN and failed)
        assert (kind == "breaker_closed") == (answers == CLOSING)
        if kind == "breaker_opened":
            assert state is CLOSED
            assert failures >= 5
        if kind in ("breaker_opened", "breaker_reopened"):
            most = max(settings.max_cooldown_us, PAUSES * settings.cooldown_calls * before.gap_us)
            assert 0 < breaker.open_until_us - now_us == breaker.cooldown_us <= most
            assert breaker.step_us >= STEP_US
            if kind == "breaker_reopened":
                assert breaker.cooldown_us >= min(2 * before.cooldown_us, most)
            failures = 0
        assert breaker.since == (position if kind else before.since)
        answers = 0 if kind else answers


@profile(max_examples=200, derandomize=True, deadline=None)
@given(CALLS, st.integers(0, 10**9), st.floats(0.0, 1.0))
def test_evidence_grows_by_one_a_call_at_most_where_nothing_is_wrong(
    calls: list[tuple[ErrorKind, int]], gap_us: int, part: float
) -> None:
    """E[W after] <= W + 1 for any share of failures up to p: so W is beyond A once in A calls at most, on average."""
    breaker, now_us = Breaker(), START
    for error, gap in calls:
        now_us += gap
        found, turn = breaker.after(error, now_us=now_us, position=1, settings=SETTINGS)
        breaker = breaker if turn else found
    if breaker.state(now_us + gap_us) is not CLOSED:
        return
    share = part * breaker.usual
    after = {}
    for error in (NONE, TIMEOUT):
        found, turn = breaker.after(error, now_us=now_us + gap_us, position=2, settings=SETTINGS)
        after[error] = turn.evidence if turn else sum(found.wealth) / len(BETS)
    expected = share * after[TIMEOUT] + (1.0 - share) * after[NONE]
    assert expected <= (sum(breaker.wealth) / len(BETS) + 1.0) * (1.0 + 1e-9)
    assert after[NONE] < FALSE_OPENING_CALLS
