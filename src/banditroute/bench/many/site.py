"""Two replicas behind one client on a Redis server that has a follower; every connection goes through a proxy of ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from banditroute.bench.many.agreement import all_events
from banditroute.bench.many.load import Load
from banditroute.bench.many.proxy import Proxy
from banditroute.bench.many.redis_server import RedisServer
from banditroute.bench.many.replica import Replica
from banditroute.bench.many.setups import write_config
from banditroute.client import Client
from banditroute.core.types import Event
from banditroute.log.redis import RedisLog
from banditroute.redis_address import Durability, parse_address
from banditroute.tokens import TokenSigner
from banditroute.wiring import read_keys

LEVELS = ("memory", "aof", "replicas=1")
PATIENCE_S = 120.0
NAMESPACE = "faults"


def until(held: Callable[[], bool], what: str) -> None:
    """Waits for `what`.

    Raises:
        TimeoutError: it did not come within two minutes.
    """
    end = time.monotonic() + PATIENCE_S
    while not held():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(0.01)


class Site:
    """Use as a context manager. `primary` is the Redis server that replicas are sent to."""

    def __init__(self, binary: Path, folder: Path, *, durability: str, timeout_s: float) -> None:
        self.durability, self._binary, self._folder, self._timeout_s = durability, binary, folder, timeout_s
        self._stack = ExitStack()
        self._servers = 0

    def __enter__(self) -> Site:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        self.primary = self._server()
        self.proxy = Proxy(self.primary.port)
        self.link = Proxy(self.primary.port)
        for proxy in (self.proxy, self.link):
            self._stack.callback(proxy.close)
        self.follow()
        redis = {"namespace": NAMESPACE, "durability": self.durability, "timeout_s": self._timeout_s}
        config = write_config(self._folder, self.proxy.url, checkpoint_every=500, redis=redis)
        self.replicas = [Replica(config, self._folder / f"replica-{i}.log") for i in range(2)]
        for replica in self.replicas:
            self._stack.callback(replica.kill)
        for replica in self.replicas:
            replica.await_ready()
        target = "ipv4:" + ",".join(replica.router for replica in self.replicas)
        self.client = self._stack.enter_context(Client(target))
        with closing(self._log()) as log:
            self.log_id = log.log_id

    def _server(self) -> RedisServer:
        self._servers += 1
        options = ("--appendonly", "yes", "--appendfsync", "always") if self.durability == "aof" else ()
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--repl-timeout", "5")
        server = RedisServer(self._binary, self._folder / f"redis-{self._servers}", *options, *quick)
        self._stack.callback(server.kill)
        return server

    def follow(self) -> None:
        """Gives the primary a follower of its own, and waits until that is up to date."""
        self.follower = self._server()
        with self.follower.client() as client:
            client.replicaof("127.0.0.1", str(self.link.port))
        self.until_followed()

    def until_followed(self) -> None:
        with self.primary.client() as client:

            def online() -> bool:
                first: Any = client.info("replication").get("slave0")
                return first is not None and first["state"] == "online"

            until(online, "the follower is up to date")

    def promote(self) -> None:
        """Makes the follower the primary, and has everybody sent to it; it gets a follower of its own."""
        with self.follower.client() as client:
            client.replicaof("NO", "ONE")
        self.primary = self.follower
        self.link.release()
        self.link.point(self.primary.port)
        self.proxy.point(self.primary.port)
        self.follow()

    def _log(self) -> RedisLog:
        return RedisLog(
            parse_address(self.primary.url), namespace=NAMESPACE, durability=Durability(), timeout_s=30.0, read_only=True
        )

    def events(self) -> list[Event]:
        """The whole log."""
        with closing(self._log()) as log:
            return all_events(log)

    def signer(self) -> TokenSigner:
        return TokenSigner(read_keys(self._folder / "keys.json"), self.log_id)

    def states(self) -> list[dict[str, Any]]:
        """What each replica that lives says of itself."""
        return [replica.ask("state") for replica in self.replicas if replica.process.poll() is None]

    def whole(self) -> bool:
        """Whether all replicas are well and at the same place of the log."""
        found = self.states()
        return len(found) == len(self.replicas) and all(each["well"] for each in found)

    def settled(self) -> list[dict[str, Any]]:
        """What all know once nothing more comes."""
        end = 0

        def same() -> bool:
            nonlocal end
            events = self.events()
            end = events[-1].position if events else 0
            return {each["position"] for each in self.states()} == {end}

        until(same, "all replicas are at the end of the log")
        return self.states()

    def load(self) -> Load:
        return Load(self.client)
