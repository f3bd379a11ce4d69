"""That the formula of docs/reference/redis.md foretells what a server takes; the figures there come from the same run."""

from __future__ import annotations

from pathlib import Path

import pytest

from banditroute.bench.many import memory
from banditroute.bench.many.redis_server import binaries

SERVERS = binaries()


def test_the_formula() -> None:
    each = {"event": 800.0, "feature": 20.0, "record": 500.0, "line": 400.0, "checkpoint": 1.1}
    found = memory.foretold(each, events=10, features=2, decisions=5, lines=3, checkpoints=1)
    assert found == pytest.approx(10 * 840 + 5 * 500 + 3 * 400 + 1.1 * memory.CHECKPOINT_BYTES)


def test_a_log_of_other_sizes_is_foretold(tmp_path: Path) -> None:
    if "redis-8" not in SERVERS:
        pytest.skip("no redis-8 server is installed here")
    binary = SERVERS["redis-8"]
    runs = [memory.parts(binary, tmp_path / f"with-{count}", count, 4_000) for count in (0, memory.FEATURES)]
    each = memory.of_both(*runs)
    assert each["event"] > each["record"] > each["feature"] > 0.0
    found = memory.again(binary, tmp_path / "again", each, 6_000)
    assert found["ratio"] == pytest.approx(1.0, abs=0.2)


def test_without_a_server_it_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "binaries", dict)
    monkeypatch.setattr(memory, "newest", lambda: None)
    assert "not_run" in memory.run()
