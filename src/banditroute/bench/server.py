"""A server to be measured, as a process: ``python -m banditroute.bench.server KIND FOLDER CORE``.

KIND is `empty` (the same messages and server class, a handler that does nothing), `real`, `stuck` (real, but
its log never answers feedback) or `bare` (feedback goes into a bare group commit of equal bytes).
"""

from __future__ import annotations

import os
import queue
import sqlite3
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc

from banditroute import logs
from banditroute.bench.setups import config
from banditroute.config import load
from banditroute.core.types import FeedbackReceipt, FeedbackReport
from banditroute.engine import Engine
from banditroute.server import Server, ServerSettings, serve_until_signalled
from banditroute.server import servicer as servicers
from banditroute.v1 import router_pb2 as pb
from banditroute.wiring import open_engine


class EmptyService(servicers.RouterService):
    """Answers Route with the same bytes every time."""

    def Route(self, request: pb.RouteRequest, context: grpc.ServicerContext) -> pb.RouteResponse:  # noqa: N802
        response = pb.RouteResponse(
            decision_id="x" * 130,
            model="model-0",
            fallback_models=("model-1", "model-2", "model-3"),
            propensity=0.25,
            decision_reason=pb.DECISION_REASON_BEST,
            expected_quality=0.8,
            expected_cost_usd=0.001,
            state_position=1,
        )
        response.expire_time.seconds = 1_800_000_000
        return response

    def Feedback(self, request: pb.FeedbackRequest, context: grpc.ServicerContext) -> pb.FeedbackResponse:  # noqa: N802
        return pb.FeedbackResponse(
            disposition=pb.DISPOSITION_APPLIED, signal_dispositions=[pb.DISPOSITION_APPLIED], state_position=1
        )


class BareCommit:
    """The least that makes feedback durable in groups: one table, one thread, one commit per group."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "bare.db", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE rows (position INTEGER PRIMARY KEY, body BLOB)")
        self._queue: queue.SimpleQueue[tuple[Future[None], bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, body: bytes) -> None:
        """Returns when `body` is on the disk."""
        future: Future[None] = Future()
        self._queue.put((future, body))
        future.result()

    def _run(self) -> None:
        while True:
            group = [self._queue.get()]
            while not self._queue.empty() and len(group) < 512:
                group.append(self._queue.get())
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO rows (body) VALUES (?)", [(body,) for _, body in group])
            self._db.execute("COMMIT")
            for future, _ in group:
                future.set_result(None)


class StuckEngine:
    """A real engine whose log never answers feedback."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, _: FeedbackReport) -> Future[FeedbackReceipt]:
        """Accepted, and never durable."""
        return Future()


def main(kind: str, folder: Path, core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    logs.configure(json=True)
    engine: Any = open_engine(load(config(store=f"sqlite:///{folder}")), seed=1, threaded=True)
    if kind == "empty":
        setattr(servicers.RouterService, "Route", EmptyService.Route)  # noqa: B010
        setattr(servicers.RouterService, "Feedback", EmptyService.Feedback)  # noqa: B010
    elif kind == "stuck":
        engine = StuckEngine(engine)
    elif kind == "bare":
        bare = BareCommit(folder)
        answer = pb.FeedbackResponse(
            disposition=pb.DISPOSITION_APPLIED, signal_dispositions=[pb.DISPOSITION_APPLIED], state_position=1
        )

        def feedback(_: object, request: pb.FeedbackRequest, __: object) -> pb.FeedbackResponse:
            bare.put(request.SerializeToString() * 3)  # about the size of a feedback event
            return answer

        setattr(servicers.RouterService, "Feedback", feedback)  # noqa: B010
    server = Server(engine, listen="127.0.0.1:0", settings=ServerSettings(drain_s=0.0, grace_s=0.5))
    serve_until_signalled(server, reload=lambda: None, started=lambda s: print(s.port, flush=True))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
