"""Replicas of one log: whether they agree to the bit, and how soon one knows what another was told."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from banditroute.bench.many import agreement
from banditroute.bench.many.redis_server import NOT_RUN, newest, serving
from banditroute.bench.many.replica import Replica
from banditroute.bench.many.setups import write_config
from banditroute.bench.timing import quantile

PAUSE_S = 0.005


def visibility(*, server_url: str, durability: str, count: int, folder: Path) -> dict[str, Any]:
    """Milliseconds from a feedback's submission on one replica to a decision that knows it on another; one clock for both."""
    config = write_config(folder, server_url, redis={"namespace": f"seen-{durability}", "durability": durability})
    with ExitStack() as stack:
        teller, seer = [Replica(config, folder / f"{name}.log") for name in ("teller", "seer")]
        for replica in (teller, seer):
            stack.callback(replica.kill)
        for replica in (teller, seer):
            replica.await_ready()
        ids = seer.ask("decide", count)
        first = teller.ask("state")["position"] + 1
        agreement.states([seer], first - 1)
        with ThreadPoolExecutor(1) as pool:
            seeing = pool.submit(seer.ask, "see", first, first + count - 1)
            told = dict(teller.ask("tell", ids, PAUSE_S))
            seen = dict(seeing.result())
    took = [1e3 * (seen[position] - began) for position, began in told.items()]
    return {
        "feedbacks": len(took),
        "p50_ms": quantile(took, 0.5),
        "p99_ms": quantile(took, 0.99),
        "most_ms": max(took),
        "within_100_ms": sum(each <= 100.0 for each in took) / len(took),
    }


def run(*, quick: bool = False) -> dict[str, Any]:
    """Agreement of three replicas, and visibility between two, on a server whose disk is always written."""
    binary = newest()
    if binary is None:
        return NOT_RUN
    each, count = (2_000, 300) if quick else (100_000, 3_000)
    with tempfile.TemporaryDirectory(prefix="banditroute-bench-") as name:
        folder = Path(name)
        with serving(binary, folder / "redis") as server:
            began = time.perf_counter()
            found: dict[str, Any] = {"agreement": agreement.run(server_url=server.url, each=each, folder=folder)}
            found["agreement"]["took_s"] = time.perf_counter() - began
        with serving(binary, folder / "kept", "--appendonly", "yes", "--appendfsync", "always") as server:
            for level in ("memory", "aof"):
                found[f"visibility_{level}"] = visibility(server_url=server.url, durability=level, count=count, folder=folder)
    return found
