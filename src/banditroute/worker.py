"""One worker: ``python -m banditroute.worker NUMBER``, started by `cli.workers` only. What to do comes on standard input.

Not a part of `cli`, whose many commands would double the time until a worker serves.
"""

from __future__ import annotations

import functools
import pickle
import queue
import signal
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

from banditroute import logs
from banditroute.config import Config
from banditroute.core.errors import BanditrouteError
from banditroute.engine import Engine
from banditroute.server import Server, ServerSettings, serve_until_signalled
from banditroute.server.supervisor import READY
from banditroute.serving import Start, adopt, pin, when_ready
from banditroute.wiring import open_engine

READY_POLL_S = 0.05
UNUSABLE = 2
"""The exit code of a single server that cannot start."""


class Orders:
    """What the supervisor says, as signals in `received`: SIGHUP for the next of `configs`, SIGTERM at the end."""

    def __init__(self, pipe: BinaryIO) -> None:
        self.received: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.configs: queue.SimpleQueue[Config] = queue.SimpleQueue()
        self.over = threading.Event()
        self._pipe = pipe
        threading.Thread(target=self._read, name="banditroute-orders", daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                self.configs.put(pickle.load(self._pipe))  # noqa: S301 - from our own supervisor
                self.received.put(signal.SIGHUP)
        except EOFError:
            self.over.set()
            self.received.put(signal.SIGTERM)


def main() -> None:
    """Serves until told to stop, or until the supervisor is gone."""
    for each in (signal.SIGINT, signal.SIGHUP):  # the supervisor's to hear
        signal.signal(each, signal.SIG_IGN)
    pipe = open(0, "rb", closefd=False)  # noqa: SIM115 - sys.stdin, read by a thread, would keep Python from ending
    try:
        start: Start = pickle.load(pipe)  # noqa: S301 - from our own supervisor
    except EOFError:
        return
    number = int(sys.argv[1])
    logs.configure(json=start.json_logs, worker=number)
    if start.pin:
        pin(number - 1)
    try:
        _serve(start, Orders(pipe))
    except BanditrouteError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(UNUSABLE) from None


def _serve(start: Start, orders: Orders) -> None:
    engine = open_engine(start.config, threaded=True, worker=True, adopt=not start.joins)
    try:
        while start.joins and not engine.wait_ready(0.0):
            if orders.over.wait(READY_POLL_S):
                return
        server = Server(
            engine,
            listen=start.listen,
            admin_listen=start.admin_listen,
            settings=ServerSettings(**start.config.local.server.model_dump()),
            reflection=start.reflection,
            share_ports=True,
        )
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # while it drains, it has been told
        serve_until_signalled(
            server,
            reload=functools.partial(_reload, engine, orders, start.config),
            started=lambda _: when_ready(engine, orders.over, lambda: _say(READY)),
            received=orders.received,
            signals=(signal.SIGTERM,),
        )
    finally:
        engine.close()


def _say(line: bytes) -> None:
    with suppress(OSError):  # the supervisor is gone, and this process soon
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def _reload(engine: Engine, orders: Orders, started_with: Config) -> None:
    adopt(engine, orders.configs.get(), started_with)


if __name__ == "__main__":
    main()
