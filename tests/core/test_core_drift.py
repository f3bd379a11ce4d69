"""Tests of change: guarantees by exact enumeration of small trees, the rest by hand and by brute force."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

import pytest
from core_logs import category_entry, config_event, decided, document, fold, scored
from hypothesis import given
from hypothesis import strategies as st

from banditroute.core import drift
from banditroute.core.drift import (
    FALSE_RECOVERY,
    GIVEN_UP,
    LAG,
    LEVELS,
    QUALIFYING,
    Pair,
    Recovery,
    Reference,
    Stream,
    Wealth,
    change_point,
    evidence,
    joined,
    observed,
    source_of,
    stream_key,
    threshold,
)

LENGTH = 9
MARGIN = 0.02
CLOSE = 1e-9
values = st.floats(0.0, 1.0)
wealths = st.lists(st.floats(0.0, 1e9), min_size=len(drift.BETS), max_size=len(drift.BETS)).map(tuple)
Mean = Callable[[Sequence[int]], float]


def tree(mean: Mean, length: int = LENGTH) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every sequence of 0 and 1 with its probability; each value's mean may depend on those before."""
    for path in itertools.product((0, 1), repeat=length):
        chance = 1.0
        for i, value in enumerate(path):
            one = mean(path[:i])
            chance *= one if value else 1.0 - one
        yield path, chance


def total(wealth: Wealth) -> float:
    return math.fsum(wealth) / len(wealth)


def always(mean: float) -> Mean:
    return lambda _: mean


def as_it_went(past: Sequence[int]) -> float:
    """A mean that never is below .7 but reacts to what came before."""
    return 0.7 + 0.3 * (sum(past[-3:]) % 2)


# --- what one detector promises --------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "most"), [(0.68, True), (0.7, False), (0.85, False), (1.0, False)])
def test_evidence_downward_is_on_average_no_more_than_the_values_seen(mean: float, most: bool) -> None:
    sums = [0.0] * (LENGTH + 1)
    for path, chance in tree(always(mean)):
        pair = Pair()
        for n, value in enumerate(path, start=1):
            pair = pair.after(float(value), reference=0.7, margin=MARGIN)
            sums[n] += chance * total(pair.down)
    for n, found in enumerate(sums):
        assert found == pytest.approx(n) if most else found <= n + CLOSE


@pytest.mark.parametrize("mean", [0.72, 0.7, 0.4, 0.0])
def test_evidence_upward_is_on_average_no_more_than_the_values_seen(mean: float) -> None:
    found = 0.0
    for path, chance in tree(always(mean)):
        pair = Pair()
        for value in path:
            pair = pair.after(float(value), reference=0.7, margin=MARGIN)
        found += chance * total(pair.up)
    assert found <= LENGTH + CLOSE


def test_a_reference_that_follows_the_values_does_no_harm_where_it_is_below_the_mean() -> None:
    found = 0.0
    for path, chance in tree(as_it_went):
        pair = Pair()
        for i, value in enumerate(path):
            so_far = sum(path[:i]) / i if i else 0.7
            pair = pair.after(float(value), reference=min(so_far, as_it_went(path[:i])), margin=MARGIN)
        found += chance * total(pair.down)
    assert found <= LENGTH + CLOSE


@pytest.mark.parametrize("needed", [1.5, 3.0, 8.0])
@pytest.mark.parametrize("mean", [always(0.68), as_it_went])
def test_stopped_at_an_alarm_the_evidence_is_no_more_than_the_time(needed: float, mean: Mean) -> None:
    found = 0.0
    for path, chance in tree(mean):
        pair, time = Pair(), 0
        for value in path:
            pair, time = pair.after(float(value), reference=0.7, margin=MARGIN), time + 1
            if total(pair.down) > needed:
                break
        found += chance * (total(pair.down) - time)
    assert found <= CLOSE


@pytest.mark.parametrize("needed", [1.5, 3.0, 8.0])
def test_false_alarms_across_restarts_are_within_their_budget(needed: float) -> None:
    alarms = 0.0
    for path, chance in tree(as_it_went):
        pair = Pair()
        for value in path:
            pair = pair.after(float(value), reference=0.7, margin=MARGIN)
            if total(pair.down) > needed:
                alarms += chance
                pair = Pair()
    assert alarms <= LENGTH / needed


def test_the_budget_is_shared_by_both_levels() -> None:
    assert threshold(20.0) == 100_000.0
    assert threshold(100.0) == 20_000.0
    for budget in (0.001, 20.0, 1e5):
        per_level = 1e6 / threshold(budget)  # alarms in a million values: n / A
        assert LEVELS * per_level == pytest.approx(budget)


@given(st.lists(values, max_size=30), values, st.floats(0.0, 0.2), st.floats(-0.2, 0.2))
def test_upward_mirrors_downward(told: list[float], reference: float, margin: float, bias: float) -> None:
    pair, mirrored = Pair(), Pair()
    for value in told:
        pair = pair.after(value, reference=reference, margin=margin, bias=bias)
        mirrored = mirrored.after(1.0 - value, reference=1.0 - reference, margin=margin, bias=-bias)
    assert pair.up == pytest.approx(mirrored.down, rel=1e-6, abs=1e-6)
    assert pair.down == pytest.approx(mirrored.up, rel=1e-6, abs=1e-6)


@given(st.lists(values, max_size=30), values, st.floats(0.0, 0.5))
def test_no_value_in_range_turns_evidence_negative(told: list[float], reference: float, margin: float) -> None:
    pair = Pair()
    for value in told:
        pair = pair.after(value, reference=reference, margin=margin)
        assert min(*pair.down, *pair.up) >= 0.0


def test_one_value_by_hand() -> None:
    pair = Pair().after(0.0, reference=0.6, margin=0.1)
    assert pair.down == pytest.approx((1.1, 1.2, 1.4, 1.7))  # 1 + bet x (.5 - 0) / (1 - .5)
    assert pair.up == pytest.approx((0.9, 0.8, 0.6, 0.3))  # 1 + bet x (0 - .7) / .7


# --- several sources -------------------------------------------------------------------------------


@pytest.mark.parametrize("min_sources", [1, 2])
def test_sources_together_keep_the_bound_though_the_next_one_is_chosen_by_what_came(min_sources: int) -> None:
    keys = [stream_key("a", "x"), stream_key("a", "y"), stream_key("b", "x")]
    found = 0.0
    for path, chance in tree(always(0.68)):
        pairs: dict[str, Pair] = {}
        for i, value in enumerate(path):
            key = keys[(i + sum(path[:i])) % 3 if i % 2 else sum(path[:i]) % 2]
            pairs[key] = pairs.get(key, Pair()).after(float(value), reference=0.7, margin=MARGIN)
        found += chance * evidence({key: pair.down for key, pair in pairs.items()}, min_sources=min_sources)
    assert found <= LENGTH + CLOSE


def test_evidence_by_hand() -> None:
    flat = {stream_key(name, "x"): (value,) * 4 for name, value in (("a", 90.0), ("b", 6.0), ("c", 3.0))}
    assert evidence({}, min_sources=1) == 0.0
    assert evidence(flat, min_sources=1) == pytest.approx(33.0)
    assert evidence(flat, min_sources=2) == pytest.approx(2 * 6.0 / 3)
    assert evidence(flat, min_sources=3) == pytest.approx(3 * 3.0 / 3)
    assert evidence(flat, min_sources=4) == 0.0


def test_what_one_source_says_in_two_ways_is_one_source() -> None:
    loud = {stream_key("a", kind): (1e9,) * 4 for kind in ("x", "y", "z")}
    assert evidence(loud, min_sources=2) == 0.0
    assert source_of(stream_key("a", "x")) == "a"


@given(st.dictionaries(st.sampled_from("abcdef"), wealths, min_size=1), st.integers(2, 6))
def test_evidence_is_never_more_than_the_mean_of_the_sources(told: dict[str, Wealth], asked: int) -> None:
    by_key = {stream_key(name, "x"): wealth for name, wealth in told.items()}
    assert evidence(by_key, min_sources=asked) <= evidence(by_key, min_sources=1) * (1.0 + 1e-12)


@given(st.dictionaries(st.sampled_from("bcdef"), wealths, min_size=1), wealths, st.integers(2, 6), st.integers(1, 3))
def test_one_source_alone_raises_nothing(told: dict[str, Wealth], loud: Wealth, asked: int, kinds: int) -> None:
    quiet = {stream_key(name, "x"): wealth for name, wealth in told.items()}
    together = quiet | {stream_key("a", f"kind {i}"): loud for i in range(kinds)}
    others = sorted((total(wealth) for wealth in told.values()), reverse=True)
    most = asked * others[asked - 2] / (len(others) + 1) if len(others) >= asked - 1 else 0.0
    assert evidence(together, min_sources=asked) <= most * (1.0 + 1e-12)


# --- change point ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("residuals", "at"),
    [
        ([], 0),
        ([0.3, -0.2], 0),
        ([0.0] * 5 + [-1.0] * 5, 5),
        ([0.0] * 7 + [0.5] * 6, 7),
        ([0.1, -0.1] * 4 + [-0.6] * 5, 8),
        ([-1.0] * 3 + [0.0] * 2, 0),
        ([0.0] * 9 + [-1.0], 5),  # no fewer than the last five
    ],
)
def test_change_points_by_hand(residuals: list[float], at: int) -> None:
    assert change_point(residuals, noise=0.001) == at


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=90), st.floats(0.0, 0.5))
def test_the_change_point_is_the_most_likely_one(residuals: list[float], noise: float) -> None:
    n, least = len(residuals), min(40, max(5, int(noise / 0.008)))
    at = change_point(residuals, noise=noise)
    if n < least:
        assert at == 0
        return

    def likely(k: int) -> float:
        return math.fsum(residuals[k:]) ** 2 / (n - k)

    assert 0 <= at <= n - least
    assert likely(at) >= max(likely(k) for k in range(n - least + 1)) - 1e-9


# --- references ------------------------------------------------------------------------------------


def test_values_join_the_reference_when_lag_others_wait_behind_them() -> None:
    rng = random.Random(1)
    told = [rng.random() for _ in range(QUALIFYING + 2 * LAG + 7)]
    decision = decided("chat", "ant") | {"state_position": 1}
    start = config_event(1, document({"chat": category_entry()}))
    state, _ = fold([start])
    key = stream_key("", "eval_score")
    for n, value in enumerate(told, start=1):
        state, found = fold([scored(n + 1, n, decision, value)], state)
        assert not found
        stream, reference = state.models["ant"].streams[key], state.categories["chat"].references["ant"][key]
        assert stream.seen == n
        assert len(stream.waiting) == min(LAG, max(0, n - QUALIFYING))
        assert reference.size == stream.size == max(0, n - QUALIFYING - LAG)
        assert reference.total == pytest.approx(math.fsum(told[QUALIFYING : max(QUALIFYING, n - LAG)]))


def test_a_value_is_tested_against_values_that_all_came_lag_before_it() -> None:
    told = [1.0] * (QUALIFYING + LAG + 100)
    stream, reference = Stream(), Reference()
    for value in told:
        stream, reference = observed(stream, reference, "chat", value)
        if len(stream.waiting) > LAG:
            stream, reference = joined(stream, reference)
    for n in range(LAG):
        assert (reference.mean, reference.size) == (1.0, 100 + n)
        stream, reference = observed(stream, reference, "chat", 0.0)
        stream, reference = joined(stream, reference)
    stream, reference = observed(stream, reference, "chat", 0.0)
    _, reference = joined(stream, reference)
    assert reference.mean == pytest.approx(1.0 - 1.0 / reference.size)


@given(st.lists(st.tuples(st.sampled_from("pq"), values), min_size=2, max_size=50))
def test_the_variance_is_that_about_each_arms_own_mean(told: list[tuple[str, float]]) -> None:
    stream, references = Stream(seen=QUALIFYING), {"p": Reference(), "q": Reference()}
    for category, value in told:
        stream, references[category] = observed(stream, references[category], category, value)
        stream, references[category] = joined(stream, references[category])
    squares = 0.0
    for category in references:
        mine = [value for name, value in told if name == category]
        squares += math.fsum((value - math.fsum(mine) / len(mine)) ** 2 for value in mine)
    assert stream.square == pytest.approx(squares, abs=1e-9)
    expected = (squares + drift.NOISE_WEIGHT * drift.NOISE) / (len(told) + drift.NOISE_WEIGHT)
    assert stream.variance == pytest.approx(expected)


def test_the_margin_is_that_of_the_category_where_one_suddenly_comes_alone() -> None:
    stream = Stream(seen=QUALIFYING + 400, size=400, square=64.0)
    for waiting, error in ((3, 1 / 400), (8, 1 / 400), (LAG, (LAG - drift.SURELY * math.sqrt(LAG)) / (LAG * 20))):
        reference = Reference(size=20, total=16.0, waiting=waiting)
        low = 0.8 - drift.SLACK - math.sqrt(stream.variance * error)
        expected = Pair().after(0.3, reference=low, margin=0.0).down
        assert observed(stream, reference, "chat", 0.3)[0].tests.down == pytest.approx(expected)


def test_a_bias_stays_from_so_many_values_on() -> None:
    waiting = (("chat", 0.2, -0.6),)
    for tested, later in ((drift.BIAS_SIZE - 1, (drift.BIAS_SIZE, -1.6)), (drift.BIAS_SIZE, (drift.BIAS_SIZE, -1.0))):
        stream, _ = joined(Stream(tested=tested, gap=-1.0, waiting=waiting), Reference(size=50, total=40.0, waiting=1))
        assert (stream.tested, stream.gap) == pytest.approx(later)


def test_tests_begin_when_their_references_are_large_enough() -> None:
    alone, whole = Reference(size=drift.LEAST_ALONE, total=40.0), Stream(size=drift.LEAST_OF_MODEL)
    small = Reference(size=drift.LEAST_OF_ARM - 1, total=9.0)
    assert observed(whole, alone, "chat", 0.5)[0].tests != Pair()
    assert observed(whole, alone, "chat", 0.5)[1].tests != Pair()
    assert observed(whole, small, "chat", 0.5) == (whole._replace(seen=1), small)
    assert observed(whole._replace(size=drift.LEAST_OF_MODEL - 1), alone, "chat", 0.5)[0].tests == Pair()
    assert observed(whole, alone._replace(size=drift.LEAST_ALONE - 1), "chat", 0.5)[1].tests == Pair()


def test_what_an_unchanged_arm_is_hardly_below() -> None:
    stream, reference = Stream(size=97, square=4.82), Reference(size=50, total=40.0)  # variance 5 / 100
    margin = drift.SLACK + drift.STANDARD_ERRORS * math.sqrt(0.05 / 50)
    assert reference.low(stream) == pytest.approx(0.8 - margin)
    too_high = stream._replace(tested=150, gap=-10.0)
    assert reference.low(too_high) == pytest.approx(0.8 - margin - 10.0 / (150 + drift.BIAS_WEIGHT))
    assert reference.low(stream._replace(tested=150, gap=10.0)) == reference.low(stream)
    assert reference._replace(total=0.5).low(stream) == 0.0


# --- recovery --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "level", "fair"), [(0.6, 0.6, True), (0.5, 0.6, False), (0.0, 0.6, False), (0.05, 0.05, True)])
@pytest.mark.parametrize("trust", [1.0, 0.4])
def test_recovery_is_a_martingale_at_its_level(mean: float, level: float, fair: bool, trust: float) -> None:
    found = 0.0
    for path, chance in tree(always(mean)):
        recovery = Recovery()
        for value in path:
            recovery = recovery.after(float(value), level, trust=trust)
        found += chance * recovery.evidence
    assert found == pytest.approx(1.0) if fair else found < 1.0


def test_values_that_are_no_lower_than_a_floor_move_it_faster_and_stay_a_martingale() -> None:
    found = 0.0
    for path, chance in tree(always(0.5)):
        recovery = Recovery()
        for value in path:
            recovery = recovery.after(0.4 + 0.4 * value, 0.6, floor=0.4)  # mean .6
        found += chance * recovery.evidence
    assert found == pytest.approx(1.0)
    slow, fast = Recovery().after(0.8, 0.6), Recovery().after(0.8, 0.6, floor=0.4)
    assert fast.evidence - 1.0 == pytest.approx(3.0 * (slow.evidence - 1.0))


def test_epochs_together_spend_no_more_than_alpha() -> None:
    spent = math.fsum(1.0 / Recovery(epoch).needed for epoch in range(1, 10_000))
    assert spent <= FALSE_RECOVERY
    assert spent == pytest.approx(FALSE_RECOVERY, rel=1e-3)


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_a_model_that_stays_bad_is_rarely_called_recovered_however_often_it_starts_anew(
    alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "FALSE_RECOVERY", alpha)
    wrong = 0.0
    for path, chance in tree(always(0.6), length=12):
        recovery = Recovery()
        for value in path:
            recovery = recovery.after(float(value), 0.6)
            if recovery.evidence >= recovery.needed:
                wrong += chance
                break
            if recovery.evidence < GIVEN_UP:
                recovery = Recovery(recovery.epoch + 1)
    assert 0.0 < wrong <= alpha


@given(st.lists(values, max_size=40), values, st.floats(0.01, 1.0))
def test_evidence_of_recovery_is_never_negative(told: list[float], level: float, trust: float) -> None:
    recovery = Recovery()
    for value in told:
        recovery = recovery.after(value, level, trust=trust)
        assert min(recovery.wealth) >= 0.0
