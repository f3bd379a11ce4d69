"""What every `EventLog` must make of feedback."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from suite import (
    APPLIED,
    CORRECTED,
    DUPLICATE,
    STALE,
    START,
    Clock,
    StoreSuite,
    all_events,
    assert_chained,
    evaluated,
    feedback,
    key_of,
)

from banditroute.core.errors import FeedbackWindowOver
from banditroute.core.types import Attempt, Disposition, ErrorKind, Signal
from banditroute.log.base import SKEW_US, EventLog


class FeedbackSuite(StoreSuite):
    """See the module's text."""

    def test_dispositions(self, log: EventLog) -> None:
        def said(*signals: Signal, observe_s: float) -> tuple[Disposition, tuple[Disposition, ...], int]:
            receipt = log.append_feedback(feedback(1, *signals, observe_s=observe_s)).result()
            return receipt.disposition, receipt.signal_dispositions, receipt.state_position

        assert said(evaluated(0.5), observe_s=-50) == (APPLIED, (APPLIED,), 1)
        assert said(evaluated(0.5), observe_s=-50) == (DUPLICATE, (DUPLICATE,), 1)
        assert said(evaluated(0.7), observe_s=-40) == (APPLIED, (CORRECTED,), 2)
        assert said(evaluated(0.9), observe_s=-45) == (STALE, (STALE,), 2)
        assert said(evaluated(0.7), evaluated(0.1, "judge"), observe_s=-40) == (APPLIED, (DUPLICATE, APPLIED), 3)
        assert said(evaluated(0.7), evaluated(0.1, "judge"), observe_s=-40) == (DUPLICATE, (DUPLICATE, DUPLICATE), 3)
        assert said(evaluated(0.2), evaluated(0.2, "judge"), observe_s=-99) == (STALE, (STALE, STALE), 3)
        assert log.tip().position == 3

    def test_attempts_have_dispositions_too(self, log: EventLog) -> None:
        def tried(*attempts: Attempt, observe_s: float) -> tuple[Disposition, ...]:
            return log.append_feedback(feedback(1, attempts=attempts, observe_s=observe_s)).result().attempt_dispositions

        failed, served = Attempt(error=ErrorKind.TIMEOUT, latency_s=9.0), Attempt(input_tokens=10, cost_usd=0.5)
        assert tried(failed, observe_s=-9) == (APPLIED,)
        assert tried(failed, observe_s=-9) == (DUPLICATE,)
        assert tried(served, Attempt(shadow=True), Attempt(model="b"), observe_s=-8) == (CORRECTED, APPLIED, APPLIED)
        assert tried(failed, observe_s=-9) == (STALE,)
        record = log.record(key_of(1))
        assert record is not None
        assert record["attempts"]["a\x1f"] == {
            "error": 0, "input_tokens": 10, "cost_usd": 0.5, "observe_us": int((START - 8) * 1e6)
        }  # fmt: skip
        assert set(record["attempts"]) == {"a\x1f", "a\x1fshadow", "b\x1f"}

    def test_the_newest_observation_wins_in_whatever_order_they_arrive(self, log: EventLog) -> None:
        said = [(-30.0, 0.1), (-20.0, 0.2), (-10.0, 0.3)]
        for number, order in enumerate(itertools.permutations(said)):
            for observe_s, value in order:
                log.append_feedback(feedback(number, evaluated(value), observe_s=observe_s)).result()
            record = log.record(key_of(number))
            assert record is not None
            assert record["signals"]["a\x1feval_score\x1f"] == [0.3, 1.0, int((START - 10) * 1e6)], order

    def test_an_observation_from_the_future_counts_as_now(self, log: EventLog) -> None:
        log.append_feedback(feedback(1, evaluated(0.1), observe_s=3600)).result()
        assert log.append_feedback(feedback(1, evaluated(0.2), observe_s=0)).result().signal_dispositions == (CORRECTED,)

    def test_a_correction_keeps_the_first_weight(self, log: EventLog) -> None:
        log.append_feedback(feedback(1, evaluated(0.1, weight=2.0), observe_s=-9)).result()
        log.append_feedback(feedback(1, evaluated(0.2, weight=5.0), observe_s=-8)).result()
        record = log.record(key_of(1))
        assert record is not None
        assert record["signals"]["a\x1feval_score\x1f"][:2] == [0.2, 2.0]

    def test_an_event_holds_the_record_as_it_was_and_as_it_is(self, log: EventLog, clock: Clock) -> None:
        log.append_feedback(feedback(1, evaluated(0.5))).result()
        clock.now += 1
        log.append_feedback(feedback(1, evaluated(0.7), evaluated(0.1, "judge"))).result()
        first, second = all_events(log)
        signal = ["a\x1feval_score\x1f", "a\x1feval_score\x1fjudge"]
        at = int(START * 1e6)
        assert first.body["decision"] == {"category": "chat", "model": "a", "context": [0.5]}
        assert first.body["before"] is None
        assert first.body["after"] == {
            "ordinal": 1, "position": 1, "newest": 1, "time_us": at, "signals": {signal[0]: [0.5, 1.0, at]}, "attempts": {}
        }  # fmt: skip
        assert second.body["before"]["signals"] == first.body["after"]["signals"]
        assert second.body["after"] == {
            "ordinal": 1,
            "position": 1,
            "newest": 2,
            "time_us": at,
            "signals": {signal[0]: [0.7, 1.0, at + 10**6], signal[1]: [0.1, 1.0, at + 10**6]},
            "attempts": {},
        }
        assert log.record(key_of(1)) == second.body["after"]

    def test_ordinals_are_dense_per_category_and_given_once_per_decision(self, log: EventLog) -> None:
        for number, category in enumerate(["x", "y", "x", "x", "y"]):
            log.append_feedback(feedback(number, evaluated(0.5), category=category)).result()
            log.append_feedback(feedback(number, evaluated(0.6), category=category)).result()
        given = [(e.body["decision"]["category"], e.body["after"]["ordinal"]) for e in all_events(log)]
        assert given[::2] == [("x", 1), ("y", 1), ("x", 2), ("x", 3), ("y", 2)]
        assert given[1::2] == given[::2]

    def test_feedback_past_its_window_is_refused_by_the_stores_clock(self, log: EventLog, clock: Clock) -> None:
        expire_us = int((START + 60) * 1e6)
        clock.now = START + 60
        log.append_feedback(feedback(1, evaluated(0.5), expire_us=expire_us)).result()
        clock.now += 0.001
        with pytest.raises(FeedbackWindowOver):
            log.append_feedback(feedback(1, evaluated(0.6), expire_us=expire_us)).result()
        clock.now = START  # a clock that jumps back does not open the window again
        with pytest.raises(FeedbackWindowOver):
            log.append_feedback(feedback(2, evaluated(0.5), expire_us=expire_us)).result()
        assert log.tip().position == 1

    def test_records_outlive_their_ids_and_are_purged_then(self, log: EventLog, clock: Clock) -> None:
        self.needs("purging")
        expire_us = int((START + 60) * 1e6)
        log.append_feedback(feedback(1, evaluated(0.5), expire_us=expire_us)).result()
        log.append_feedback(feedback(2, evaluated(0.5))).result()
        clock.now = (expire_us + SKEW_US) / 1e6
        assert log.purge_records() == 0
        assert log.record(key_of(1)) is not None
        clock.now += 0.001
        assert log.purge_records() == 1
        assert log.record(key_of(1)) is None
        assert log.record(key_of(2)) is not None

    def test_a_shortened_window_does_not_shorten_a_records_life(self, log: EventLog, clock: Clock) -> None:
        log.append_feedback(feedback(1, evaluated(0.5))).result()
        log.append_feedback(feedback(1, evaluated(0.6), expire_us=int((START + 1) * 1e6))).result()
        clock.now = START + 2 + SKEW_US / 1e6
        assert log.purge_records() == 0

    def test_an_unwritable_item_fails_alone(self, log: EventLog) -> None:
        """Others that came in with it are kept."""
        numbers = range(20)

        def send(number: int) -> bool:
            poison: Any = object() if number == 7 else 0.5
            try:
                log.append_feedback(feedback(number, evaluated(poison))).result()
            except TypeError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert [number for number, kept in zip(numbers, pool.map(send, numbers), strict=True) if not kept] == [7]
        assert_chained(all_events(log))
        assert log.tip().position == 19
        assert sorted(event.body["after"]["ordinal"] for event in all_events(log)) == list(range(1, 20))
        assert log.record(key_of(7)) is None
