from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from conformance import LogSuite
from redis_servers import RedisServer, binaries, serving

from banditroute.log.base import EventLog
from banditroute.log.redis import RedisLog
from banditroute.redis_address import Durability, parse_address

SERVERS = binaries()


@pytest.fixture(scope="module", params=["redis-6.2", "redis-8", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if request.param not in SERVERS:
        pytest.skip(f"no {request.param} server is installed here")
    with serving(SERVERS[request.param], tmp_path_factory.mktemp("redis")) as server:
        yield server


def opened(server: RedisServer, namespace: str, clock: Callable[[], float] | None = None, durability: str = "memory") -> RedisLog:
    return RedisLog(
        parse_address(server.url), namespace=namespace, durability=Durability.parse(durability), timeout_s=5.0, clock=clock
    )


class TestRedisLog(LogSuite):
    MISSING: ClassVar = {"purging": "the server forgets records by itself"}

    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer) -> None:
        self.server = server

    def open(self, place: Path, clock: Callable[[], float]) -> EventLog:
        return opened(self.server, place.name + str(abs(hash(place))), clock)
