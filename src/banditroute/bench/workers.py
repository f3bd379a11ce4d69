"""Workers: Route with one and with two beside the empty handler, and four processes that append to one SQLite log."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from banditroute.bench.load import CORES, serving
from banditroute.bench.setups import config

FREE_CORES = 4
"""Two for two workers, two for the load on them."""
WRITERS, CLIENTS = 4, 16
SEEN = 200


@contextmanager
def supervised(count: int) -> Iterator[tuple[str, list[int]]]:
    """A service of so many workers, on as many cores as there are to spare: its address and the workers' process ids."""
    with tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder:
        path = Path(folder) / "banditroute.yaml"
        path.write_text(json.dumps({**config(store="sqlite:///./state"), "server": {"drain_s": 0.0, "grace_s": 0.5}}))
        command = [sys.executable, "-m", "banditroute", "serve", "--config", str(path), "--workers", str(count)]
        command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        _stay_on(CORES[:count])
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split("router=")[1].split()[0]
            _stay_on(CORES[count:] or CORES)
            yield address, _children(process.pid) or [process.pid]
        finally:
            process.terminate()
            process.wait(timeout=60)
            _stay_on(CORES)


def _stay_on(cores: Sequence[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(cores))


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def _cpu_s(pids: Sequence[int]) -> float:
    stats = [Path(f"/proc/{pid}/stat") for pid in pids]
    fields = [path.read_text().rsplit(")", 1)[1].split() for path in stats if path.exists()]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _part(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "banditroute.bench.workers_part", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _together(parts: Sequence[Sequence[object]]) -> list[Any]:
    """What processes say that begin at the same time: each opens first, and waits for a word."""
    with ExitStack() as stack:
        running = [stack.enter_context(_part(*arguments)) for arguments in parts]
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return [json.loads(process.communicate()[0]) for process in running]


def _load(address: str, pids: Sequence[int], seconds: float) -> dict[str, float]:
    loads = 2 if len(CORES) >= FREE_CORES else 1
    cpu = _cpu_s(pids)
    found = _together([("load", address, seconds)] * loads)
    per_s = sum(each["per_s"] for each in found)
    busy = sum(each["cpu_s"] for each in found)
    served = _cpu_s(pids) - cpu
    return {"per_s": per_s, "failed": sum(each["failed"] for each in found), "load_share": busy / (busy + served)}


def _routes(rounds: int, seconds: float) -> dict[str, Any]:
    """Each in turn, on the same cores."""
    seen: dict[str, list[dict[str, float]]] = {"empty": [], "one": [], "two": []}
    for _ in range(rounds):
        with serving("empty") as target:
            seen["empty"].append(_load(target.address, [target.process.pid], seconds))
        for name, count in (("one", 1), ("two", 2)):
            with supervised(count) as (address, pids):
                seen[name].append(_load(address, pids, seconds))
    found: dict[str, Any] = {
        name: {key: statistics.median(row[key] for row in rows) for key in ("per_s", "failed", "load_share")}
        for name, rows in seen.items()
    }
    found["one_of_empty"] = found["one"]["per_s"] / found["empty"]["per_s"]
    ratio = found["two"]["per_s"] / found["one"]["per_s"]
    found["two_of_one"] = ratio
    found["two_of_one_bar_1.7"] = ratio if len(CORES) >= FREE_CORES else f"not run: needs four free cores, there are {len(CORES)}"
    return found


def _appends(rounds: int, seconds: float) -> dict[str, Any]:
    """Feedback appended by several processes at once, each with many callers; beside one process alone."""
    alone, together, fair = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder:
            alone += _together([("append", folder, 0, seconds, WRITERS * CLIENTS)])
        with tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder:
            rates = _together([("append", folder, number, seconds, CLIENTS) for number in range(WRITERS)])
        together.append(sum(rates))
        fair.append(min(rates) / statistics.mean(rates))
    return {
        "processes": WRITERS,
        "per_s": statistics.median(together),
        "of_one_process": statistics.median(a / b for a, b in zip(together, alone, strict=True)),
        "least_of_mean_rate": min(fair),
    }


def _visible() -> dict[str, float]:
    """Milliseconds from an append on an idle log to another process that sees it; the disk's share is in it."""
    with tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder:
        waited, _ = _together([("see", folder, SEEN), ("write", folder, SEEN)])
    return {"p50_ms": statistics.median(waited), "p99_ms": sorted(waited)[int(0.99 * len(waited))]}


def run(*, quick: bool = False) -> dict[str, Any]:
    """Figures of both. With fewer than four cores the load takes its share of the workers', and is told beside them."""
    rounds, seconds = (1, 1.0) if quick else (5, 2.0)
    return {"route": _routes(rounds, seconds), "append": _appends(rounds, seconds), "visible_elsewhere": _visible()}
