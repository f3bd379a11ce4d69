"""The life of a server: bind, serve, drain, close; and what signals do to it."""

from __future__ import annotations

import gc
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from banditroute import logs
from banditroute.core.errors import BanditrouteError
from banditroute.server.admin import AdminService
from banditroute.server.health import HealthWatcher
from banditroute.server.port import EnginePort
from banditroute.server.servicer import RouterService
from banditroute.v1 import admin_pb2, admin_pb2_grpc, router_pb2, router_pb2_grpc

# Threads beside those of max_concurrent_requests: they refuse what is too much, and answer health checks.
SPARE_THREADS = 8
ADMIN_THREADS = 4
# Each WatchEvents holds a thread beside those.
MAX_WATCHES = 16
# Calls that gRPC itself holds, queued ones included, per thread; beyond that it refuses them without our ErrorInfo.
CALLS_PER_THREAD = 8
ADMIN_MESSAGE_BYTES = 4 * 1024 * 1024
# Longer than Python's 5 ms would let a folding thread hold the interpreter while Route waits.
SWITCH_INTERVAL_S = 0.0005
GC_THRESHOLDS = (10_000, 20, 50)

log = logs.logger("banditroute.server")


class ListenFailed(BanditrouteError):
    """An address cannot be bound: in use, not ours, or not an address."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """How much the server takes on, and how long it lets things take."""

    max_concurrent_requests: int = 128
    """Calls that run at once; more are refused."""
    max_concurrent_feedback: int = 64
    """Of those, calls that may wait for the log: Feedback, and Route with min_state_position."""
    max_message_bytes: int = 1_048_576
    """The largest request and the largest response."""
    drain_s: float = 2.0
    """Seconds from NOT_SERVING to refusing calls: how long load balancers take to notice."""
    grace_s: float = 10.0
    """Seconds that running calls then have to end."""
    max_connection_age_s: float = 300.0
    """Seconds after which a connection is asked to reconnect, so that load spreads over new servers."""


class Server:
    """Both listeners over one engine, which it closes when it stops.

    `listen` and `admin_listen` are HOST:PORT; port 0 takes a free one. No `admin_listen`, no AdminService. `share_ports` lets
    other processes listen there too: workers, among whom the system deals out connections.
    """

    def __init__(
        self,
        engine: EnginePort,
        *,
        listen: str,
        admin_listen: str | None = None,
        settings: ServerSettings | None = None,
        reflection: bool = False,
        share_ports: bool = False,
    ) -> None:
        self._engine = engine
        self._listen = listen
        self._admin_listen = admin_listen
        self._settings = settings or ServerSettings()
        self._reflection = reflection
        self._share_ports = share_ports
        self._health = HealthWatcher(engine)
        self._admin = AdminService(engine, max_watches=MAX_WATCHES)
        self._servers: list[grpc.Server] = []
        self._stopping = threading.Lock()
        self._stopped = False
        self.port = 0
        """The router listener's port once started."""
        self.admin_port = 0
        """The admin listener's port once started; 0 where there is none."""

    def start(self) -> None:
        """Binds and serves. Raises ListenFailed, and then nothing is bound and the engine is left open."""
        try:
            self.port = self._start_router()
            if self._admin_listen is not None:
                self.admin_port = self._start_admin(self._admin_listen)
        except ListenFailed:
            # A server lets go of its port when it stops, and stops only once started.
            for server in self._servers:
                server.start()
                server.stop(None)
            self._servers.clear()
            self.port = 0
            raise
        self._health.start()
        for server in self._servers:
            server.start()
        log.info("serving", port=self.port, admin_port=self.admin_port or None)

    def stop(self) -> None:
        """Drains: NOT_SERVING, a pause, no new calls, a grace for running ones, the engine closed. Idempotent."""
        with self._stopping:
            if self._stopped:
                return
            self._health.drain()
            if self._servers:
                # For load balancers to see NOT_SERVING while calls still succeed.
                time.sleep(self._settings.drain_s)
            self._health.servicer.end_watches()
            self._admin.end_watches()
            for ended in [server.stop(self._settings.grace_s) for server in self._servers]:
                ended.wait()
            self._engine.close()
            self._stopped = True
            log.info("stopped")

    def _start_router(self) -> int:
        settings = self._settings
        threads = settings.max_concurrent_requests + SPARE_THREADS
        server = self._make(threads, settings.max_message_bytes, settings.max_message_bytes, "banditroute-rpc")
        service = RouterService(
            self._engine,
            max_concurrent_requests=settings.max_concurrent_requests,
            max_concurrent_feedback=settings.max_concurrent_feedback,
        )
        router_pb2_grpc.add_RouterServiceServicer_to_server(service, server)
        return self._bind(server, self._listen, router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name)

    def _start_admin(self, address: str) -> int:
        threads = ADMIN_THREADS + MAX_WATCHES
        server = self._make(threads, self._settings.max_message_bytes, ADMIN_MESSAGE_BYTES, "banditroute-admin")
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, server)
        return self._bind(server, address, admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name)

    def _make(self, threads: int, receive_bytes: int, send_bytes: int, name: str) -> grpc.Server:
        options: list[tuple[str, Any]] = [
            # Else two servers share a port, and neither says so.
            ("grpc.so_reuseport", int(self._share_ports)),
            ("grpc.max_receive_message_length", receive_bytes),
            ("grpc.max_send_message_length", send_bytes),
            ("grpc.max_connection_age_ms", int(self._settings.max_connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self._settings.grace_s * 1000)),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        return grpc.server(pool, options=options, maximum_concurrent_rpcs=threads * CALLS_PER_THREAD)

    def _bind(self, server: grpc.Server, address: str, service: str) -> int:
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        if self._reflection:
            health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
            reflection.enable_server_reflection((service, health, reflection.SERVICE_NAME), server)
        self._servers.append(server)
        port = address.rpartition(":")[2]
        if not (port.isascii() and port.isdigit() and int(port) < 65_536):  # gRPC takes 99999 for 34463, and none for 443
            raise ListenFailed(f"cannot listen on {address!r}: not HOST:PORT with a port from 0 to 65535")
        try:
            return server.add_insecure_port(address)
        except RuntimeError as error:
            raise ListenFailed(f"cannot listen on {address!r}: in use, or not an address of this machine") from error


def serve_until_signalled(
    server: Server,
    *,
    reload: Callable[[], object],
    started: Callable[[Server], object] = lambda server: None,
    received: queue.SimpleQueue[int] | None = None,
    signals: Sequence[int] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
) -> None:
    """Starts `server`, calls `started`, serves until SIGTERM or SIGINT, drains. Only in the main thread.

    SIGHUP calls `reload`; where that raises, the old configuration stays and the log says why. A second SIGTERM or
    SIGINT does not wait for the drain. Of the process's signals, `signals` are heard; what others put into `received`
    counts as one too. Raises ListenFailed.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What is there now stays; of what comes, next to nothing is cyclic. Python's own pace costs Route 5 %.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    received = queue.SimpleQueue() if received is None else received
    with handling(received, signals):
        server.start()
        started(server)
        while (number := _next(received)) == signal.SIGHUP:
            try:
                reload()
            except BanditrouteError as error:  # a bad file must not stop a good server
                log.critical("reload refused; the old configuration stays", cause=str(error))
            except Exception:
                log.exception("reload failed; the old configuration stays")
            else:
                log.info("reloaded")
    log.info("draining", signal=signal.Signals(number).name)
    server.stop()


def _next(received: queue.SimpleQueue[int]) -> int:
    while True:
        try:
            # Not for good: a signal that lands on another thread is handled only when this one wakes.
            return received.get(timeout=0.5)
        except queue.Empty:
            continue


@contextmanager
def handling(received: queue.SimpleQueue[Any], signals: Sequence[int]) -> Iterator[None]:
    """Puts those signals into `received` meanwhile."""

    def note(number: int, frame: FrameType | None) -> None:
        received.put(number)

    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
