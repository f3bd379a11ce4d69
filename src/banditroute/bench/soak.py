"""Mixed load for long at a share of the peak: is memory flat, does the store grow by no more than is said, does all go well?"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from banditroute.bench.many.redis_server import NOT_RUN, newest
from banditroute.bench.many.redis_server import serving as redis_serving
from banditroute.bench.mixed import AOF, UNDER_WAY, Served, served

SHARE = 0.7
SLICE_S = 30.0
WARM_SHARE = 0.2
RETAINED_EVENTS = 20_000
CHECKPOINT_EVERY = 5_000

Progress = Callable[[int, int], object]


def rss_bytes(pid: int) -> int:
    """Resident memory of a process, in bytes; 0 where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(*, minutes: float, store: str, share: float = SHARE, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Samples every half minute: pairs, errors, p99s, the server's memory, and the store's size.

    Args:
        store: `sqlite` or `redis` (aof, fsync always).
        share: of the peak that is measured first.
    """
    binary = newest()
    if store == "redis" and binary is None:
        return dict(NOT_RUN)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="banditroute-bench-")))
        kept = {"log_retention_events": RETAINED_EVENTS, "checkpoint_every": CHECKPOINT_EVERY, "feedback_window_s": 60.0}
        size: Callable[[], dict[str, int]]
        if store == "redis":
            assert binary is not None
            server = stack.enter_context(redis_serving(binary, folder / "redis", *AOF))
            client: Any = stack.enter_context(redis.Redis(port=server.port, protocol=2))
            target = stack.enter_context(served(folder, store=server.url, local={"redis": {"durability": "aof"}, **kept}))
            size = lambda: _redis_size(client)  # noqa: E731
        else:
            target = stack.enter_context(served(folder, store=f"sqlite:///{folder}/state", local=kept))
            size = lambda: {"bytes": sum(path.stat().st_size for path in (folder / "state").iterdir())}  # noqa: E731
        return _soaked(target, size, minutes=minutes, share=share, progress=progress)


def _redis_size(client: Any) -> dict[str, int]:
    tag = b"{banditroute}:"
    info = client.info("memory")
    return {
        "bytes": int(info["used_memory_dataset"]),
        "events": int(client.xlen(tag + b"events")),
        "keys": int(client.dbsize()),
    }


def _soaked(
    target: Served, size: Callable[[], dict[str, int]], *, minutes: float, share: float, progress: Progress
) -> dict[str, Any]:
    pairs = target.pairs()
    pairs.closed(under_way=UNDER_WAY, seconds=5.0)
    peak = pairs.closed(under_way=UNDER_WAY, seconds=10.0).per_s
    samples: list[dict[str, Any]] = []
    start, count = time.monotonic(), max(2, round(minutes * 60.0 / SLICE_S))
    for i in range(count):
        progress(i, count)
        tally = pairs.open(per_s=share * peak, seconds=SLICE_S)
        memory = {"server_rss_bytes": rss_bytes(target.process.pid)}
        samples.append({"minute": (time.monotonic() - start) / 60.0, **tally.to_json(), **memory, "store": size()})
    progress(count, count)
    warm = samples[max(1, int(WARM_SHARE * count)) :]
    memory_bytes = [sample["server_rss_bytes"] for sample in warm]
    third = max(1, len(memory_bytes) // 3)
    first, last = (sum(part) / len(part) for part in (memory_bytes[:third], memory_bytes[-third:]))
    return {
        "peak_pairs_per_s": peak,
        "load": share,
        "pairs": sum(round(sample["pairs_per_s"] * SLICE_S) for sample in samples),
        "failed": sum(sample["failed"] for sample in samples),
        "errors": dict(sum((Counter(sample["errors"]) for sample in samples), Counter())),
        "rss_change_after_warm_up": last / first - 1.0,
        "rss_spread_after_warm_up": max(memory_bytes) / min(memory_bytes) - 1.0,
        "store_bytes": [sample["store"]["bytes"] for sample in samples],
        "samples": samples,
    }
