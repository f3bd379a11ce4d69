"""What is lost, counted twice or refused when something breaks while callers go on, by durability level.

Two replicas and a client with both addresses; Redis and a follower of it; the client tries again what was UNAVAILABLE, as it
always does. What it was not answered is said again once all is well: a decision that is in the log twice was counted twice.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from banditroute.bench.many.load import Load, counted, digest_of
from banditroute.bench.many.redis_server import NOT_RUN, newest
from banditroute.bench.many.site import LEVELS, Site, until

LAG = 10


class Sizes(NamedTuple):
    """How much is done: feedbacks acknowledged before and after, seconds of a pause, seconds of a command."""

    feedbacks: int
    pause_s: float
    timeout_s: float


QUICK = Sizes(100, 1.5, 0.5)
FULL = Sizes(500, 10.0, 2.0)


def kill_one(site: Site, load: Load, sizes: Sizes) -> None:
    site.replicas[0].kill()
    _more(load, sizes.feedbacks)
    _restart(site)


def kill_all(site: Site, load: Load, sizes: Sizes) -> None:
    for replica in site.replicas:
        replica.kill()
    _restart(site)


def kill_redis(site: Site, load: Load, sizes: Sizes) -> None:
    """Started again on its own files; where replicas keep it, the follower takes over: that is what they are for."""
    site.primary.kill()
    until(lambda: bool(load.feedback_errors) or bool(load.unsure), "somebody noticed")
    if site.durability.startswith("replicas"):
        site.promote()
    else:
        site.primary.start()


def pause_redis(site: Site, load: Load, sizes: Sizes) -> None:
    site.primary.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(sizes.pause_s)  # the fault is this long
    finally:
        site.primary.process.send_signal(signal.SIGCONT)


def cut_network(site: Site, load: Load, sizes: Sizes) -> None:
    """After the script has run and before its answer, ten times."""
    for count in range(site.proxy.cut_count + 1, site.proxy.cut_count + 11):
        site.proxy.cut_after(b"feedback")
        until(lambda: site.proxy.cut_count >= count, "a connection was cut")  # noqa: B023


def full_redis(site: Site, load: Load, sizes: Sizes) -> None:
    with site.primary.client() as client:
        client.config_set("maxmemory", 1)
        before = len(load.unsure)
        until(lambda: len(load.unsure) > before, "feedback was refused")
        client.config_set("maxmemory", 0)


def promote_lagging(site: Site, load: Load, sizes: Sizes) -> None:
    """The follower lacks at least the last ten events when the primary dies."""
    site.link.hold()
    events = _end(site)
    until(lambda: _end(site) >= events + LAG, "the follower lags")
    until(lambda: all(each["position"] >= events + LAG for each in site.states()), "replicas have read what will vanish")
    site.primary.kill()
    site.promote()


FAULTS: Mapping[str, Callable[[Site, Load, Sizes], None]] = {
    f.__name__: f for f in (kill_one, kill_all, pause_redis, cut_network, full_redis, kill_redis, promote_lagging)
}


def _end(site: Site) -> int:
    with site.primary.client() as client:
        return int(client.hget("{faults}:meta", "position") or 0)


def _restart(site: Site) -> None:
    gone = [replica for replica in site.replicas if replica.process.poll() is not None]
    for replica in gone:
        replica.start()
    for replica in gone:
        replica.await_ready()


def _more(load: Load, count: int) -> None:
    """Until so many more feedbacks were acknowledged."""
    enough = len(load.acknowledged) + count
    until(lambda: len(load.acknowledged) >= enough, f"{count} more feedbacks acknowledged")


def suffered(site: Site, fault: str, sizes: Sizes) -> dict[str, Any]:
    """One fault, and what became of everything that was said before, meanwhile and afterwards."""
    with site.load() as load:
        _more(load, sizes.feedbacks)
        before = {replica.process.pid: replica.ask("state") for replica in site.replicas}
        began = time.monotonic()
        FAULTS[fault](site, load, sizes)
        mended = time.monotonic()
        until(lambda: load.acknowledged_since(mended), "feedback is acknowledged again")
        until(site.whole, "all replicas are well")
        whole = time.monotonic()
        _more(load, sizes.feedbacks)
    load.say_again()
    route_silence_s, feedback_silence_s = load.silences(began, whole)
    after = site.settled()
    events = site.events()
    noticed = [
        site_state["rewinds"] - before[replica.process.pid]["rewinds"]
        for replica, site_state in zip(site.replicas, after, strict=True)
        if replica.process.pid in before
    ]
    return counted(events, load, site.signer()) | {
        "never_acknowledged": len(load.unsure),
        "vanished_noticed_by": sum(count > 0 for count in noticed),
        "states_equal": {each["digest"] for each in after} == {digest_of(events)},
        "route_errors": len(load.route_errors),
        "feedback_errors": sum(load.feedback_errors.values()),
        "route_silence_s": route_silence_s,
        "feedback_silence_s": feedback_silence_s,
        "fault_s": mended - began,
        "whole_s": whole - began,
    }


def run(*, quick: bool = False) -> dict[str, Any]:
    """Every fault at every level of durability; seconds until whole count from the moment of the fault."""
    binary = newest()
    if binary is None:
        return NOT_RUN
    sizes = QUICK if quick else FULL
    rows: list[dict[str, Any]] = []
    for level in LEVELS:
        with (
            tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder,
            Site(binary, Path(folder), durability=level, timeout_s=sizes.timeout_s) as site,
        ):
            rows += [{"fault": fault, "durability": level, **suffered(site, fault, sizes)} for fault in FAULTS]
    return {"rows": sorted(rows, key=lambda row: list(FAULTS).index(row["fault"]))}
