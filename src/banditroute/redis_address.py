"""Where a Redis server is, and when feedback counts as kept there: as people write it.

Nothing here ever shows an address's password.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import redis

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
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

    def __repr__(self) -> str:
        return f"Address({shown(self.url)!r})"


def shown(url: str) -> str:
    """An address without what only its owner may know: user, password and options."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2].partition("?")[0]


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
