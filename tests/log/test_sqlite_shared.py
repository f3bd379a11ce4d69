"""The SQLite log as workers share it: the whole suite for one, and for two at once on one directory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import pytest
from conformance import LogSuite
from suite import DUPLICATE, Clock, all_events, appended, assert_chained, checkpoint_at, evaluated, feedback, key_of

from banditroute.core.errors import ConfigReplaced, EventsTrimmed, FeedbackWindowOver, StoreInUse
from banditroute.core.types import Event, EventKind
from banditroute.log.base import EventLog
from banditroute.log.ownership import Ownership
from banditroute.log.sqlite import SqliteLog
from banditroute.log.sqlite_shared import SharedSqliteLog


class TestAlone(LogSuite):
    def open(self, place: Path, clock: Callable[[], float]) -> EventLog:
        return SharedSqliteLog(place, clock)


class Pair:
    """Two logs on one directory; every call goes to the other one than the call before."""

    def __init__(self, place: Path, clock: Callable[[], float]) -> None:
        self._both = SharedSqliteLog(place, clock), SharedSqliteLog(place, clock)
        self._turns = itertools.cycle(self._both)

    def __getattr__(self, name: str) -> Any:
        return getattr(next(self._turns), name)

    def close(self) -> None:
        for log in self._both:
            log.close()


class TestInTurn(LogSuite):
    def open(self, place: Path, clock: Callable[[], float]) -> EventLog:
        return cast(EventLog, Pair(place, clock))

    def test_what_was_accepted_before_close_is_settled(self, log: EventLog) -> None:
        """Which of two logs writes first is open."""
        futures = [log.append_feedback(feedback(i, evaluated(0.5))) for i in range(50)]
        log.close()
        assert {future.result(60.0).state_position for future in futures} == set(range(1, 51))

    def test_feedback_past_its_window_is_refused_by_the_stores_clock(self, log: EventLog, clock: Clock) -> None:
        """What one of them refuses is written nowhere: a clock that jumps back shows to the other what was appended last."""
        old = feedback(1, evaluated(0.5), expire_us=int(clock.now * 1e6))
        clock.now += 60.0
        appended(log, 1)
        clock.now -= 60.0
        for _ in range(2):
            with pytest.raises(FeedbackWindowOver):
                log.append_feedback(old).result()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logs(tmp_path: Path, clock: Clock) -> Iterator[list[SharedSqliteLog]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(SharedSqliteLog(tmp_path, clock))) for _ in range(3)]


def ordinals(events: list[Event], category: str) -> list[int]:
    mine = [e.body["after"] for e in events if e.kind == EventKind.FEEDBACK and e.body["decision"]["category"] == category]
    return [after["ordinal"] for after in mine]


def test_opened_at_once_they_make_one_log(tmp_path: Path, clock: Clock) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: SharedSqliteLog(tmp_path / "new", clock), range(8)))
    assert len({log.log_id for log in opened}) == 1
    for log in opened:
        log.close()


def test_three_at_once_write_one_chain_and_everything_once(logs: list[SharedSqliteLog]) -> None:
    """Each decision's feedback is sent to all three: one of them takes it, and the others know it."""

    def send(at: int) -> list[tuple[int, bool]]:
        log = logs[at % 3]
        futures = [log.append_feedback(feedback(i, evaluated(0.5), category=f"c{i % 4}")) for i in range(300)]
        answers = [future.result(60.0) for future in futures]
        return [(answer.state_position, answer.disposition is DUPLICATE) for answer in answers]

    with ThreadPoolExecutor(6) as pool:
        answered = list(pool.map(send, range(6)))
    for log in logs:
        events = all_events(log)
        assert len(events) == 300
        assert_chained(events)
        assert log.tip() == (300, events[-1].chain)
        for number in range(4):
            assert ordinals(events, f"c{number}") == list(range(1, 76))
    for answers in zip(*answered, strict=True):
        assert len({position for position, _ in answers}) == 1
        assert [duplicate for _, duplicate in answers].count(False) == 1


def test_what_one_writes_the_others_know_at_once(logs: list[SharedSqliteLog], clock: Clock) -> None:
    one, two, three = logs
    clock.now += 5.0
    (event,) = appended(one, 1)
    clock.now -= 1000.0
    (later,) = appended(two, 1)
    assert later.append_time_us == event.append_time_us
    assert three.read(0, 9) == [event, later]
    assert three.wait(1, 0.0)
    one.save_cursor("hook", (1, 2, 0))
    assert three.cursor("hook") == (1, 2, 0)
    one.append_feedback(feedback(1, evaluated(0.5))).result()
    assert two.record(key_of(1)) == three.record(key_of(1)) is not None


def test_an_append_elsewhere_wakes_who_waits(logs: list[SharedSqliteLog]) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(logs[0].wait, 0, 60.0)
        appended(logs[1], 1)
        assert waiting.result(60.0)


def test_one_of_those_who_replace_a_configuration_does(logs: list[SharedSqliteLog]) -> None:
    futures = [log.append(EventKind.CONFIG, {"n": i}, replaces=0) for i, log in enumerate(logs)]
    errors = [future.exception(60.0) for future in futures]
    assert sorted(str(error) for error in errors) == ["None", *["the configuration was changed at position 1"] * 2]
    assert {type(error) for error in errors if error} == {ConfigReplaced}
    assert len(all_events(logs[0])) == 1


def test_a_claim_is_one_processs(logs: list[SharedSqliteLog], clock: Clock) -> None:
    one, two, _ = logs
    assert one.claim("hook", "a", 10.0)
    assert not two.claim("hook", "b", 10.0)
    one.close()  # as if it were killed: nobody gave it up
    assert not two.claim("hook", "b", 10.0)
    clock.now += 10.0
    assert two.claim("hook", "b", 10.0)


def test_the_first_checkpoint_of_a_place_stays_and_tells_the_others(logs: list[SharedSqliteLog]) -> None:
    event = appended(logs[0], 2)[1]
    first, second = checkpoint_at(event), checkpoint_at(event, body=b"another state")._replace(digest="other")
    assert logs[0].save_checkpoint(first) == first.digest
    assert logs[1].save_checkpoint(second) == first.digest
    assert logs[2].newest_checkpoint(oldest=1, newest=1) == first
    newer = second._replace(fold_version=2)
    assert logs[1].save_checkpoint(newer) == newer.digest


def test_what_one_trims_and_purges_is_gone_for_all(logs: list[SharedSqliteLog], clock: Clock) -> None:
    one, two, _ = logs
    old = feedback(1, evaluated(0.5), expire_us=int(clock.now * 1e6))
    one.append_feedback(old).result()
    events = appended(two, 4)
    two.save_checkpoint(checkpoint_at(events[-1]))
    assert two.trim(4) == 4
    with pytest.raises(EventsTrimmed):
        one.read(0, 9)
    clock.now += 86_400.0
    assert two.purge_records() == 1
    with pytest.raises(FeedbackWindowOver, match="no longer remembered"):
        one.append_feedback(old._replace(expire_us=int(clock.now * 1e6) + 10**6)).result()


PROCESS = """
import json, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from suite import evaluated, feedback
from banditroute.log.sqlite_shared import SharedSqliteLog
log = SharedSqliteLog(Path(sys.argv[1]), time.time)
print("open", flush=True)
sys.stdin.readline()
far = 2**62
futures = [log.append_feedback(feedback(i, evaluated(0.5), expire_us=far)) for i in range(int(sys.argv[2]))]
print(json.dumps([future.result().state_position for future in futures]), flush=True)
log.close()
"""


def test_processes_write_one_chain_and_one_that_is_killed_leaves_it_whole(tmp_path: Path) -> None:
    """All send the same feedback; the last one dies in the midst of it."""
    command = [sys.executable, "-c", PROCESS, str(tmp_path), "400", str(Path(__file__).parent)]
    with ExitStack() as stack:
        running = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(4)
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        running[-1].kill()
        said = [process.communicate(timeout=60)[0] for process in running[:-1]]
    answers = [json.loads(text) for text in said]
    assert answers[0] == answers[1] == answers[2]
    with closing(SqliteLog(tmp_path, Clock())) as log:  # and one process may have it for itself again
        events = all_events(log)
    assert_chained(events)
    assert sorted(answers[0]) == [event.position for event in events] == list(range(1, 401))
    assert ordinals(events, "chat") == list(range(1, 401))


def test_a_directory_is_owned_until_the_last_of_its_workers_ended(tmp_path: Path) -> None:
    owned = Ownership(tmp_path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[owned.handle]) as worker:
        owned.close()
        with pytest.raises(StoreInUse):
            Ownership(tmp_path)
        worker.communicate()
    Ownership(tmp_path).close()
