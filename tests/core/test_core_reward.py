from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.core.reward import SEPARATOR, attempt_key, fuse, merge, overall, signal_key
from banditroute.core.types import Attempt, Disposition, ErrorKind, Signal, SignalKind

PROFILE = settings(max_examples=200, derandomize=True, deadline=None)
WEIGHTS = {"rating": 1.0, "eval_score": 1.0, "accepted": 0.5, "retried": 0.25}
APPLIED, DUPLICATE, CORRECTED, STALE = Disposition.APPLIED, Disposition.DUPLICATE, Disposition.CORRECTED, Disposition.STALE


def key(model: str, kind: str, source: str = "") -> str:
    return SEPARATOR.join((model, kind, source))


def score(value: float, **more: Any) -> Signal:
    return Signal(SignalKind.EVAL_SCORE, value, **more)


def said(record: Any, *what: Signal, at: int) -> Any:
    return merge(record, drawn="ant", signals=what, attempts=(), observe_us=at)


def test_merge_by_hand() -> None:
    first = said(None, score(0.5, source="judge", weight=2.0), at=10)
    assert first.record == {"signals": {key("ant", "eval_score", "judge"): [0.5, 2.0, 10]}, "attempts": {}}
    assert (first.signal_dispositions, first.changed) == ((APPLIED,), True)
    again = said(first.record, score(0.5, source="judge"), at=99)
    assert (again.signal_dispositions, again.changed, again.touched) == ((DUPLICATE,), False, True)
    assert again.record["signals"] == {key("ant", "eval_score", "judge"): [0.5, 2.0, 99]}  # observed again, and later
    between = said(again.record, score(0.7, source="judge"), at=50)
    assert (between.signal_dispositions, between.changed, between.touched) == ((STALE,), False, False)
    older = said(first.record, score(0.7, source="judge"), at=9)
    assert (older.signal_dispositions, older.changed, older.record) == ((STALE,), False, first.record)
    newer = said(first.record, score(0.7, source="judge", weight=5.0), at=10)
    assert newer.signal_dispositions == (CORRECTED,)
    assert newer.record["signals"] == {key("ant", "eval_score", "judge"): [0.7, 2.0, 10]}  # the first one's weight
    more = said(newer.record, score(0.1, model="bee"), score(0.2), at=11)
    assert more.signal_dispositions == (APPLIED, APPLIED)
    assert len(more.record["signals"]) == 3
    assert first.record["signals"] == {key("ant", "eval_score", "judge"): [0.5, 2.0, 10]}  # nothing is changed in place


def test_attempts_merge_as_wholes() -> None:
    def tried(record: Any, attempt: Attempt, at: int) -> Any:
        return merge(record, drawn="ant", signals=(), attempts=(attempt,), observe_us=at)

    first = tried(None, Attempt(cost_usd=0.5, latency_s=1.0), 10)
    assert first.record["attempts"] == {"ant" + SEPARATOR: {"error": 0, "cost_usd": 0.5, "latency_s": 1.0, "observe_us": 10}}
    assert tried(first.record, Attempt(cost_usd=0.5, latency_s=1.0), 20).attempt_dispositions == (DUPLICATE,)
    assert tried(first.record, Attempt(cost_usd=0.5), 9).attempt_dispositions == (STALE,)
    second = tried(first.record, Attempt(error=ErrorKind.TIMEOUT), 20)
    assert second.attempt_dispositions == (CORRECTED,)
    assert second.record["attempts"] == {"ant" + SEPARATOR: {"error": 1, "observe_us": 20}}
    shadow = tried(second.record, Attempt(cost_usd=0.1, shadow=True), 21)
    assert shadow.attempt_dispositions == (APPLIED,)
    assert len(shadow.record["attempts"]) == 2


def test_keys() -> None:
    assert signal_key(Signal(SignalKind.RATING, 1.0, "user"), "ant") == key("ant", "rating", "user")
    assert signal_key(Signal(SignalKind.RATING, 1.0, "user", model="bee"), "ant") == key("bee", "rating", "user")
    assert attempt_key(Attempt(), "ant") == attempt_key(Attempt(model="ant"), "bee")
    assert attempt_key(Attempt(shadow=True), "ant") != attempt_key(Attempt(), "ant")


def test_overall() -> None:
    assert overall([DUPLICATE, CORRECTED]) is APPLIED
    assert overall([STALE, DUPLICATE]) is STALE
    assert overall([]) is DUPLICATE


@PROFILE
@given(
    st.lists(st.tuples(st.sampled_from(["", "judge"]), st.floats(0, 1), st.integers(0, 1000)), min_size=1, max_size=8,
             unique_by=(lambda item: item[1], lambda item: item[2])),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_the_order_of_arrival_does_not_matter(items: list[tuple[str, float, int]], rng: random.Random) -> None:
    """Whatever order different values arrive in, those observed last stand; a stale one changes nothing."""

    def after(arrivals: list[tuple[str, float, int]]) -> Any:
        record = None
        for source, value, at in arrivals:
            merged = said(record, score(value, source=source), at=at)
            if merged.signal_dispositions == (STALE,):
                assert merged.record == record
            record = merged.record
        return record

    truth = {key("ant", "eval_score", source): [value, 1.0, at] for source, value, at in sorted(items, key=lambda item: item[2])}
    shuffled = list(items)
    rng.shuffle(shuffled)
    for arrivals in (items, shuffled, [*shuffled, *items]):
        assert after(arrivals)["signals"] == truth


def test_fuse_by_hand() -> None:
    one = {key("ant", "rating"): [0.8, 1.0, 0], key("ant", "retried"): [0.0, 0.25, 0], key("bee", "retried"): [1.0, 0.5, 0]}
    fused = fuse(one)
    assert fused == {"ant": (pytest.approx(0.8 / 1.25), 1.0), "bee": (1.0, 0.5)}
    assert fuse({key("ant", "accepted"): [0.4, 0.5, 0]}) == {"ant": (0.4, 0.5)}
    assert fuse({key("ant", "rating"): [0.4, 0.0, 0]}) == {}
    assert fuse({}) == {}


ENTRIES = st.dictionaries(
    st.tuples(st.sampled_from(["ant", "bee"]), st.sampled_from(list(WEIGHTS)), st.sampled_from(["", "s", "t"])),
    st.tuples(st.floats(0.0, 1.0), st.floats(1e-320, 10.0), st.integers(0, 9)),
    max_size=12,
)


@PROFILE
@given(ENTRIES, st.randoms(use_true_random=False))
def test_a_fused_reward_is_at_most_one_observation(entries: dict[tuple[str, str, str], Any], rng: random.Random) -> None:
    record = {key(*name): list(entry) for name, entry in entries.items()}
    fused = fuse(record)
    for reward, weight in fused.values():
        assert 0.0 <= reward <= 1.0
        assert 0.0 < weight <= 1.0
    items = list(record.items())
    rng.shuffle(items)
    assert fuse(dict(items)) == fused  # to the last bit


@pytest.mark.parametrize(
    "bad",
    [[1.5, 1.0, 0], [-0.1, 1.0, 0], [float("nan"), 1.0, 0], [0.5, -0.1, 0], [0.5, 11.0, 0], [0.5, float("nan"), 0], [0.5, 1.0]],
)
def test_fuse_refuses_what_is_no_record(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"out of range|unpack"):
        fuse({key("ant", "rating"): bad})
