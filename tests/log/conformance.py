"""What every `EventLog` must do. A backend subclasses `LogSuite`, says how to open a store, and runs it all.

A backend that lacks a capability names it in `MISSING`, with the reason.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from conformance_feedback import FeedbackSuite
from suite import (
    APPLIED,
    DUPLICATE,
    DURABLE,
    START,
    Clock,
    all_events,
    appended,
    assert_chained,
    checkpoint_at,
    evaluated,
    feedback,
    key_of,
)

from banditroute.core.errors import ConfigReplaced, EventsTrimmed, EventsVanished, StoreClosed, StoreKeyMismatch
from banditroute.core.types import Disposition, Event, EventKind, Transition
from banditroute.log.base import KEPT_CHECKPOINTS, Checkpoint, EventLog


class LogSuite(FeedbackSuite):
    """See the module's text."""

    # --- order ---

    def test_a_fresh_log_is_empty(self, log: EventLog) -> None:
        assert log.tip() == (0, b"")
        assert log.read(0, 10) == []
        assert log.journal(before=None, limit=10) == []
        assert log.newest_checkpoint(oldest=1, newest=1) is None
        assert log.record(key_of(1)) is None
        assert log.log_id
        assert log.epoch == 1

    def test_positions_are_dense_and_the_chain_can_be_recomputed(self, log: EventLog, clock: Clock) -> None:
        appended(log, 3)
        for i in range(5):
            clock.now += 1.5
            log.append_feedback(feedback(i, evaluated(0.1 * i, "richter Ü\u2603"))).result()
        log.append(EventKind.CONFIG, {"document": {"ü": [1, 2.5, None]}}).result()
        events = all_events(log)
        assert [event.position for event in events] == list(range(1, 10))
        assert [event.kind for event in events] == ["operator"] * 3 + ["feedback"] * 5 + ["config"]
        assert_chained(events)
        assert log.tip() == (9, events[-1].chain)

    def test_append_time_never_falls_when_the_clock_jumps_back(self, log: EventLog, clock: Clock) -> None:
        times = []
        for shift in (0.0, 10.0, -1000.0, 5.0, 996.0):
            clock.now += shift
            times.append(appended(log, 1)[0].append_time_us - int(START * 1e6))
        assert times == [0, 10_000_000, 10_000_000, 10_000_000, 11_000_000]

    def test_reading_in_parts_gives_the_whole(self, log: EventLog) -> None:
        events = appended(log, 7)
        parts: list[Event] = []
        while part := log.read(len(parts), 3):
            assert len(part) <= 3
            parts.extend(part)
        assert parts == events
        assert log.read(7, 5) == []
        assert log.read(99, 5) == []
        assert log.read(0, 0) == []

    def test_whoever_read_an_event_that_is_gone_is_told(self, log: EventLog) -> None:
        events = appended(log, 4)
        for after in range(1, 5):
            assert log.read(after, 9, chain=events[after - 1].chain) == events[after:]
            with pytest.raises(EventsVanished, match=str(after)):
                log.read(after, 9, chain=b"another's........")
        assert log.read(0, 2, chain=b"") == events[:2]
        with pytest.raises(EventsVanished):
            log.read(5, 9, chain=events[3].chain)

    def test_a_configuration_replaces_the_one_that_it_names(self, log: EventLog) -> None:
        first = log.append(EventKind.CONFIG, {"n": 1}, replaces=0).result()
        appended(log, 1)
        for wrong in (0, 2):
            with pytest.raises(ConfigReplaced, match="position 1"):
                log.append(EventKind.CONFIG, {"n": 2}, replaces=wrong).result()
        second = log.append(EventKind.CONFIG, {"n": 3}, replaces=first.position).result()
        assert [event.body["n"] for event in all_events(log)] == [1, 0, 3]
        assert log.append(EventKind.CONFIG, {"n": 4}).result().position == second.position + 1

    # --- waiting ---

    def test_wait_times_out_where_nothing_comes(self, log: EventLog) -> None:
        assert not log.wait(0, 0.0)
        appended(log, 1)
        assert log.wait(0, 0.0)
        assert not log.wait(1, 0.0)

    def test_an_append_wakes_who_waits(self, log: EventLog) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting: Future[bool] = pool.submit(log.wait, 0, 60.0)
            appended(log, 1)
            assert waiting.result(60.0)

    def test_close_wakes_who_waits(self, log: EventLog) -> None:
        started = threading.Event()

        def wait() -> bool:
            started.set()
            return log.wait(0, 60.0)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait)
            started.wait()
            log.close()
            with pytest.raises(StoreClosed):
                waiting.result(60.0)

    # --- the journal ---

    def test_journal_holds_configuration_operators_and_transitions_newest_first(self, log: EventLog) -> None:
        log.append(EventKind.CONFIG, {"n": 1}).result()
        log.append_feedback(feedback(1, evaluated(0.5))).result()
        log.append(EventKind.OPERATOR, {"n": 3}).result()
        now = int(START * 1e6)
        found = [Transition(2, 1, now, "event_skipped", {"n": 2}), Transition(2, 2, now, "event_skipped", {"n": 22})]
        assert log.record_transitions(found) == found
        assert log.record_transitions([Transition(2, 1, now, "event_skipped", {"n": "again"})]) == []
        rows = log.journal(before=None, limit=10)
        assert [(row.epoch, row.position, row.index, row.kind, row.body["n"]) for row in rows] == [
            (1, 3, 0, "operator", 3),
            (1, 2, 2, "event_skipped", 22),
            (1, 2, 1, "event_skipped", 2),
            (1, 1, 0, "config", 1),
        ]
        assert {row.append_time_us for row in rows} == {now}

    def test_journal_pages(self, log: EventLog) -> None:
        appended(log, 5)
        log.record_transitions([Transition(3, i, 0, "event_skipped", {}) for i in (1, 2)])
        seen: list[tuple[int, int, int]] = []
        before = None
        while page := log.journal(before=before, limit=2):
            assert len(page) <= 2
            seen += [(row.epoch, row.position, row.index) for row in page]
            before = seen[-1]
        assert seen == [(1, 5, 0), (1, 4, 0), (1, 3, 2), (1, 3, 1), (1, 3, 0), (1, 2, 0), (1, 1, 0)]
        assert log.journal(before=(1, 1, 0), limit=5) == []
        assert log.journal(before=(0, 99, 9), limit=5) == []

    def test_the_journal_forward(self, log: EventLog) -> None:
        assert log.journal_after(None, 10) == []
        appended(log, 5)
        late = [Transition(3, i, 0, "event_skipped", {}) for i in (1, 2)]
        log.record_transitions(late)
        seen: list[tuple[int, int, int]] = []
        after = None
        while page := log.journal_after(after, 2):
            assert len(page) <= 2
            seen += [(row.epoch, row.position, row.index) for row in page]
            after = seen[-1]
        assert seen == [(1, 1, 0), (1, 2, 0), (1, 3, 0), (1, 3, 1), (1, 3, 2), (1, 4, 0), (1, 5, 0)]
        assert [row.position for row in log.journal_after((1, 3, 2**32 - 1), 10)] == [4, 5]
        assert len(log.journal_after((0, 99, 9), 10)) == 7
        assert log.journal_after((2, 0, 0), 10) == []
        assert list(log.journal_after(None, 10)) == list(log.journal(before=None, limit=10))[::-1]

    def test_only_new_lines_are_told(self, log: EventLog) -> None:
        one, two, three = (Transition(1, i, 0, "event_skipped", {"n": i}) for i in (1, 2, 3))
        assert log.record_transitions([one, two]) == [one, two]
        assert log.record_transitions([one, three, two, three]) == [three]
        assert log.record_transitions([]) == []

    # --- readers of the journal ---

    def test_a_cursor_is_where_its_reader_was_and_never_goes_back(self, log: EventLog) -> None:
        assert log.cursor("a") is None
        for key, kept in [((1, 5, 2), (1, 5, 2)), ((1, 5, 1), (1, 5, 2)), ((1, 40, 0), (1, 40, 0)), ((2, 1, 0), (2, 1, 0))]:
            log.save_cursor("a", key)
            assert log.cursor("a") == kept
        assert log.cursor("b") is None

    def test_a_claim_is_one_owners_until_its_lease_is_over(self, log: EventLog, clock: Clock) -> None:
        assert log.claim("a", "one", 10.0)
        assert not log.claim("a", "two", 10.0)
        assert log.claim("b", "two", 10.0)
        clock.now += 9.0
        assert log.claim("a", "one", 10.0)  # renewed
        clock.now += 9.0
        assert not log.claim("a", "two", 10.0)
        clock.now += 1.5
        assert log.claim("a", "two", 10.0)
        assert not log.claim("a", "one", 10.0)
        assert log.claim("a", "two", 0.0)  # given up
        assert log.claim("a", "one", 10.0)

    # --- checkpoints and trimming ---

    def test_the_newest_checkpoint_of_the_version_that_lies_on_the_log(self, log: EventLog) -> None:
        events = appended(log, 6)
        log.save_checkpoint(checkpoint_at(events[3], body=b"four"))
        log.save_checkpoint(checkpoint_at(events[1], body=b"two"))
        log.save_checkpoint(checkpoint_at(events[2], version=2, body=b"three"))
        assert log.newest_checkpoint(oldest=1, newest=1) == checkpoint_at(events[3], body=b"four")
        assert log.newest_checkpoint(oldest=2, newest=2) == checkpoint_at(events[2], version=2, body=b"three")
        assert log.newest_checkpoint(oldest=3, newest=3) is None

    def test_a_checkpoint_of_another_log_is_ignored(self, log: EventLog) -> None:
        events = appended(log, 6)
        log.save_checkpoint(checkpoint_at(events[1]))
        for event in events[2:]:
            log.save_checkpoint(checkpoint_at(event, chain=b"another log's...", body=b"foreign"))
        log.save_checkpoint(Checkpoint(99, events[-1].chain, 1, "", b"behind the end"))
        log.save_checkpoint(Checkpoint(0, b"", 1, "", b"before the start"))
        assert log.newest_checkpoint(oldest=1, newest=1) == checkpoint_at(events[1])

    def test_few_checkpoints_are_kept(self, log: EventLog) -> None:
        """Seen from outside: the versions of the older ones are gone."""
        events = appended(log, 8)
        for event in events:
            log.save_checkpoint(checkpoint_at(event, version=event.position))
        kept = [version for version in range(1, 9) if log.newest_checkpoint(oldest=version, newest=version)]
        assert kept == list(range(9 - KEPT_CHECKPOINTS, 9))

    def test_trim_stops_before_the_newest_checkpoint(self, log: EventLog) -> None:
        events = appended(log, 10)
        assert log.trim(10) == 0
        log.save_checkpoint(checkpoint_at(events[7], chain=b"another log's..."))
        assert log.trim(10) == 0
        log.save_checkpoint(checkpoint_at(events[5]))
        assert log.trim(2) == 2
        assert log.trim(2) == 0
        assert log.read(2, 100) == events[2:]
        with pytest.raises(EventsTrimmed, match="trimmed") as told:
            log.read(1, 100)
        assert told.value.first_position == 3
        assert log.trim(100) == 3
        assert log.newest_checkpoint(oldest=1, newest=1) == checkpoint_at(events[5])
        assert log.read(6, 100) == events[6:]
        with pytest.raises(EventsTrimmed, match="trimmed") as told:
            log.read(0, 100)
        assert told.value.first_position == 6
        assert log.tip() == (10, events[-1].chain)
        assert log.trim(-5) == 0

    def test_a_trimmed_log_goes_on(self, log: EventLog) -> None:
        events = appended(log, 4)
        log.append_feedback(feedback(1, evaluated(0.5))).result()
        tip = log.tip()
        log.save_checkpoint(Checkpoint(*tip, 1, "", b""))
        log.trim(tip.position)
        more = appended(log, 2)
        assert_chained(more, tip.chain)
        assert log.read(tip.position, 10) == more
        assert log.append_feedback(feedback(1, evaluated(0.5))).result().disposition is DUPLICATE
        assert [row.position for row in log.journal(before=None, limit=10)] == [7, 6, 4, 3, 2, 1]
        assert events[0].position == 1

    # --- keys and the end ---

    def test_a_log_made_with_other_keys_is_refused(self, log: EventLog) -> None:
        log.key_checks(["one"])
        log.key_checks(["two", "one"])
        log.key_checks(["two"])
        with pytest.raises(StoreKeyMismatch):
            log.key_checks(["three"])
        log.key_checks(["three", "two"])
        log.key_checks(["three"])

    def test_everything_raises_after_close(self, log: EventLog) -> None:
        (event,) = appended(log, 1)
        log.close()
        log.close()
        uses: list[Callable[[], object]] = [
            lambda: log.append(EventKind.OPERATOR, {}),
            lambda: log.append_feedback(feedback(1, evaluated(0.5))),
            lambda: log.read(0, 1),
            lambda: log.wait(0, 0.0),
            log.tip,
            lambda: log.record(key_of(1)),
            lambda: log.save_checkpoint(checkpoint_at(event)),
            lambda: log.newest_checkpoint(oldest=1, newest=1),
            lambda: log.record_transitions([]),
            lambda: log.journal(before=None, limit=1),
            lambda: log.journal_after(None, 1),
            lambda: log.claim("a", "one", 1.0),
            lambda: log.cursor("a"),
            lambda: log.save_cursor("a", (1, 1, 0)),
            lambda: log.trim(1),
            log.purge_records,
            lambda: log.key_checks(["one"]),
        ]
        for use in uses:
            with pytest.raises(StoreClosed):
                use()

    def test_what_was_accepted_before_close_is_settled(self, log: EventLog) -> None:
        futures = [log.append_feedback(feedback(i, evaluated(0.5))) for i in range(50)]
        log.close()
        assert [future.result(60.0).state_position for future in futures] == list(range(1, 51))

    def test_a_future_cannot_be_cancelled_into_doubt(self, log: EventLog) -> None:
        future = log.append_feedback(feedback(1, evaluated(0.5)))
        assert not future.cancel()
        assert future.result().disposition is APPLIED
        assert appended(log, 1)[0].position == 2

    # --- many at once ---

    def test_everything_acknowledged_from_many_threads_is_there_once(self, log: EventLog) -> None:
        def send(thread: int) -> list[int]:
            futures = []
            for i in range(200):
                number = thread * 200 + i
                futures.append(log.append_feedback(feedback(number, evaluated(0.5), category=f"c{number % 3}")))
                if i % 10 == 0:  # the same again, in between
                    futures.append(log.append_feedback(feedback(number, evaluated(0.5), category=f"c{number % 3}")))
            return [future.result().state_position for future in futures]

        with ThreadPoolExecutor(16) as pool:
            answered = [position for positions in pool.map(send, range(16)) for position in positions]
        events = all_events(log)
        assert len(events) == 16 * 200
        assert_chained(events)
        assert set(answered) == {event.position for event in events}
        for name in ("c0", "c1", "c2"):
            ordinals = [e.body["after"]["ordinal"] for e in events if e.body["decision"]["category"] == name]
            assert ordinals == list(range(1, len(ordinals) + 1))

    def test_one_decisions_values_from_many_threads_end_at_the_newest(self, log: EventLog) -> None:
        def send(i: int) -> Disposition:
            return log.append_feedback(feedback(1, evaluated(i / 100), observe_s=i - 100.0)).result().disposition

        with ThreadPoolExecutor(16) as pool:
            said = list(pool.map(send, range(100)))
        record = log.record(key_of(1))
        assert record is not None
        assert record["signals"]["a\x1feval_score\x1f"][0] == 0.99
        events = all_events(log)
        assert len(events) == said.count(APPLIED)
        for before, event in itertools.pairwise(events):
            assert event.body["before"]["signals"] == before.body["after"]["signals"]

    # --- starting again ---

    def test_a_restart_finds_everything(self, log: EventLog, tmp_path: Path, clock: Clock) -> None:
        self.needs(DURABLE)
        appended(log, 2)
        for number in range(3):
            log.append_feedback(feedback(number, evaluated(0.5), category="x")).result()
        log.record_transitions([Transition(3, 1, 7, "event_skipped", {"n": 1})])
        log.key_checks(["one"])
        log.save_cursor("reader", (1, 3, 1))
        events, tip, rows = all_events(log), log.tip(), log.journal(before=None, limit=10)
        log.save_checkpoint(checkpoint_at(events[3]))
        record = log.record(key_of(2))
        log.close()
        clock.now -= 1000

        again = self.open(tmp_path, clock)
        try:
            assert (again.log_id, again.epoch, again.tip()) == (log.log_id, log.epoch, tip)
            assert all_events(again) == events
            assert again.record(key_of(2)) == record
            assert again.journal(before=None, limit=10) == rows
            assert again.newest_checkpoint(oldest=1, newest=1) == checkpoint_at(events[3])
            assert again.record_transitions([Transition(3, 1, 7, "event_skipped", {"n": 1})]) == []
            assert again.cursor("reader") == (1, 3, 1)
            with pytest.raises(StoreKeyMismatch):
                again.key_checks(["two"])
            assert again.append_feedback(feedback(2, evaluated(0.5), category="x")).result() == (
                DUPLICATE, (DUPLICATE,), (), 5
            )  # fmt: skip
            assert again.append_feedback(feedback(2, evaluated(0.6), category="x")).result().state_position == 6
            again.append_feedback(feedback(9, evaluated(0.5), category="x")).result()
            after = all_events(again)
            assert_chained(after)
            assert [event.body["after"]["ordinal"] for event in after[2:]] == [1, 2, 3, 3, 4]
        finally:
            again.close()

    def test_a_restart_after_trimming_all_goes_on_in_place_and_time(self, log: EventLog, tmp_path: Path, clock: Clock) -> None:
        self.needs(DURABLE)
        events = appended(log, 3)
        log.save_checkpoint(checkpoint_at(events[-1]))
        log.trim(3)
        log.close()
        clock.now -= 1000
        again = self.open(tmp_path, clock)
        try:
            assert again.tip() == (3, events[-1].chain)
            more = appended(again, 1)
            assert more[0].append_time_us == events[-1].append_time_us
            assert_chained(more, events[-1].chain)
            assert again.newest_checkpoint(oldest=1, newest=1) == checkpoint_at(events[-1])
        finally:
            again.close()
