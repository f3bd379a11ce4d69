from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis_servers import RedisServer, binaries, serving

from banditroute.core.errors import StoreUnavailable
from banditroute.core.types import Candidate, Plan, Reason, RouteQuery
from banditroute.log.redis import RedisLog
from banditroute.log.sink import DecisionSink, StoredBatch
from banditroute.log.sink_codec import SinkRow, decoded
from banditroute.log.sink_redis import RedisSinkReader, RedisSinkWriter
from banditroute.redis_address import Durability, parse_address
from banditroute.tokens import uuid7

SERVERS = binaries()
CANDIDATES = (Candidate("a", None, 0.8, 0.05, 0.002, 0.7, 1.0),)
PLAN = Plan(("a",), (1.0,), CANDIDATES, CANDIDATES, (0.002,), (1.0,), (math.inf,))
BIG, LONG_S = 10**9, 30 * 86400.0


@pytest.fixture(scope="module", params=["redis-6.2", "redis-8", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if request.param not in SERVERS:
        pytest.skip(f"no {request.param} server is installed here")
    with serving(SERVERS[request.param], tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def log(server: RedisServer, tmp_path: Path) -> Iterator[RedisLog]:
    address = parse_address(server.url)
    with closing(RedisLog(address, namespace=tmp_path.name, durability=Durability(), timeout_s=5.0)) as log:
        yield log


def row(number: int, time_ms: int) -> SinkRow:
    return SinkRow(uuid7(time_ms, number), time_ms, Reason.ONLY_ELIGIBLE, RouteQuery("c", input_tokens=number), PLAN, 0)


def write(log: RedisLog, *numbers: int, time_ms: int | None = None, kept_bytes: int = BIG, retention_s: float = LONG_S) -> int:
    """One batch for each number; the time of their decisions."""
    made = int(time.time() * 1000) if time_ms is None else time_ms
    for number in numbers:
        writer = RedisSinkWriter(log.sink_stream, kept_bytes=kept_bytes, retention_s=retention_s)
        with closing(DecisionSink(writer, queue_rows=10)) as sink:
            sink.put(row(number, made))
        assert sink.dropped == 0
    return made


def numbers_in(batches: list[StoredBatch]) -> list[int]:
    return [held.request["input_tokens"] for batch in batches for held in decoded(batch.rows, batch.numbers)]


def test_a_decision_can_be_found_again(log: RedisLog) -> None:
    reader = RedisSinkReader(log.sink_stream)
    assert not reader.exists
    assert reader.find(row(1, 0).decision) is None
    made = write(log, *range(40))
    found = reader.find(row(7, made).decision)
    assert found is not None
    assert (found.category, found.chosen, found.request) == ("c", CANDIDATES[0], {"input_tokens": 7})
    assert reader.find(row(99, made).decision) is None
    assert reader.exists


def test_a_reader_goes_on_where_it_was(log: RedisLog) -> None:
    reader = RedisSinkReader(log.sink_stream)
    assert list(reader.batches(None)) == []
    write(log, *range(70))
    first = list(reader.batches(None))
    assert numbers_in(first) == list(range(70))
    assert reader.count_after(first[49].cursor) == 20
    assert numbers_in(list(reader.batches(first[49].cursor))) == list(range(50, 70))
    assert list(reader.batches(first[-1].cursor)) == []
    write(log, 70)
    assert numbers_in(list(reader.batches(first[-1].cursor))) == [70]
    other = {**first[49].cursor, "log": "another"}
    assert len(list(reader.batches(other))) == reader.count_after(other) == 71


def test_the_stream_is_bounded_and_a_reader_told_what_it_missed(log: RedisLog) -> None:
    write(log, *range(10))
    reader = RedisSinkReader(log.sink_stream)
    (first, *_), size = list(reader.batches(None)), 0
    size = len(first.rows) + len(first.numbers)
    write(log, *range(10, 30), kept_bytes=5 * size + size // 2)
    left = list(reader.batches(first.cursor))
    assert numbers_in(left) == list(range(25, 30))
    assert [batch.lost_count for batch in left] == [24, 0, 0, 0, 0]
    assert reader.count_after(None) == 5


def test_what_is_too_old_goes(log: RedisLog) -> None:
    old = int(time.time() * 1000) - 3_600_000
    write(log, 1, 2, time_ms=old)
    write(log, 3, retention_s=60.0)
    assert numbers_in(list(RedisSinkReader(log.sink_stream).batches(None))) == [3]


def test_what_is_too_old_is_left_out(log: RedisLog) -> None:
    old = int(time.time() * 1000) - 3_600_000
    write(log, 1, time_ms=old)
    now = write(log, 2)
    assert numbers_in(list(RedisSinkReader(log.sink_stream).batches(None, since_ms=now))) == [2]


def test_a_server_that_is_away_drops_rows_and_counts_them(log: RedisLog, tmp_path: Path) -> None:
    with serving(next(iter(SERVERS.values())), tmp_path / "own") as own:
        address = parse_address(own.url)
        with closing(RedisLog(address, namespace="n", durability=Durability(), timeout_s=1.0)) as other:
            writer = RedisSinkWriter(other.sink_stream, kept_bytes=BIG, retention_s=LONG_S)
            with closing(DecisionSink(writer, queue_rows=10)) as sink:
                own.kill()
                sink.put(row(1, 0))
                sink.flush()
                assert sink.dropped == 1
                own.start()
            with pytest.raises(StoreUnavailable):
                writer.write(first_ms=0, last_ms=0, rows="{}", numbers=b"")  # the log is gone: it was kept in memory
            reader = RedisSinkReader(other.sink_stream)
            own.kill()
            with pytest.raises(StoreUnavailable):
                reader.find(row(1, 0).decision)
