from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from banditroute.core.errors import StoreUnavailable
from banditroute.core.types import Candidate, Exclusion, Plan, Reason, RouteQuery
from banditroute.log.sink import SINK_FILE, DecisionSink, SinkRow, find_decision
from banditroute.tokens import uuid7

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
CANDIDATES = (
    Candidate("a", None, 0.8, 0.05, 0.002, 0.7, 1.0),
    Candidate("b", Exclusion.TAG_MISSING, 0.6, 0.2, 0.001, 0.55, 0.0),
)
PLAN = Plan(("a",), (1.0,), CANDIDATES[:1], CANDIDATES, (0.002,), (1.0,), (math.inf,))


def row(number: int, query: RouteQuery | None = None, time_ms: int = NOW_MS) -> SinkRow:
    return SinkRow(uuid7(time_ms, number), time_ms, Reason.ONLY_ELIGIBLE, query or RouteQuery("c"), PLAN)


def kept(directory: Path, numbers: range) -> list[int]:
    return [number for number in numbers if find_decision(directory, row(number).decision) is not None]


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecisionSink]:
    """A sink that writes only when told to."""
    monkeypatch.setattr("banditroute.log.sink.FLUSH_INTERVAL_S", 3600.0)
    sink = DecisionSink(tmp_path, queue_rows=10, retention_s=30 * 86400.0)
    yield sink
    sink.close()


def test_a_decision_can_be_found_again(idle: DecisionSink, tmp_path: Path) -> None:
    query = RouteQuery("c", {"f": 1.5}, input_tokens=900, required_tags=("eu",), request_key="r", labels={"team": "ä"})
    idle.put(row(1, query))
    idle.put(row(2))
    idle.flush()
    found = find_decision(tmp_path, row(1).decision)
    assert found is not None
    assert found["reason"] == "ONLY_ELIGIBLE"
    assert found["request"] == {
        "features": {"f": 1.5}, "input_tokens": 900, "required_tags": ["eu"], "request_key": "r", "labels": {"team": "ä"}
    }  # fmt: skip
    assert [candidate["model"] for candidate in found["candidates"]] == ["a", "b"]
    assert found["candidates"][0] == {
        "model": "a",
        "exclusion": None,
        "lifecycle": "LIVE",
        "quality_mean": 0.8,
        "quality_stddev": 0.05,
        "expected_cost_usd": 0.002,
        "utility_mean": 0.7,
        "propensity": 1.0,
    }
    assert found["candidates"][1]["exclusion"] == Exclusion.TAG_MISSING
    assert find_decision(tmp_path, row(2).decision) == {**found, "request": {}}


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
    (pages,) = idle._db.execute("PRAGMA page_count").fetchone()
    idle._db.execute(f"PRAGMA max_page_count = {pages}")
    big = RouteQuery("c", labels={str(i): "x" * 64 for i in range(16)}, allowed_models=("m" * 96,) * 100)
    for number in range(10):
        idle.put(row(number, big))
    idle.flush()
    assert idle.dropped == 10
    assert "is full" in caplog.text
    assert kept(tmp_path, range(10)) == []
    idle._db.execute("PRAGMA max_page_count = 100000")
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
        sink = DecisionSink(tmp_path, queue_rows=10, retention_s=30 * 86400.0)
        sink.put(row(number, time_ms=NOW_MS - age * DAY_MS))
        sink.close()
    assert find_decision(tmp_path, row(1, time_ms=NOW_MS - 40 * DAY_MS).decision) is None
    assert find_decision(tmp_path, row(2, time_ms=NOW_MS - 20 * DAY_MS).decision) is not None


def test_close_writes_what_waits_and_may_be_repeated(tmp_path: Path) -> None:
    sink = DecisionSink(tmp_path, queue_rows=10_000, retention_s=1.0)
    for number in range(5000):
        sink.put(row(number))
    sink.close()
    sink.close()
    assert sink.dropped == 0
    assert kept(tmp_path, range(0, 5000, 833)) == list(range(0, 5000, 833))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / SINK_FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable, match=SINK_FILE):
        DecisionSink(tmp_path, queue_rows=1, retention_s=1.0)
    with pytest.raises(StoreUnavailable, match=SINK_FILE):
        find_decision(tmp_path, row(1).decision)


def test_the_directorys_name_is_taken_literally(tmp_path: Path) -> None:
    (tmp_path / "a#b?c").mkdir()
    sink = DecisionSink(tmp_path / "a#b?c", queue_rows=1, retention_s=1.0)
    sink.put(row(1))
    sink.close()
    assert find_decision(tmp_path / "a#b?c", row(1).decision) is not None
