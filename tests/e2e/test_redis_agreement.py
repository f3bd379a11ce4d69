"""Three replicas, each a process, and one process that saw the same stream: `banditroute bench --only replicas` at length."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis_servers import binaries, serving

from banditroute.bench.many import agreement

SERVERS = binaries()


@pytest.mark.skipif("redis-8" not in SERVERS, reason="no redis-8 server is installed here")
def test_replicas_agree_with_one_process_that_saw_the_same(tmp_path: Path) -> None:
    with serving(SERVERS["redis-8"], tmp_path / "redis") as server:
        found = agreement.run(server_url=server.url, each=300, folder=tmp_path)
    assert found["distinct_states"] == 1, found
    assert found["events_equal_one_sqlite_run"] and found["state_equals_one_sqlite_run"], found
    assert found["divergences"] == 0
    assert found["corrections"] > 0 and found["duplicates_or_stale"] > 0
