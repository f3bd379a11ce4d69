"""A part of `bench.workers` in a process of its own: ``python -m banditroute.bench.workers_part PART ...``.

Each says that it is open, waits for a word on standard input, and prints what it found as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc

from banditroute.bench.load import ROUTE, kept_under_way, route_requests, until_ready
from banditroute.core.types import EventKind, Signal, SignalKind
from banditroute.log.base import FeedbackAppend
from banditroute.log.sqlite_shared import SharedSqliteLog

CASE, CHANNELS, UNDER_WAY = "two", 8, 32
LONGEST_GAP_S = 0.05
FAR_US = 2**62


def _begin() -> None:
    print("open", flush=True)
    sys.stdin.readline()


def load(address: str, seconds: str) -> dict[str, float]:
    """Route calls over several connections, which the system deals out among the workers."""
    with ExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(address, options)) for _ in range(CHANNELS)]
        for channel in channels:
            until_ready(channel)
        _begin()
        cpu = time.process_time()
        found = kept_under_way(channels, ROUTE, route_requests(CASE), under_way=UNDER_WAY, seconds=float(seconds))
        return {"per_s": found["per_s"], "failed": found["failed"], "cpu_s": time.process_time() - cpu}


def append(folder: str, number: str, seconds: str, clients: str) -> float:
    """Feedback a second from so many callers, each of whom waits for its answer."""
    with closing(SharedSqliteLog(Path(folder), time.time)) as log:
        _begin()
        lock = threading.Lock()
        over = threading.Semaphore(0)
        count, start = 0, time.perf_counter()
        stop_at = start + float(seconds)
        signals = (Signal(SignalKind.EVAL_SCORE, 0.5),)

        def launch(done: Future[Any] | None = None) -> None:
            nonlocal count
            if done is not None:
                done.result()
            with lock:
                count += 1
                key = (int(number) * 10**12 + count).to_bytes(16, "big")
            if time.perf_counter() >= stop_at:
                over.release()
                return
            told = FeedbackAppend(key, {"category": "chat", "model": "a", "context": []}, signals, (), None, FAR_US)
            log.append_feedback(told).add_done_callback(launch)

        for _ in range(int(clients)):
            launch()
        for _ in range(int(clients)):
            over.acquire()
        return (count - int(clients)) / (time.perf_counter() - start)


def write(folder: str, count: str) -> None:
    """Single events, with gaps."""
    rng = random.Random(1)
    with closing(SharedSqliteLog(Path(folder), time.time)) as log:
        _begin()
        for i in range(int(count)):
            time.sleep(rng.uniform(0.0, LONGEST_GAP_S))
            log.append(EventKind.OPERATOR, {"n": i}).result()


def see(folder: str, count: str) -> list[float]:
    """Milliseconds from each event's time to when it is seen here."""
    waited: list[float] = []
    with closing(SharedSqliteLog(Path(folder), time.time)) as log:
        _begin()
        while len(waited) < int(count):
            if log.wait(len(waited), 60.0):
                now_us = time.time() * 1e6
                waited += [(now_us - event.append_time_us) / 1e3 for event in log.read(len(waited), 1000)]
    return waited


PARTS: dict[str, Callable[..., object]] = {"load": load, "append": append, "write": write, "see": see}


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])), flush=True)
