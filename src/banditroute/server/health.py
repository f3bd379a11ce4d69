"""Health as gRPC's health service tells it.

| service | SERVING as long as |
|---|---|
| "", banditroute.v1.RouterService | Route can be answered: the `fold` is well, whether the store is there or not |
| process | the process answers and is not draining: for liveness, since a restart mends nothing of the others |
| log | the store takes what is written |
| fold | there is a state to answer from, and nothing stopped it from growing |

A store that is away takes no replica out of service: it would take all of them, while each can answer from its last state.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import HealthServicer

from banditroute import logs
from banditroute.server.port import EnginePort

ROUTER_SERVICE = "banditroute.v1.RouterService"
PROCESS = "process"
COMPONENTS = ("log", "fold")
SERVICES = ("", ROUTER_SERVICE, PROCESS, *COMPONENTS)
POLL_S = 0.25

log = logs.logger("banditroute.server")


class EndableHealth(HealthServicer):
    """Health whose Watch streams can be ended: else each would hold a stopping server for its whole grace."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: dict[grpc.ServicerContext, Callable[[None], object]] = {}

    def Watch(  # type: ignore[override]  # noqa: N802 - as the health service has it
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: Callable[..., object]
    ) -> None:
        self._watches[context] = send_response_callback
        context.add_callback(functools.partial(self._forget, context))
        super().Watch(request, context, send_response_callback)

    def _forget(self, context: grpc.ServicerContext) -> None:
        self._watches.pop(context, None)

    def end_watches(self) -> None:
        for end in list(self._watches.values()):
            end(None)


class HealthWatcher:
    """Keeps `servicer` up to date from a thread of its own. NOT_SERVING until the engine has folded its log."""

    def __init__(self, engine: EnginePort) -> None:
        self.servicer = EndableHealth()
        self._engine = engine
        self._ready = False
        self._shown: dict[str, bool] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="banditroute-health", daemon=True)
        self._show({**dict.fromkeys(SERVICES, False), PROCESS: True})

    def start(self) -> None:
        self.poll()
        self._thread.start()

    def drain(self) -> None:
        """Tells everybody NOT_SERVING, for good. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.servicer.enter_graceful_shutdown()

    def poll(self) -> None:
        """Asks the engine once. An engine that cannot answer is not healthy."""
        try:
            self._ready = self._ready or self._engine.wait_ready(0.0)
            found = dict(self._engine.health())
        except Exception:
            log.exception("health check failed")
            found = dict.fromkeys(COMPONENTS, False)
        well = self._ready and found["fold"]
        self._show({**found, "": well, ROUTER_SERVICE: well})

    def _show(self, statuses: dict[str, bool]) -> None:
        for service, well in statuses.items():
            if self._shown.get(service) is not well:
                self._shown[service] = well
                kind = health_pb2.HealthCheckResponse
                self.servicer.set(service, kind.SERVING if well else kind.NOT_SERVING)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._ready:
                self._stop.wait(POLL_S)
            else:
                self._wait_ready()
            self.poll()

    def _wait_ready(self) -> None:
        """A moment at most, and no longer than until it is: a server that has started is SERVING at once."""
        try:
            self._engine.wait_ready(POLL_S)
        except Exception:  # poll says it
            self._stop.wait(POLL_S)
