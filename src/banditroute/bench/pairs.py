"""Load of pairs: a Route, and then the Feedback on its decision, as services send them. Closed loop and open loop.

Open-loop latencies run from the moment when a call was due, not from when it was sent: no coordinated omission. A Feedback is due
when its Route is answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np

from banditroute.bench.load import FEEDBACK, ROUTE, caller
from banditroute.v1 import router_pb2 as pb

CALL_TIMEOUT_S = 30.0
QUANTILES = (50, 99, 99.9)


class Tally(NamedTuple):
    """What became of a load. Latencies in ms, in the order of QUANTILES."""

    pairs: int
    failed: int
    errors: dict[str, int]
    took_s: float
    route_ms: tuple[float, ...]
    feedback_ms: tuple[float, ...]

    @property
    def per_s(self) -> float:
        """Pairs that ended well, a second."""
        return self.pairs / self.took_s

    def to_json(self) -> dict[str, Any]:
        named = {
            f"{name}_p{q:g}_ms": value
            for name, values in (("route", self.route_ms), ("feedback", self.feedback_ms))
            for q, value in zip(QUANTILES, values, strict=True)
        }
        return {"pairs_per_s": self.per_s, "failed": self.failed, "errors": self.errors, **named}


class Pairs:
    """Sends pairs over channels in turn, and notes what became of each."""

    def __init__(self, channels: Sequence[grpc.Channel], requests: Sequence[bytes]) -> None:
        self._calls = [(caller(channel, ROUTE), caller(channel, FEEDBACK)) for channel in channels]
        self._requests = requests
        self._lock = threading.Lock()
        self._over = threading.Condition(self._lock)
        self._clear()

    def _clear(self) -> None:
        self._route_s: list[float] = []
        self._feedback_s: list[float] = []
        self._errors: dict[str, int] = {}
        self._under_way = self._next = 0

    def _launch(self, due: float, again_until: float) -> None:
        with self._lock:
            i = self._next
            self._next += 1
            self._under_way += 1
        route, feedback = self._calls[i % len(self._calls)]
        future = route.future(self._requests[i % len(self._requests)], timeout=CALL_TIMEOUT_S)
        future.add_done_callback(lambda done: self._routed(done, feedback, i, due, again_until))

    def _routed(self, done: Any, feedback: Any, i: int, due: float, again_until: float) -> None:
        now = time.perf_counter()
        if done.exception() is not None:
            self._end(done, again_until)
            return
        self._route_s.append(now - due)
        decision = pb.RouteResponse.FromString(done.result()).decision_id
        usage = pb.Usage(cost_usd=0.001, input_token_count=900, output_token_count=200)
        told = pb.FeedbackRequest(
            decision_id=decision, signals=[pb.Signal(eval_score=0.6 + 0.3 * (i % 2))], attempts=[pb.Attempt(usage=usage)]
        )
        future = feedback.future(told.SerializeToString(), timeout=CALL_TIMEOUT_S)
        future.add_done_callback(lambda end: self._told(end, now, again_until))

    def _told(self, done: Any, due: float, again_until: float) -> None:
        if done.exception() is None:
            self._feedback_s.append(time.perf_counter() - due)
        self._end(done, again_until)

    def _end(self, done: Any, again_until: float) -> None:
        error = done.exception()
        now = time.perf_counter()
        if now < again_until:
            self._launch(now, again_until)  # before this one is over: there is always one under way
        with self._lock:
            if error is not None:
                code = str(getattr(error, "code", lambda: type(error).__name__)())
                self._errors[code] = self._errors.get(code, 0) + 1
            self._under_way -= 1
            self._over.notify_all()

    def closed(self, *, under_way: int, seconds: float) -> Tally:
        """So many pairs always under way, for so long."""
        self._clear()
        start = time.perf_counter()
        for _ in range(under_way):
            self._launch(time.perf_counter(), start + seconds)
        return self._tally(start)

    def open(self, *, per_s: float, seconds: float) -> Tally:
        """So many pairs a second, each at its time whatever became of those before."""
        self._clear()
        start = time.perf_counter() + 0.05
        for i in range(max(1, int(per_s * seconds))):
            due = start + i / per_s
            while (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead if ahead < 0.001 else ahead - 0.0005)
            self._launch(due, 0.0)
        return self._tally(start)

    def _tally(self, start: float) -> Tally:
        with self._over:
            self._over.wait_for(lambda: self._under_way == 0 and time.perf_counter() > start)
            took = time.perf_counter() - start
            return Tally(
                pairs=len(self._feedback_s),
                failed=sum(self._errors.values()),
                errors=dict(self._errors),
                took_s=took,
                route_ms=_quantiles(self._route_s),
                feedback_ms=_quantiles(self._feedback_s),
            )


def _quantiles(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(q) for q in np.percentile(np.array(seconds or [np.nan]) * 1e3, QUANTILES))
