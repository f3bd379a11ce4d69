"""Load on a server: closed loop (a fixed number of calls under way) and open loop (a fixed rate).

Requests are serialised beforehand and answers not parsed, so that one core of load saturates one core of server.
Open-loop latencies run from the moment a call was due, not from when it was sent: no coordinated omission.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import numpy as np

from banditroute.bench.setups import TOKENS
from banditroute.v1 import router_pb2 as pb

ROUTE = "/banditroute.v1.RouterService/Route"
FEEDBACK = "/banditroute.v1.RouterService/Feedback"
BATCH_ROUTE = "/banditroute.v1.RouterService/BatchRoute"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


class Target(NamedTuple):
    """A running server and a channel to it."""

    process: subprocess.Popen[str]
    address: str
    channel: grpc.Channel


@contextmanager
def serving(kind: str) -> Iterator[Target]:
    """A server of `kind` (see `bench.server`) on one core, this process on the others."""
    cores = CORES
    with tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder:
        command = [sys.executable, "-m", "banditroute.bench.server", kind, folder, str(cores[0])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            if len(cores) > 1:
                os.sched_setaffinity(0, set(cores[1:]))
            assert process.stdout is not None
            address = f"127.0.0.1:{int(process.stdout.readline())}"
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(timeout=30)
                until_ready(channel)
                yield Target(process, address, channel)
        finally:
            process.kill()  # a stuck one would wait for its log
            process.wait(timeout=30)
            if len(cores) > 1:
                os.sched_setaffinity(0, set(cores))


def caller(channel: grpc.Channel, method: str) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    """Calls `method` with serialised requests; answers are not parsed."""
    return channel.unary_unary(method)


def until_ready(channel: grpc.Channel) -> None:
    """Returns when the server has adopted its configuration."""
    call = caller(channel, ROUTE)
    for _ in range(200):
        try:
            call(pb.RouteRequest(category="cached").SerializeToString(), timeout=5)
        except grpc.RpcError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the server did not become ready")


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """CPU time that a process has used, in seconds; 0 where the system does not say."""
    try:
        with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def closed_loop(target: Target, method: str, requests: Sequence[bytes], *, under_way: int, seconds: float) -> dict[str, Any]:
    """As `kept_under_way` over the target's channel, and how busy the server's core was."""
    cpu, start = cpu_seconds(target.process), time.perf_counter()
    found = kept_under_way([target.channel], method, requests, under_way=under_way, seconds=seconds)
    return {**found, "server_busy": (cpu_seconds(target.process) - cpu) / (time.perf_counter() - start)}


def kept_under_way(
    channels: Sequence[grpc.Channel], method: str, requests: Sequence[bytes], *, under_way: int, seconds: float
) -> dict[str, Any]:
    """Calls a second with `under_way` calls always under way; the channels take turns."""
    calls = [caller(channel, method) for channel in channels]
    done = threading.Event()
    lock = threading.RLock()  # a call that is done at once calls back at once
    counts = {"finished": 0, "failed": 0, "next": 0, "running": under_way}
    start = time.perf_counter()
    stop_at = start + seconds

    def launch() -> None:
        i = counts["next"]
        counts["next"] = i + 1
        calls[i % len(calls)].future(requests[i % len(requests)], timeout=30).add_done_callback(finish)

    def finish(future: grpc.Future[bytes]) -> None:
        with lock:
            counts["finished" if future.exception() is None else "failed"] += 1
            if time.perf_counter() < stop_at:
                launch()
            else:
                counts["running"] -= 1
                if counts["running"] == 0:
                    done.set()

    with lock:
        for _ in range(under_way):
            launch()
    done.wait()
    return {"per_s": counts["finished"] / (time.perf_counter() - start), "failed": counts["failed"]}


def open_loop(target: Target, method: str, requests: Sequence[bytes], *, per_s: float, seconds: float) -> dict[str, Any]:
    """Latency in ms at a fixed rate of calls, each from the moment when it was due."""
    call = caller(target.channel, method)
    count = max(1, int(per_s * seconds))
    latencies = np.zeros(count)
    left = threading.Semaphore(0)
    start = time.perf_counter() + 0.05

    def arrived(i: int, due: float) -> Any:
        def note(_: grpc.Future[bytes]) -> None:
            latencies[i] = time.perf_counter() - due
            left.release()

        return note

    for i in range(count):
        due = start + i / per_s
        while (ahead := due - time.perf_counter()) > 0:
            time.sleep(ahead if ahead < 0.001 else ahead - 0.0005)
        call.future(requests[i % len(requests)], timeout=30).add_done_callback(arrived(i, due))
    for _ in range(count):
        left.acquire()
    p50, p99 = np.percentile(latencies * 1e3, [50, 99])
    return {"per_s": per_s, "p50_ms": float(p50), "p99_ms": float(p99)}


def route_requests(case: str) -> list[bytes]:
    """Route requests of a case of `setups`: equal ones for "cached", else of many lengths."""
    lengths = TOKENS[:1] if case == "cached" else TOKENS
    return [pb.RouteRequest(category=case, input_token_count=length).SerializeToString() for length in lengths]
