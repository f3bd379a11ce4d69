"""That the benchmarks of many machines measure what they say; no test asserts a time."""

from __future__ import annotations

import random
import time
from contextlib import closing
from pathlib import Path

import pytest
from redis_servers import binaries, serving

from banditroute.bench.many import coldstart, faults, replicas, throughput
from banditroute.bench.many.redis_server import NOT_RUN
from banditroute.log.checkpoint import encode, newest_state
from banditroute.log.redis import RedisLog
from banditroute.log.sqlite import SqliteLog
from banditroute.redis_address import Durability, parse_address

SERVERS = binaries()
needs_redis = pytest.mark.skipif("redis-8" not in SERVERS, reason="no redis-8 server is installed here")


def test_a_long_log_is_one_that_a_process_can_go_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coldstart, "TAIL", 50)
    state = coldstart.filled(tmp_path, 300)
    with closing(SqliteLog(tmp_path, time.time)) as log:
        events = list(log.read(0, 1000))
        found = newest_state(log)
        assert log.tip() == (300, events[-1].chain)
    assert [event.position for event in events] == list(range(1, 301))
    assert found is not None
    assert encode(found) == encode(state)
    assert (state.position, state.feedback_count, state.skipped_count) == (250, 249, 0)
    assert coldstart.started(tmp_path, 10**9) > 0.0


@needs_redis
def test_ours_and_the_bare_script_do_as_much(tmp_path: Path) -> None:
    told = throughput.feedbacks(40, random.Random(1))
    with serving(SERVERS["redis-8"], tmp_path) as server, server.client() as client:
        with closing(RedisLog(parse_address(server.url), namespace="n", durability=Durability(), timeout_s=5.0)) as log:
            with throughput.counting(log) as sizes:
                assert throughput.ours(log, told) > 0.0
            assert sum(sizes) == log.tip().position == 40
        body, record = throughput._event_sizes(told)
        assert throughput.bare(server, (body, record), 40, 7, None) > 0.0
        for key in ("{n}:events", "{bare}:events"):
            assert client.xlen(key) == 40
        ours, bare = ([len(entry[1][b"b"]) for entry in client.xrange(key)] for key in ("{n}:events", "{bare}:events"))
        assert sum(bare) == pytest.approx(sum(ours), rel=0.1)


def test_without_a_server_they_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (faults, replicas, throughput):
        monkeypatch.setattr(part, "newest", lambda: None)
        assert part.run(quick=True) == NOT_RUN
