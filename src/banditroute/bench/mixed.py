"""Route and Feedback mixed, over real sockets: the server as `banditroute serve` runs it, on SQLite and on Redis, beside an empty
handler; and what other routers take in process for less.

The load comes from this process, the server has its own and keeps to one core (`serve --pin`), this one to the others. What
`--pin` brings is measured on the way.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import yaml

from banditroute.bench import peers
from banditroute.bench.load import CORES, cpu_seconds, route_requests, serving, until_ready
from banditroute.bench.many.redis_server import NOT_RUN, newest
from banditroute.bench.many.redis_server import serving as redis_serving
from banditroute.bench.pairs import Pairs
from banditroute.bench.setups import config
from banditroute.bench.timing import in_turn
from banditroute.serving import CAN_PIN

UNDER_WAY = 32
CHANNELS = 4
LOADS = (0.5, 0.7)
PEERS = ("litellm_router_pick", "paretobandit_route_and_feedback")
AOF = ("--appendonly", "yes", "--appendfsync", "always")


class Served(NamedTuple):
    """A running server with channels to it."""

    process: subprocess.Popen[str]
    channels: list[grpc.Channel]

    def pairs(self) -> Pairs:
        return Pairs(self.channels, route_requests("four"))


@contextmanager
def served(folder: Path, *, store: str, options: tuple[str, ...] = (), local: Mapping[str, Any] = {}) -> Iterator[Served]:
    """`banditroute serve` on a store, as a process of its own. `local` goes into its configuration."""
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [{"id": "bench", "secret": "5e" * 32}]}), encoding="utf-8")
    document = {**config(store=store), "signing_keys_file": str(keys), **local}
    path = folder / "banditroute.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "banditroute", "serve", "--config", str(path), *listen, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split("router=")[1].split()[0]
        with ExitStack() as stack:
            channels = [
                stack.enter_context(grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]))
                for _ in range(CHANNELS)
            ]
            until_ready(channels[0])
            yield Served(process, channels)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


PIN = ("--pin",) if CAN_PIN else ()


@contextmanager
def _on_other_cores() -> Iterator[None]:
    """Keeps this process off the server's core, where there is another one."""
    apart = CAN_PIN and len(CORES) > 1
    if apart:
        os.sched_setaffinity(0, set(CORES[1:]))
    try:
        yield
    finally:
        if apart:
            os.sched_setaffinity(0, set(CORES))


def run(*, quick: bool = False) -> dict[str, Any]:
    """Pairs a second at the peak and latencies at half and at 70 % of it, as ratios to the empty handler's."""
    seconds = 2.0 if quick else 8.0
    result: dict[str, Any] = {"free_cores": os.cpu_count()}
    with serving("empty") as empty:
        ceiling = result["empty"] = _measured(Pairs([empty.channel], route_requests("four")), empty.process, seconds)
    for name, pin in (("sqlite", PIN), ("sqlite_not_pinned", ())):
        with (
            tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder,
            served(Path(folder), store=f"sqlite:///{folder}/state", options=pin) as server,
            _on_other_cores() if pin else contextlib.nullcontext(),
        ):
            result[name] = _measured(server.pairs(), server.process, seconds)
    binary = newest()
    for name, options, durability in (("redis_memory", (), "memory"), ("redis_aof", AOF, "aof")):
        if binary is None:
            result[name] = NOT_RUN
            continue
        with (
            tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder,
            redis_serving(binary, Path(folder) / "redis", *options) as redis,
            served(Path(folder), store=redis.url, local={"redis": {"durability": durability}}, options=PIN) as server,
            _on_other_cores(),
        ):
            result[name] = _measured(server.pairs(), server.process, seconds)
    for name in ("sqlite", "sqlite_not_pinned", "redis_memory", "redis_aof"):
        with contextlib.suppress(KeyError):
            result[name]["throughput_ratio"] = result[name]["peak"]["pairs_per_s"] / ceiling["peak"]["pairs_per_s"]
    others, missing = peers.subjects()
    in_process = {name: subject for name, subject in others.items() if name in PEERS}
    result["peers_in_process"] = {
        **in_turn(in_process, count=200 if quick else 1000, rounds=3),
        **{name: peers.NOT_INSTALLED for name in missing if name in PEERS},
    }
    return result


def _measured(pairs: Pairs, process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    pairs.closed(under_way=UNDER_WAY, seconds=seconds / 4)
    cpu, own = cpu_seconds(process), os.times()
    peak = pairs.closed(under_way=UNDER_WAY, seconds=seconds)
    now = os.times()
    found: dict[str, Any] = {
        "peak": peak.to_json(),
        "server_busy": (cpu_seconds(process) - cpu) / peak.took_s,
        "load_generator_busy": (now.user + now.system - own.user - own.system) / peak.took_s,
    }
    for share in LOADS:
        found[f"at_{share:.0%}_of_peak".replace("%", "_percent")] = pairs.open(
            per_s=share * peak.per_s, seconds=seconds
        ).to_json()
    return found
