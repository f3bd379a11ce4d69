"""Do replicas that share a log agree, to the bit, with each other and with one process that saw the same stream?

Each decision is made on one replica and judged on any, some of them twice and some anew, in random order and all at once. What
was said is then said again in the log's order to a SQLite log whose clock shows the times of the events.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from banditroute.bench.many.replica import Replica
from banditroute.bench.many.setups import report, write_config
from banditroute.core.fold import learn
from banditroute.core.settings import parse_shared
from banditroute.core.sights import Columns
from banditroute.core.state import INITIAL
from banditroute.core.types import Event, EventKind
from banditroute.intake import appended
from banditroute.log.base import EventLog
from banditroute.log.checkpoint import encode
from banditroute.log.redis import RedisLog
from banditroute.log.sqlite import SqliteLog
from banditroute.redis_address import Durability, parse_address
from banditroute.tokens import TokenSigner
from banditroute.wiring import read_keys

REPLICAS = 3
ROUND = 1000
"""Feedbacks that each replica hears at once."""
REPEATED, CORRECTED = 0.1, 0.1
"""Shares of the feedbacks that were said before, and that say otherwise than before."""
NAMESPACE = "agreement"


class Said(NamedTuple):
    """Feedback and what became of it."""

    decision_id: str
    score: float
    observed_s: float
    disposition: str
    position: int

    @property
    def place(self) -> tuple[int, bool]:
        """Where it took effect: as the event at its position, or somewhere behind it."""
        return self.position, self.disposition in {"DUPLICATE", "STALE"}


def said_by(replicas: Sequence[Replica], each: int, rng: random.Random) -> list[Said]:
    """Has every replica hear `each` feedbacks."""
    said: list[Said] = []
    began = time.time() - 3600.0
    waiting: list[tuple[str, float, float]] = []
    with ThreadPoolExecutor(len(replicas)) as pool:
        for start in range(0, each, ROUND):
            size = min(ROUND, each - start) * len(replicas)
            again = rng.sample(waiting, min(len(waiting), int(size * (REPEATED + CORRECTED))))
            waiting = []
            decided = pool.map(lambda r: r.ask("decide", -(-(size - len(again)) // len(replicas))), replicas)  # noqa: B023
            fresh = [decision_id for ids in decided for decision_id in ids][: size - len(again)]
            items = again + [(decision_id, round(rng.random(), 3), began + rng.uniform(0, 60)) for decision_id in fresh]
            for item in rng.sample(items[len(again) :], int(len(fresh) * 0.5)):
                repeated = rng.random() < REPEATED / (REPEATED + CORRECTED)
                waiting.append(item if repeated else (item[0], round(rng.random(), 3), item[2] + rng.uniform(-30, 60)))
            # Half of what is said again comes in the same breath, to whichever replica.
            half = len(waiting) // 2
            items = items[: size - half] + waiting[:half]
            waiting = waiting[half:]
            rng.shuffle(items)
            shares = [items[i :: len(replicas)] for i in range(len(replicas))]
            answers = pool.map(lambda pair: pair[0].ask("learn", pair[1]), zip(replicas, shares, strict=True))
            for share, answer in zip(shares, answers, strict=True):
                if isinstance(answer, Mapping):
                    raise RuntimeError(f"feedback failed: {answer['failed']}")
                said += [Said(*item, *became) for item, became in zip(share, answer, strict=True)]
    return said


def states(replicas: Sequence[Replica], position: int) -> list[dict[str, Any]]:
    """What each replica knows once it has folded `position`."""
    while True:
        found = [replica.ask("state") for replica in replicas]
        if all(each["position"] >= position for each in found):
            return found
        time.sleep(0.01)


def all_events(log: EventLog) -> list[Event]:
    """From the first on."""
    events: list[Event] = []
    while found := log.read(len(events), 1000, chain=events[-1].chain if events else None):
        events += found
    return events


def replayed(events: Sequence[Event], said: Sequence[Said], signer: TokenSigner, folder: Path) -> tuple[list[Event], str]:
    """What one process makes of the same stream: its events, and the digest of its state."""
    now_us = 0
    log = SqliteLog(folder, lambda: (now_us + 0.5) / 1e6)
    log._writer.execute("PRAGMA synchronous=OFF")  # one commit per event, so that each has its time; nobody needs them kept
    state, columns = INITIAL, Columns()
    at = 0
    settings = None
    try:
        for each in [None, *sorted(said, key=lambda one: one.place)]:
            if each is None:  # the configuration came first
                now_us, at = events[0].append_time_us, 1
                log.append(EventKind.CONFIG, events[0].body).result()
                settings = parse_shared(events[0].body["document"])
                continue
            if not each.place[1]:
                now_us, at = events[at].append_time_us, at + 1
            token = signer.verify(each.decision_id)
            assert settings is not None
            expire_us = token.time_ms * 1000 + settings.feedback_window_us
            told = report(each.decision_id, each.score, each.observed_s)
            log.append_feedback(appended(told, token, settings, expire_us=expire_us)).result()
        again = all_events(log)
    finally:
        log.close()
    for event in again:
        state, _ = learn(state, event, columns)
    return again, hashlib.sha256(encode(state)).hexdigest()


def run(*, server_url: str, each: int, seed: int = 1, folder: Path) -> dict[str, Any]:
    """Three replicas, `each` feedbacks heard by every one of them; whether all agree."""
    config = write_config(
        folder, server_url, checkpoint_every=1000, redis={"namespace": NAMESPACE, "durability": "memory", "timeout_s": 30.0}
    )
    with ExitStack() as stack:
        replicas = [Replica(config, folder / f"replica-{i}.log") for i in range(REPLICAS)]
        for replica in replicas:
            stack.callback(replica.kill)
        for replica in replicas:
            replica.await_ready()
        began = time.perf_counter()
        said = said_by(replicas, each, random.Random(seed))
        took = time.perf_counter() - began
        end = max(one.position for one in said)
        found = states(replicas, end)
        late = Replica(config, folder / "late.log")
        stack.callback(late.kill)
        late.await_ready()
        found += states([late], end)
    log = RedisLog(parse_address(server_url), namespace=NAMESPACE, durability=Durability(), timeout_s=30.0, read_only=True)
    try:
        events = all_events(log)
        signer = TokenSigner(read_keys(folder / "keys.json"), log.log_id)
    finally:
        log.close()
    with tempfile.TemporaryDirectory(prefix="banditroute-bench-") as scratch:
        again, digest = replayed(events, said, signer, Path(scratch))
    kinds = [one.disposition for one in said]
    return {
        "replicas": REPLICAS,
        "feedbacks": len(said),
        "events": len(events),
        "duplicates_or_stale": sum(kind in {"DUPLICATE", "STALE"} for kind in kinds),
        "corrections": len({one.position for one in said if not one.place[1]}) - len({one.decision_id for one in said}),
        "divergences": sum(one["divergences"] for one in found),
        "distinct_states": len({one["digest"] for one in found}),
        "events_equal_one_sqlite_run": events == again,
        "state_equals_one_sqlite_run": digest == found[0]["digest"],
        "feedbacks_per_s": len(said) / took,
    }
