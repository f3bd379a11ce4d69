"""The way to the Redis server that holds a log: connections, what the server must be able to do, and its errors.

One server, Sentinel's master, or in a cluster the node of the namespace's slot. Nothing here ever shows an address's password.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from banditroute.core.errors import StoreUnavailable, StoreUnfit
from banditroute.redis_address import Address, Durability

OLDEST = (6, 2)
WAITAOF_SINCE = (7, 2)
DRYRUN_SINCE = (7, 0)
CONNECT_TIMEOUT_S = 1.0


class Link:
    """Opens clients of the server that holds the keys of one namespace.

    Args:
        timeout_s: how long one command may take.
    """

    def __init__(self, address: Address, *, key: str, timeout_s: float) -> None:
        self._address, self._key, self.timeout_s = address, key, timeout_s

    def client(self, *, connections: int, timeout_s: float | None = None) -> redis.Redis:
        """A client with at most so many connections; nobody waits for longer than `timeout_s` for an answer.

        Raises:
            StoreUnavailable: nobody says where the server is.
        """
        common: dict[str, Any] = {
            "socket_timeout": timeout_s or self.timeout_s,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),  # a script that was sent twice would call its own feedback a duplicate
            "protocol": 2,
            "client_name": "banditroute",
        }
        # A client that was given its pool does not end connections that other threads still read from when it is closed.
        return redis.Redis(connection_pool=self._pool(connections, common))

    def _pool(self, connections: int, common: dict[str, Any]) -> redis.ConnectionPool:
        address = self._address
        limits = {"max_connections": connections, "timeout": self.timeout_s}
        if address.kind == "single":
            return redis.BlockingConnectionPool.from_url(address.url, **limits, **common)
        common |= address.options
        if address.kind == "sentinel":
            asking = {"socket_timeout": self.timeout_s, "socket_connect_timeout": CONNECT_TIMEOUT_S, "ssl": address.tls}
            sentinels: Any = Sentinel(list(address.hosts), sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
            found: redis.ConnectionPool = SentinelConnectionPool(address.service, sentinels, ssl=address.tls, **common)  # type: ignore[no-untyped-call]
            return found
        host, port = self._node(common | {"ssl": address.tls})
        kind: Any = redis.SSLConnection if address.tls else redis.Connection
        return redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
            connection_class=kind, host=host, port=port, **limits, **common
        )

    def _node(self, common: dict[str, Any]) -> tuple[str, int]:
        """Where in a cluster the namespace's slot is."""
        with store_errors():
            nodes = [ClusterNode(*host) for host in self._address.hosts]  # type: ignore[no-untyped-call]
            cluster: Any = RedisCluster(startup_nodes=nodes, **common)
            try:
                node = cluster.get_node_from_key(self._key)
            finally:
                cluster.close()
        if node is None:
            raise StoreUnavailable("no node of the Redis cluster has this namespace's slot")
        return node.host, node.port


class Server(NamedTuple):
    """What a server is. `shown` is its name and version."""

    shown: str
    waitaof: bool


def check_server(client: redis.Redis, durability: Durability, *, key: bytes) -> Server:
    """Reads what the server is and how it is set. `key` is one of the log's.

    Raises:
        StoreUnfit: it is too old, may throw keys away, or cannot keep what `durability` promises; says how to mend it.
        StoreUnavailable
    """
    with store_errors():
        info = client.info()
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    name = str(info.get("server_name", "redis"))
    shown = f"{name} {info.get(f'{name}_version', info['redis_version'])}"
    if version < OLDEST:
        raise StoreUnfit(f"this is {shown}: banditroute needs Redis {'.'.join(map(str, OLDEST))} or newer")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreUnfit(
            f"the server throws keys away when its memory is full (maxmemory-policy {policy}), and with them feedback: "
            "set maxmemory-policy noeviction"
        )
    waitaof = version >= WAITAOF_SINCE
    if durability.aof:
        if not int(info.get("aof_enabled", 0)):
            raise StoreUnfit(
                "durability aof, but the server keeps no append-only file: set appendonly yes, or durability: memory"
            )
        if not waitaof and _fsync(client) != "always":
            raise StoreUnfit(
                f"durability aof on {shown} needs appendfsync always (it cannot wait for its disk otherwise): "
                "set it, use Redis 7.2 or newer, or durability: memory"
            )
        if version >= DRYRUN_SINCE and not _loads_scripts(client, key):
            raise StoreUnfit(
                "durability aof, but this server's default user may not write the log's keys; Redis 7.0 to 8.2 loads its "
                "append-only file with that user's rights, and drops what scripts wrote: keep the user off, but give it its "
                "rights back (ACL: user default off ~* &* +@all)"
            )
    if durability.replicas > int(info.get("connected_slaves", 0)):
        raise StoreUnfit(
            f"durability replicas={durability.replicas}, but the server has {info.get('connected_slaves', 0)}: "
            "connect more, or ask for fewer"
        )
    return Server(shown, waitaof)


def _fsync(client: redis.Redis) -> str:
    try:
        said: dict[str, str] = client.config_get("appendfsync")  # type: ignore[assignment]
    except (redis.ResponseError, NoPermissionError):
        return "unknown"
    return said.get("appendfsync", "unknown")


def _loads_scripts(client: redis.Redis, key: bytes) -> bool:
    """Whether the server's own user may do what the append-only file does; True also where that may not be asked."""
    for command in (("HSET", key, "a", "b"), ("XADD", key, "*", "a", "b"), ("SET", key, "a"), ("PEXPIREAT", key, "1")):
        try:
            if client.execute_command("ACL", "DRYRUN", "default", *command) != b"OK":  # type: ignore[no-untyped-call]
                return False
        except (redis.ResponseError, NoPermissionError):
            return True
    return True


@contextmanager
def store_errors() -> Iterator[None]:
    """The client's errors as ours."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError, ssl.SSLError) as error:
        raise unavailable(error) from None  # its text may hold the address


def moved(error: BaseException) -> bool:
    """Whether an error of a single command says that the log is to be looked for anew: this server is no primary any more, or
    the namespace's slot is another's."""
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | MovedError | AskError | ReadOnlyError | ClusterDownError):
        return True
    return "READONLY" in str(error)  # 6.2 wraps what a script runs into


def unavailable(error: BaseException) -> StoreUnavailable:
    """What an error of the client or the server means; shows neither address nor credentials."""
    text = str(error)
    if isinstance(error, AuthenticationError | NoPermissionError) or text.startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
        return StoreUnavailable("the Redis server refuses these credentials, or does not allow them what the log needs")
    if "OOM" in text or isinstance(error, redis.OutOfMemoryError):
        return StoreUnavailable("the Redis server's memory is full: raise maxmemory, or keep less (log_retention_events)")
    if "MISCONF" in text:
        return StoreUnavailable("the Redis server cannot write to its disk: look at its log and its free space")
    if isinstance(error, RedisClusterException):
        return StoreUnavailable("no node of a Redis cluster can be reached at this address")
    if isinstance(error, redis.TimeoutError):
        return StoreUnavailable("the Redis server did not answer in time")
    if isinstance(error, redis.ConnectionError | OSError):
        return StoreUnavailable("the Redis server cannot be reached")
    return StoreUnavailable(f"the Redis server cannot take this now ({type(error).__name__})")
