from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conformance import LogSuite
from suite import Clock, all_events, appended, assert_chained, checkpoint_at, evaluated, feedback, key_of

from banditroute.core.errors import StoreError, StoreInUse, StoreTooNew, StoreUnavailable
from banditroute.core.types import EventKind
from banditroute.log.base import EventLog
from banditroute.log.sqlite import LOG_FILE, SqliteLog
from banditroute.log.sqlite_file import FORMAT_VERSION


class TestSqliteLog(LogSuite):
    def open(self, place: Path, clock: Callable[[], float]) -> EventLog:
        return SqliteLog(place, clock)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "state", Clock())
    yield log
    log.close()


def closed_log(directory: Path) -> None:
    log = SqliteLog(directory, Clock())
    appended(log, 2)
    log.close()


def test_it_commits_to_the_disk(log: SqliteLog) -> None:
    assert log._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert log._writer.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    closed_log(tmp_path)
    with sqlite3.connect(tmp_path / LOG_FILE) as db:
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    db.close()
    for read_only in (False, True):
        with pytest.raises(StoreTooNew, match=f"format {FORMAT_VERSION + 1}.*upgrade banditroute"):
            SqliteLog(tmp_path, Clock(), read_only=read_only)
    with pytest.raises(StoreTooNew):  # the first refusal has let go of the directory
        SqliteLog(tmp_path, Clock())


def test_a_second_owner_is_refused(log: SqliteLog, tmp_path: Path) -> None:
    with pytest.raises(StoreInUse, match=str(tmp_path / "state")):
        SqliteLog(tmp_path / "state", Clock())
    appended(log, 1)
    log.close()
    SqliteLog(tmp_path / "state", Clock()).close()


def test_a_claim_ends_with_its_process(log: SqliteLog, tmp_path: Path) -> None:
    """Nobody waits for the lease of a process that was killed: who owns the directory is alone."""
    assert log.claim("reader", "one", 3600.0)
    log.close()
    again = SqliteLog(tmp_path / "state", Clock())
    assert again.claim("reader", "two", 3600.0)
    again.close()


def test_an_owner_in_another_process_is_refused(log: SqliteLog, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from banditroute.log.sqlite import SqliteLog\n"
        "try: SqliteLog(Path(sys.argv[1]), time.time)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state")], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(f"StoreInUse state directory {tmp_path / 'state'} is in use by another process (pid ")


def test_others_may_read_while_it_is_owned_and_when_not(log: SqliteLog, tmp_path: Path) -> None:
    events = appended(log, 3)
    log.append_feedback(feedback(1, evaluated(0.5))).result()
    log.save_checkpoint(checkpoint_at(events[1]))
    for _ in range(2):
        reader = SqliteLog(tmp_path / "state", Clock(), read_only=True)
        assert reader.log_id == log.log_id
        assert list(reader.read(0, 3)) == events
        assert reader.tip().position == 4
        assert reader.record(key_of(1)) is not None
        assert reader.newest_checkpoint(oldest=1, newest=1) == checkpoint_at(events[1])
        assert [row.position for row in reader.journal(before=None, limit=9)] == [3, 2, 1]
        with pytest.raises(StoreUnavailable, match="read-only"):
            reader.append(EventKind.OPERATOR, {})
        reader.close()
        log.close()


def test_a_reader_follows_what_is_written(log: SqliteLog, tmp_path: Path) -> None:
    reader = SqliteLog(tmp_path / "state", Clock(), read_only=True)
    events = appended(log, 2)
    assert list(reader.read(0, 9)) == events
    reader.close()


def test_reading_only_what_is_not_there_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="nothing was served"):
        SqliteLog(tmp_path / "none", Clock(), read_only=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a#b", "a?mode=ro", "100%41", "mit Leerzeichen ü"])
def test_the_directorys_name_is_taken_literally(tmp_path: Path, name: str) -> None:
    closed_log(tmp_path / name)
    assert (tmp_path / name / LOG_FILE).exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="file"):
        SqliteLog(tmp_path / "file", Clock())
    with pytest.raises(StoreUnavailable, match="state"):
        SqliteLog(tmp_path / "file" / "state", Clock())


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable):
        SqliteLog(tmp_path, Clock())


def set_quota(log: SqliteLog, pages: int) -> None:
    """How large the file may become; the pages that it has are always allowed."""
    log._writer.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_is_unavailable_half_writes_nothing_and_is_got_over(log: SqliteLog, tmp_path: Path) -> None:
    appended(log, 1)
    set_quota(log, 40)
    kept, refused = [], []
    for number in range(1000):
        try:
            log.append_feedback(feedback(number, evaluated(0.5, "s" * 60), category=f"c{number % 2}")).result()
        except StoreUnavailable as error:
            assert "free space" in str(error)
            refused.append(number)
            if len(refused) == 5:
                break
        else:
            kept.append(number)
    assert len(refused) == 5
    assert kept
    for use in (
        lambda: log.append(EventKind.CONFIG, {"text": "x" * 10_000}).result(),
        lambda: log.save_checkpoint(checkpoint_at(all_events(log)[-1], body=b"x" * 100_000)),
    ):
        with pytest.raises(StoreUnavailable):
            use()

    def assert_whole(log: EventLog) -> None:
        events = all_events(log)
        assert_chained(events)
        assert len(events) == 1 + len(kept) == log.tip().position
        assert all(log.record(key_of(number)) is not None for number in kept)
        assert all(log.record(key_of(number)) is None for number in refused)
        for name in ("c0", "c1"):
            ordinals = [e.body["after"]["ordinal"] for e in events[1:] if e.body["decision"]["category"] == name]
            assert ordinals == list(range(1, len(ordinals) + 1))

    assert_whole(log)
    set_quota(log, 100_000)
    for number in refused:
        log.append_feedback(feedback(number, evaluated(0.5), category=f"c{number % 2}")).result()
        kept.append(number)
    refused.clear()
    assert_whole(log)
    log.close()
    again = SqliteLog(tmp_path / "state", Clock())
    assert_whole(again)
    again.close()


def test_a_full_disk_fails_all_of_a_group_alike(log: SqliteLog) -> None:
    appended(log, 1)
    (pages,) = log._writer.execute("PRAGMA page_count").fetchone()
    set_quota(log, pages + 2)

    def send(number: int) -> bool:
        try:
            log.append_feedback(feedback(number, evaluated(0.5, "s" * 60))).result()
        except StoreError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        kept = [number for number, done in enumerate(pool.map(send, range(200))) if done]
    assert 0 < len(kept) < 200
    assert_chained(all_events(log))
    assert {number for number in range(200) if log.record(key_of(number)) is not None} == set(kept)
    assert log.tip().position == 1 + len(kept)


def test_a_clock_that_fails_does_not_stop_the_writer(tmp_path: Path) -> None:
    clock = Clock()
    broken = [False]

    def reading() -> float:
        if broken[0]:
            raise OSError("no clock")
        return clock()

    log = SqliteLog(tmp_path, reading)
    broken[0] = True
    with pytest.raises(OSError, match="no clock"):
        appended(log, 1)
    broken[0] = False
    assert appended(log, 1)[0].position == 1
    log.close()


def test_events_older_than_the_recent_ones_come_from_the_file(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    events = appended(log, 20)
    while len(log._recent) > 5:
        log._recent.popleft()
    assert list(log.read(3, 4)) == events[3:7]
    assert list(log.read(13, 4)) == events[13:17]
    assert list(log.read(15, 40)) == events[15:]
    assert list(log.read(0, 40)) == events


def test_an_event_that_comes_while_reading_is_no_gap(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that asked before the append, and looks at the end after it, has missed nothing."""
    query = log._query

    def slow_query(sql: str, parameters: tuple[object, ...] = ()) -> list[object]:
        rows = query(sql, parameters)
        if "FROM events" in sql:
            appended(log, 1)
        return rows

    monkeypatch.setattr(log, "_query", slow_query)
    assert log.read(0, 10) == []
