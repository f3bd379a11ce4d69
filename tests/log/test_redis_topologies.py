"""Sentinel and Cluster, really: what they are asked, and that the log is found again where it has gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import redis
from redis_servers import RedisServer, binaries, free_port, serving
from suite import APPLIED, DUPLICATE, evaluated, feedback

from banditroute.core.errors import StoreError, StoreTooNew, StoreUnfit
from banditroute.core.types import EventKind
from banditroute.log.base import EventLog
from banditroute.log.redis import RedisLog
from banditroute.redis_address import Durability, parse_address

SERVERS = binaries()
pytestmark = pytest.mark.skipif("redis-8" not in SERVERS, reason="no redis-8 server is installed here")
KEY = b"{n}:meta"


def opened(url: str, durability: str = "memory") -> RedisLog:
    return RedisLog(parse_address(url), namespace="n", durability=Durability.parse(durability), timeout_s=2.0)


def until(held: Callable[[], object]) -> None:
    """Waits until it holds and raises no error of a store's or server's; fails after a minute."""
    end = time.monotonic() + 60.0
    while True:
        try:
            if held():
                return
        except (StoreError, redis.RedisError):
            pass
        assert time.monotonic() < end
        time.sleep(0.02)


def works(log: EventLog, number: int) -> None:
    """A few operations of each kind; the first that writes and the first that reads as often as it takes."""
    until(lambda: log.append_feedback(feedback(number, evaluated(0.5))).result().disposition in (APPLIED, DUPLICATE))
    until(log.tip)
    assert log.append_feedback(feedback(number, evaluated(0.5))).result().disposition is DUPLICATE
    event = log.append(EventKind.OPERATOR, {"n": number}).result()
    assert log.tip().position == event.position
    assert log.read(event.position - 1, 9)[-1].body == {"n": number}
    assert log.wait(event.position - 1, 5.0)
    assert log.claim("webhook", "me", 1.0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def sentinel_of(stack: ExitStack, primary: RedisServer, folder: Path) -> RedisServer:
    folder.mkdir()
    path = folder / "sentinel.conf"  # with less than 2 s until a server is down, one that was just promoted counts as down too
    path.write_text(
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\nsentinel down-after-milliseconds main 3000\n"
        "sentinel failover-timeout main 5000\n"
    )
    port = free_port()

    class Sentinel(RedisServer):
        def start(self) -> None:
            import subprocess

            command = [str(self.binary), str(path), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
            with self.client() as client:
                until(client.ping)

    sentinel = Sentinel(primary.binary, folder, port=port)
    stack.callback(sentinel.kill)
    return sentinel


@pytest.mark.parametrize("how", ["failover", "kill"])
def test_a_log_behind_sentinel_is_found_after_a_failover(stack: ExitStack, tmp_path: Path, how: str) -> None:
    quick = ("--repl-diskless-sync-delay", "0")
    primary, second = [stack.enter_context(serving(SERVERS["redis-8"], tmp_path / name, *quick)) for name in ("one", "two")]
    with second.client() as client:
        client.replicaof("127.0.0.1", str(primary.port))
        until(lambda: client.info("replication")["master_link_status"] == "up")
    sentinel = sentinel_of(stack, primary, tmp_path / "sentinel")
    asked = stack.enter_context(sentinel.client())
    until(lambda: int(asked.sentinel_master("main")["num-slaves"]) == 1)
    log = stack.enter_context(closing(opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0", "replicas=1")))
    works(log, 1)
    if how == "kill":
        primary.kill()
    else:
        until(lambda: asked.execute_command("SENTINEL", "FAILOVER", "main"))
    until(lambda: asked.sentinel_master("main")["port"] == second.port)
    if how == "kill":  # feedback is kept by two again only once there are two
        primary.start()
    works(log, 2)
    with second.client() as client:
        assert client.hget(KEY, "position") is not None
        assert client.role()[0] == b"master"
    events = log.read(0, 99)
    assert [event.position for event in events] == [1, 2, 3, 4]
    assert opened_read_only(stack, second).read(0, 99) == events


def opened_read_only(stack: ExitStack, server: RedisServer) -> RedisLog:
    log = RedisLog(parse_address(server.url), namespace="n", durability=Durability(), timeout_s=2.0, read_only=True)
    return stack.enter_context(closing(log))


def test_a_log_in_a_cluster_is_found_where_its_slot_goes(stack: ExitStack, tmp_path: Path) -> None:
    nodes = []
    for number in range(2):
        options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
        while (port := free_port()) > 55_000:  # nodes also talk on the port 10,000 above
            pass
        nodes.append(stack.enter_context(serving(SERVERS["redis-8"], tmp_path / str(number), *options, port=port)))
    clients = [stack.enter_context(node.client()) for node in nodes]
    ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
    clients[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    clients[1].execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    said = (b"cluster_known_nodes:2", b"cluster_slots_assigned:16384", b"cluster_state:ok")
    until(lambda: all(line in client.execute_command("CLUSTER", "INFO") for client in clients for line in said))
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    log = stack.enter_context(closing(opened(f"redis+cluster://{hosts}")))
    works(log, 1)
    slot = clients[0].execute_command("CLUSTER", "KEYSLOT", KEY)
    clients[1].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    clients[0].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    keys = clients[0].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    clients[0].execute_command("MIGRATE", "127.0.0.1", nodes[1].port, "", 0, 5000, "KEYS", *keys)
    for client in reversed(clients):
        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    works(log, 2)
    assert clients[1].hget(KEY, "position") == b"4"
    with pytest.raises(redis.exceptions.MovedError):
        clients[0].hget(KEY, "position")
    assert [event.position for event in log.read(0, 99)] == [1, 2, 3, 4]


def test_a_log_over_a_unix_socket(stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "s"
    stack.enter_context(serving(SERVERS["redis-8"], tmp_path / "redis", "--unixsocket", str(path)))
    works(stack.enter_context(closing(opened(f"unix://{path}"))), 1)


REFUSED = {
    "no disk": (("redis-8", "--appendonly", "no"), "aof", "set appendonly yes, or durability: memory"),
    "no replicas": (("redis-8",), "replicas=2", "connect more, or ask for fewer"),
    "throws away": (("redis-8", "--maxmemory-policy", "allkeys-lru"), "memory", "set maxmemory-policy noeviction"),
    "old": (("redis-6.2", "--appendonly", "yes", "--appendfsync", "everysec"), "aof", "needs appendfsync always"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_level_that_cannot_be_kept_is_refused_with_what_mends_it(tmp_path: Path, why: str) -> None:
    (name, *options), durability, said = REFUSED[why]
    if name not in SERVERS:
        pytest.skip(f"no {name} server is installed here")
    with serving(SERVERS[name], tmp_path, *options) as server, pytest.raises(StoreUnfit, match=said):
        opened(server.url, durability)


def test_a_log_of_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    with serving(SERVERS["redis-8"], tmp_path) as server, server.client() as client:
        client.hset(KEY, mapping={"format": "2", "log_id": "x", "epoch": "1"})
        with pytest.raises(StoreTooNew, match="upgrade banditroute"):
            opened(server.url)
