"""The way to the Redis server that holds a log: addresses, connections, what the server must be able to do, and its errors.

One server, Sentinel's master, or in a cluster the node of the namespace's slot. Nothing here ever shows an address's password.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from banditroute.core.errors import StoreUnavailable, StoreUnfit

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
OLDEST = (6, 2)
WAITAOF_SINCE = (7, 2)
CONNECT_TIMEOUT_S = 1.0
_PORTS = {"sentinel": 26379, "cluster": 6379}


class Durability(NamedTuple):
    """When feedback counts as kept: the server has it (`memory`), or its disk (`aof`), or so many others (`replicas`)."""

    aof: bool = False
    replicas: int = 0

    @staticmethod
    def parse(text: str) -> Durability:
        """From ``memory``, ``aof`` or ``replicas=N``.

        Raises:
            ValueError
        """
        if text in {"memory", "aof"}:
            return Durability(aof=text == "aof")
        name, _, count = text.partition("=")
        if name == "replicas" and count.isdecimal() and int(count) > 0:
            return Durability(replicas=int(count))
        raise ValueError(f"{text!r} is no durability: use memory, aof or replicas=N")

    def __str__(self) -> str:
        return "aof" if self.aof else f"replicas={self.replicas}" if self.replicas else "memory"

    def wait(self, timeout_s: float, *, waitaof: bool) -> tuple[str | int, ...] | None:
        """The command that returns when what was written before is kept; None: it already is."""
        milliseconds = int(timeout_s * 1000)
        if self.replicas:
            return "WAIT", self.replicas, milliseconds
        return ("WAITAOF", 1, 0, milliseconds) if self.aof and waitaof else None

    def kept(self, reply: Any) -> bool:
        """Whether the reply to `wait` says so."""
        if self.replicas:
            return int(reply) >= self.replicas
        return bool(int(reply[0]))


class Address(NamedTuple):
    """A parsed address. `hosts` are all that were named."""

    kind: str
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    service: str
    options: Mapping[str, Any]
    url: str


def parse_address(url: str) -> Address:
    """Takes an address apart: `redis://`, `rediss://` (TLS) or `unix://`, with `user:password@` where there is an ACL;
    ``redis+sentinel://host:port,host:port/SERVICE/DB``; ``redis+cluster://host:port,host:port``.

    Raises:
        ValueError: it is none; never shows a password.
    """
    scheme, separator, rest = url.partition("://")
    if scheme not in SCHEMES or not separator or not rest:
        raise ValueError(f"{scheme}://... is no address of a Redis server: use {'://, '.join(SCHEMES)}://")
    tls = scheme.startswith("rediss")
    kind = scheme.partition("+")[2] or "single"
    if kind == "single":
        try:
            redis.ConnectionPool.from_url(url)  # its own checks of port, database and options
        except (ValueError, TypeError):
            raise ValueError(
                f"this {scheme}:// address cannot be read: expected {scheme}://[user:password@]host:port/db"
            ) from None
        return Address(kind, tls, (), "", {}, url)
    split = urlsplit(url)
    authority = split.netloc.rpartition("@")
    user, _, password = authority[0].partition(":")
    hosts = []
    for each in authority[2].split(","):
        host, _, port = each.rpartition(":") if ":" in each else (each, "", str(_PORTS[kind]))
        if not host or not port.isdecimal():
            raise ValueError(f"{each!r} is no host:port in a {scheme}:// address")
        hosts.append((host.strip("[]"), int(port)))
    options: dict[str, Any] = dict(parse_qsl(split.query))
    options |= {name: unquote(value) for name, value in (("username", user), ("password", password)) if value}
    service, _, database = split.path.strip("/").partition("/")
    if kind == "sentinel":
        if not service:
            raise ValueError(f"a {scheme}:// address ends with the name of the service: host:port,host:port/SERVICE")
        options["db"] = int(database or 0)
    return Address(kind, tls, tuple(hosts), service if kind == "sentinel" else "", options, url)


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
        address = self._address
        common: dict[str, Any] = {
            "socket_timeout": timeout_s or self.timeout_s,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),  # a script that was sent twice would call its own feedback a duplicate
            "protocol": 2,
            "client_name": "banditroute",
        }
        if address.kind == "single":
            pool = redis.BlockingConnectionPool.from_url(
                address.url, max_connections=connections, timeout=self.timeout_s, **common
            )
            return redis.Redis(connection_pool=pool)
        common |= address.options
        if address.tls:
            common |= {"ssl": True}
        if address.kind == "sentinel":
            sentinels: Any = Sentinel(list(address.hosts), sentinel_kwargs={"socket_timeout": self.timeout_s})  # type: ignore[no-untyped-call]
            found: redis.Redis = sentinels.master_for(address.service, max_connections=connections, **common)
            return found
        with store_errors():
            cluster = RedisCluster(
                startup_nodes=[ClusterNode(*host) for host in address.hosts], **address.options, ssl=address.tls
            )
            try:
                node = cluster.get_node_from_key(self._key)  # type: ignore[no-untyped-call]
            finally:
                cluster.close()
        return redis.Redis(host=node.host, port=node.port, max_connections=connections, **common)


class Server(NamedTuple):
    """What a server is. `shown` is its name and version."""

    shown: str
    waitaof: bool


def check_server(client: redis.Redis, durability: Durability) -> Server:
    """Reads what the server is and how it is set.

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


@contextmanager
def store_errors() -> Iterator[None]:
    """The client's errors as ours."""
    try:
        yield
    except (RedisError, OSError, ssl.SSLError) as error:
        raise unavailable(error) from None  # its text may hold the address


def unavailable(error: BaseException) -> StoreUnavailable:
    """What an error of the client or the server means; shows neither address nor credentials."""
    text = str(error)
    if isinstance(error, AuthenticationError | NoPermissionError) or text.startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
        return StoreUnavailable("the Redis server refuses these credentials, or does not allow them what the log needs")
    if "OOM" in text or isinstance(error, redis.OutOfMemoryError):
        return StoreUnavailable("the Redis server's memory is full: raise maxmemory, or keep less (log_retention_events)")
    if text.startswith("MISCONF"):
        return StoreUnavailable("the Redis server cannot write to its disk: look at its log and its free space")
    if isinstance(error, redis.TimeoutError):
        return StoreUnavailable("the Redis server did not answer in time")
    if isinstance(error, redis.ConnectionError | OSError):
        return StoreUnavailable("the Redis server cannot be reached")
    return StoreUnavailable(f"the Redis server cannot take this now ({type(error).__name__})")
