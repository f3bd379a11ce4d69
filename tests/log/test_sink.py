from __future__ import annotations

import json
import math
import sqlite3
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from banditroute.core.errors import StoreUnavailable
from banditroute.core.types import Candidate, Exclusion, Plan, Reason, RouteQuery
from banditroute.log.sink import DecisionSink, StoredBatch
from banditroute.log.sink_codec import KeptDecision, SinkRow, decoded
from banditroute.log.sink_sqlite import SINK_FILE, SqliteSinkReader, SqliteSinkWriter
from banditroute.tokens import uuid7

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
CANDIDATES = (
    Candidate("a", None, 0.8, 0.05, 0.002, 0.7, 1.0),
    Candidate("b", Exclusion.TAG_MISSING, 0.6, 0.2, 0.001, 0.55, 0.0),
)
PLAN = Plan(("a",), (1.0,), CANDIDATES[:1], CANDIDATES, (0.002,), (1.0,), (math.inf,))


def row(number: int, query: RouteQuery | None = None, time_ms: int = NOW_MS) -> SinkRow:
    return SinkRow(uuid7(time_ms, number), time_ms, Reason.ONLY_ELIGIBLE, query or RouteQuery("c"), PLAN, 0)


def opened(directory: Path, *, queue_rows: int = 10, retention_s: float = 30 * 86400.0) -> DecisionSink:
    return DecisionSink(SqliteSinkWriter(directory, retention_s=retention_s), queue_rows=queue_rows)


def find_decision(directory: Path, decision: bytes) -> KeptDecision | None:
    return SqliteSinkReader(directory).find(decision)


def kept(directory: Path, numbers: range) -> list[int]:
    return [number for number in numbers if find_decision(directory, row(number).decision) is not None]


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecisionSink]:
    """A sink that writes only when told to."""
    monkeypatch.setattr("banditroute.log.sink.FLUSH_INTERVAL_S", 3600.0)
    sink = opened(tmp_path)
    yield sink
    sink.close()


def test_a_decision_can_be_found_again(idle: DecisionSink, tmp_path: Path) -> None:
    query = RouteQuery("c", {"f": 1.5}, input_tokens=900, required_tags=("eu",), request_key="r", labels={"team": "ä"})
    idle.put(row(1, query))
    idle.put(row(2))
    idle.flush()
    found = find_decision(tmp_path, row(1).decision)
    assert found is not None
    assert found.reason is Reason.ONLY_ELIGIBLE
    assert found.request == {
        "features": {"f": 1.5}, "input_tokens": 900, "required_tags": ["eu"], "request_key": "r", "labels": {"team": "ä"}
    }  # fmt: skip
    assert found.candidates == CANDIDATES
    assert (found.category, found.chosen) == ("c", CANDIDATES[0])
    second = row(2).decision
    assert find_decision(tmp_path, second) == found._replace(decision=second.hex(), request={})


def test_what_was_never_kept_is_none(idle: DecisionSink, tmp_path: Path) -> None:
    assert find_decision(tmp_path, row(1).decision) is None
    assert find_decision(tmp_path / "elsewhere", row(1).decision) is None


def test_a_full_queue_drops_counts_and_says_so(idle: DecisionSink, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(14):
        idle.put(row(number))
    assert idle.dropped == 4
    idle.flush()
    idle.put(row(20))
    idle.flush()
    assert idle.dropped == 4
    assert [word in caplog.text for word in ("decisions were dropped", "'count': 4", "the queue was full")] == [True] * 3
    assert len(caplog.records) == 1  # not at every batch
    assert kept(tmp_path, range(21)) == [*range(10), 20]


def test_a_disk_that_fails_drops_and_counts_and_is_got_over(
    idle: DecisionSink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(idle._writer, SqliteSinkWriter)
    (pages,) = idle._writer._db.execute("PRAGMA page_count").fetchone()
    idle._writer._db.execute(f"PRAGMA max_page_count = {pages}")
    big = RouteQuery("c", labels={str(i): "x" * 64 for i in range(16)}, allowed_models=("m" * 96,) * 100)
    for number in range(10):
        idle.put(row(number, big))
    idle.flush()
    assert idle.dropped == 10
    assert "is full" in caplog.text
    assert kept(tmp_path, range(10)) == []
    idle._writer._db.execute("PRAGMA max_page_count = 100000")
    idle.put(row(11, big))
    idle.flush()
    assert kept(tmp_path, range(12)) == [11]


def test_a_row_that_cannot_be_written_stops_nothing(idle: DecisionSink, tmp_path: Path) -> None:
    single: Any = np.float32(0.5)
    idle.put(row(3, RouteQuery("c", {"f": single})))
    idle.flush()
    assert idle.dropped == 0
    unwritable: Any = object()
    idle.put(row(1, RouteQuery("c", {"f": unwritable})))
    idle.flush()
    idle.put(row(2))
    idle.flush()
    assert idle.dropped == 1
    assert find_decision(tmp_path, row(2).decision) is not None
    assert find_decision(tmp_path, row(3).decision) is not None


def test_old_rows_go(tmp_path: Path) -> None:
    for age, number in ((40, 1), (20, 2), (0, 3)):
        sink = opened(tmp_path)
        sink.put(row(number, time_ms=NOW_MS - age * DAY_MS))
        sink.close()
    assert find_decision(tmp_path, row(1, time_ms=NOW_MS - 40 * DAY_MS).decision) is None
    assert find_decision(tmp_path, row(2, time_ms=NOW_MS - 20 * DAY_MS).decision) is not None


def test_close_writes_what_waits_and_may_be_repeated(tmp_path: Path) -> None:
    sink = opened(tmp_path, queue_rows=10_000, retention_s=1.0)
    for number in range(5000):
        sink.put(row(number))
    sink.close()
    sink.close()
    assert sink.dropped == 0
    assert kept(tmp_path, range(0, 5000, 833)) == list(range(0, 5000, 833))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / SINK_FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable, match=SINK_FILE):
        opened(tmp_path)
    with pytest.raises(StoreUnavailable, match=SINK_FILE):
        find_decision(tmp_path, row(1).decision)


def test_the_directorys_name_is_taken_literally(tmp_path: Path) -> None:
    (tmp_path / "a#b?c").mkdir()
    sink = opened(tmp_path / "a#b?c")
    sink.put(row(1))
    sink.close()
    assert find_decision(tmp_path / "a#b?c", row(1).decision) is not None


# --- reading in order ---


def put(directory: Path, *batches: range, time_ms: int = NOW_MS) -> None:
    for batch in batches:
        sink = opened(directory, queue_rows=1000)
        for number in batch:
            sink.put(row(number, time_ms=time_ms))
        sink.close()


def numbers_of(batch: StoredBatch) -> list[int]:
    return [int(each.decision, 16) & 0xFFFF for each in decoded(batch.rows, batch.numbers)]


def test_batches_are_read_in_order_and_from_a_cursor_on(tmp_path: Path) -> None:
    put(tmp_path, range(3), range(3, 5))
    reader = SqliteSinkReader(tmp_path)
    first, second = reader.batches(None)
    assert [numbers_of(first), numbers_of(second)] == [[0, 1, 2], [3, 4]]
    assert (first.lost_count, second.lost_count, reader.count_after(None)) == (0, 0, 2)
    cursor = json.loads(json.dumps(first.cursor))
    assert [numbers_of(batch) for batch in reader.batches(cursor)] == [[3, 4]]
    assert (list(reader.batches(second.cursor)), reader.count_after(cursor)) == ([], 1)
    put(tmp_path, range(5, 6))
    assert [numbers_of(batch) for batch in reader.batches(second.cursor)] == [[5]]


def test_pages_are_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banditroute.log.sink_sqlite.PAGE_BATCHES", 2)
    put(tmp_path, *[range(i, i + 1) for i in range(5)])
    assert [numbers_of(batch) for batch in SqliteSinkReader(tmp_path).batches(None)] == [[0], [1], [2], [3], [4]]


def test_what_is_no_longer_kept_is_counted_and_what_is_too_early_left_out(tmp_path: Path) -> None:
    put(tmp_path, range(1), range(1, 2), range(2, 3), time_ms=NOW_MS - DAY_MS)
    put(tmp_path, range(3, 4))
    reader = SqliteSinkReader(tmp_path)
    (late,) = reader.batches(None, since_ms=NOW_MS)
    assert (numbers_of(late), late.lost_count) == ([3], 0)
    first = next(iter(reader.batches(None)))
    with sqlite3.connect(tmp_path / SINK_FILE) as db:
        db.execute("DELETE FROM batches WHERE rowid IN (2, 3)")
    db.close()
    assert [(numbers_of(batch), batch.lost_count) for batch in reader.batches(first.cursor)] == [([3], 2)]


def test_a_sink_that_was_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    put(tmp_path, range(2))
    (before,) = SqliteSinkReader(tmp_path).batches(None)
    for file in tmp_path.iterdir():
        file.unlink()
    put(tmp_path, range(2, 4))
    assert [numbers_of(batch) for batch in SqliteSinkReader(tmp_path).batches(before.cursor)] == [[2, 3]]


def test_a_file_of_before_is_read_and_written_on(tmp_path: Path) -> None:
    key = row(1).decision
    rows = f'{{"rows": [["{key.hex()}", {NOW_MS}, 4, {{}}, 0]], "plans": [[["a", "b"], {{"b": 3}}]]}}'
    numbers = array("d", [0.8, 0.05, 0.002, 0.7, 1.0, 0.6, 0.2, 0.001, 0.55, 0.0]).tobytes()
    with sqlite3.connect(tmp_path / SINK_FILE) as db:
        db.execute("CREATE TABLE batches (first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, rows TEXT NOT NULL, numbers BLOB)")
        db.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (NOW_MS, NOW_MS, rows, numbers))
    db.close()
    reader = SqliteSinkReader(tmp_path)
    old = KeptDecision(key.hex(), NOW_MS, Reason.ONLY_ELIGIBLE, {}, CANDIDATES, None, None)
    assert reader.find(key) == old
    (batch,) = reader.batches(None)
    assert decoded(batch.rows, batch.numbers) == [old]
    put(tmp_path, range(2, 3))
    assert [numbers_of(each) for each in reader.batches(batch.cursor)] == [[2]]
    assert [numbers_of(each) for each in reader.batches(None)] == [[1], [2]]
