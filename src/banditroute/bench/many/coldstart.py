"""A long log: how soon a process serves from its checkpoint, how fast all of it is folded again, and what trimming leaves.

The log is SQLite's, filled with events of the kind that feedback makes, chained as the log chains them. Logs in SQLite and in
Redis are trimmed behind their checkpoints while they grow.
"""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from banditroute.bench.many.redis_server import newest, serving
from banditroute.bench.many.setups import document, write_config
from banditroute.bench.many.throughput import feedbacks, ours
from banditroute.config import load, resolved
from banditroute.core.fold import learn
from banditroute.core.settings import parse_shared
from banditroute.core.sights import Columns
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Event, EventKind, RouteQuery
from banditroute.log.base import Tip, made_event, merged_feedback
from banditroute.log.checkpoint import checkpoint_of
from banditroute.log.redis import RedisLog
from banditroute.log.sqlite import LOG_FILE, SqliteLog
from banditroute.redis_address import Durability, parse_address
from banditroute.wiring import open_engine

EVENTS_VARIABLE = "BANDITROUTE_BENCH_EVENTS"
TAIL = 5_000
"""Events behind the checkpoint, on average half of `checkpoint_every`."""
TRIMMED_EVERY, KEPT = 5_000, 10_000
DAY_US = 86_400 * 10**6
"""Between two trimmings: what is remembered of decisions for two days is soon as large as it gets."""


def made(count: int, began_us: int) -> Iterator[tuple[Event, str]]:
    """A configuration and first feedbacks, chained; with their bodies as text."""
    shared = resolved(load(document("memory:")).shared, {})
    tip, ordinals = Tip(0, b""), dict.fromkeys(("chat", "code"), 0)
    event, raw = made_event(tip, append_time_us=began_us, kind=EventKind.CONFIG, body={"document": shared})
    yield event, raw.decode()
    categories = parse_shared(shared).categories
    told = feedbacks(2_000, random.Random(1))
    for number in range(1, count):
        tip = Tip(event.position, event.chain)
        feedback = told[number % len(told)]
        category = "code" if number % 2 else "chat"
        ordinals[category] += 1
        key = number.to_bytes(16, "big")
        settings = categories[category]
        context = {"schema": settings.schema.hex(), "context": [float(number % 7) for _ in settings.features]}
        feedback = feedback._replace(key=key, decision={**feedback.decision, "category": category, "id": key.hex(), **context})
        now_us = began_us + 100 * number
        merged = merged_feedback(feedback, None, position=event.position + 1, append_time_us=now_us, ordinal=ordinals[category])
        assert merged.body is not None
        event, raw = made_event(tip, append_time_us=now_us, kind=EventKind.FEEDBACK, body=merged.body)
        yield event, raw.decode()


def filled(folder: Path, count: int) -> State:
    """Writes a log of `count` events with a checkpoint TAIL before its end; the state there."""
    SqliteLog(folder, time.time).close()
    state, columns = INITIAL, Columns()
    began_us = int(time.time() * 1e6) - 100 * count
    with closing(sqlite3.connect(folder / LOG_FILE, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute("BEGIN")
        for event, raw in made(count, began_us):
            db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", (*event[:4], raw, event.chain))
            if event.position <= count - TAIL:
                state, _ = learn(state, event, columns)
        db.execute("COMMIT")
    with closing(SqliteLog(folder, time.time)) as log:
        log.save_checkpoint(checkpoint_of(state))
    return state


def started(folder: Path, checkpoint_every: int) -> float:
    """Seconds from opening the log to the first decision on all of it."""
    config = load(write_config(folder, f"sqlite:///{folder}", checkpoint_every=checkpoint_every))
    began = time.perf_counter()
    with closing(open_engine(config, threaded=False)) as engine:
        engine.route(RouteQuery("code"), min_state_position=engine.info().log_position)
        return time.perf_counter() - began


def refolded(folder: Path, most: int) -> float:
    """Events a second, read and folded from the first on."""
    state, columns = INITIAL, Columns()
    began = time.perf_counter()
    with closing(SqliteLog(folder, time.time, read_only=True)) as log:
        while state.position < most and (events := log.read(state.position, 1000)):
            for event in events:
                state, _ = learn(state, event, columns)
    return state.position / (time.perf_counter() - began)


def trimmed_on_disk(count: int) -> dict[str, Any]:
    """A SQLite log that is trimmed behind its checkpoints, its records' window over soon: its file half way, and at the end."""
    sizes: list[int] = []
    late_us = 0
    with (
        tempfile.TemporaryDirectory(prefix="banditroute-bench-") as name,
        closing(SqliteLog(Path(name), lambda: time.time() + late_us / 1e6)) as log,
    ):
        for number in range(count // TRIMMED_EVERY):
            told = feedbacks(TRIMMED_EVERY, random.Random(number))
            ours(log, [each._replace(expire_us=each.expire_us + late_us) for each in told])
            tip = log.tip()
            log.save_checkpoint(checkpoint_of(INITIAL._replace(position=tip.position, chain=tip.chain)))
            log.trim(tip.position - KEPT)
            log.purge_records()
            sizes.append(sum(each.stat().st_size for each in Path(name).iterdir()))
            late_us += DAY_US
    return {"events": TRIMMED_EVERY * len(sizes), "mbytes_half_way": sizes[len(sizes) // 2] / 1e6, "mbytes": sizes[-1] / 1e6}


def trimming(count: int) -> dict[str, Any] | None:
    """A log in Redis that is trimmed behind its checkpoints: what its stream takes after `count` events, and what it would."""
    binary = newest()
    if binary is None:
        return None
    with tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder, serving(binary, Path(folder)) as server:
        log = RedisLog(parse_address(server.url), namespace="long", durability=Durability(), timeout_s=30.0)
        with closing(log), server.client() as client:
            sizes: list[int] = []
            lengths: list[int] = []
            for number in range(count // TRIMMED_EVERY):
                ours(log, feedbacks(TRIMMED_EVERY, random.Random(number)))
                sizes.append(client.memory_usage("{long}:events", samples=0) or 0)
                lengths.append(client.xlen("{long}:events"))
                tip = log.tip()
                log.save_checkpoint(checkpoint_of(INITIAL._replace(position=tip.position, chain=tip.chain)))
                log.trim(tip.position - KEPT)
                records = int(client.info("memory")["used_memory"]) - sizes[-1]
        return {
            "events": TRIMMED_EVERY * len(sizes),
            "most_events_kept": max(lengths),
            "stream_bytes_per_event": sizes[-1] / lengths[-1],
            "most_stream_mbytes": max(sizes) / 1e6,
            "other_bytes_per_decision": records / count,
        }


def run(*, quick: bool = False) -> dict[str, Any]:
    """A start from the checkpoint as a share of folding everything anew. 200,000 events; 5,000,000 and more by
    BANDITROUTE_BENCH_EVENTS."""
    count = int(os.environ.get(EVENTS_VARIABLE, "20000" if quick else "200000"))
    with tempfile.TemporaryDirectory(prefix="banditroute-bench-") as name:
        folder = Path(name)
        began = time.perf_counter()
        filled(folder, count)
        filled_s = time.perf_counter() - began
        start_s = started(folder, 10**9)
        rate = refolded(folder, count)
        size = (folder / LOG_FILE).stat().st_size
    return {
        "events": count,
        "filled_s": filled_s,
        "bytes_per_event": size / count,
        "cold_start_s": start_s,
        "refold_per_s": rate,
        "cold_start_over_refold": start_s / (count / rate),
        "trimmed_on_disk": trimmed_on_disk(min(count, 100_000)),
        "trimmed_in_redis": trimming(min(count, 50_000)) or "not run: no redis-server",
    }
