"""Durable feedback into a log in Redis, beside a bare script that does the same calls with as many bytes."""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from banditroute.bench.many.redis_server import NOT_RUN, RedisServer, newest, serving
from banditroute.core.types import Attempt, Signal, SignalKind
from banditroute.log import redis_writer
from banditroute.log.base import EventLog, FeedbackAppend
from banditroute.log.redis import RedisLog
from banditroute.redis_address import Durability, parse_address
from banditroute.tokens import uuid7

THREADS = 4
UNDER_WAY = 200
"""Feedbacks that each thread has under way: two full BatchFeedback."""

BARE = """
redis.call('GET', KEYS[1])
local held = redis.call('HMGET', KEYS[2], 'position', 'chain', 'time_us', 'config')
local position = tonumber(held[1] or '0') + 1
redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
redis.call('XADD', KEYS[4], position .. '-0', 't', '1', 'k', 'feedback', 'v', '1', 'b', ARGV[2], 'c', '0')
redis.call('HSET', KEYS[2], 'position', position, 'chain', '0', 'time_us', '1')
redis.call('SET', KEYS[1], ARGV[3], 'PX', 3600000)
return { 'ok', position }
"""


def feedbacks(count: int, rng: random.Random) -> list[FeedbackAppend]:
    """First feedbacks as the engine makes them: a judgement and an attempt each."""
    now_ms = int(time.time() * 1000)
    made = []
    for number in range(count):
        key = uuid7(now_ms, rng.getrandbits(74))
        decision = {
            "id": key.hex(),
            "category": f"category-{number % 7}",
            "model": f"model-{number % 4}",
            "propensity": rng.random(),
            "expected_quality": rng.random(),
            "expected_cost_usd": rng.random() / 1000,
            "input_tokens": rng.randrange(500, 1500),
            "state_position": number,
            "schema": "0123456789abcdef",
            "context": [],
        }
        signal = Signal(SignalKind.EVAL_SCORE, rng.random())
        attempt = Attempt(input_tokens=900, output_tokens=200, cost_usd=0.001, latency_s=rng.random(), computed_usd=0.0011)
        made.append(FeedbackAppend(key, decision, (signal,), (attempt,), None, (now_ms + 48 * 3_600_000) * 1000))
    return made


def ours(log: EventLog, told: Sequence[FeedbackAppend]) -> float:
    """Feedbacks a second from several threads, each with many under way."""

    def work(mine: Sequence[FeedbackAppend]) -> None:
        waiting: deque[Any] = deque()
        for feedback in mine:
            if len(waiting) >= UNDER_WAY:
                waiting.popleft().result()
            waiting.append(log.append_feedback(feedback))
        for future in waiting:
            future.result()

    threads = [threading.Thread(target=work, args=(told[i::THREADS],)) for i in range(THREADS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(told) / (time.perf_counter() - began)


def bare(server: RedisServer, sizes: tuple[int, int], count: int, group: int, wait: Sequence[Any] | None) -> float:
    """Bare runs of the script a second, `group` in one pipeline with the command behind it that waits; `sizes` of body and
    record in bytes."""
    body, record = ("x" * size for size in sizes)
    keys = [f"{{bare}}:{name}" for name in ("meta", "ordinals", "events")]
    with closing(server.client()) as client:
        client.delete(*keys)
        sha = client.script_load(BARE)
        began = time.perf_counter()
        for start in range(0, count, group):
            pipeline: Any = client.pipeline(transaction=False)
            for number in range(start, min(count, start + group)):
                pipeline.evalsha(sha, 4, f"{{bare}}:r:{number}", *keys, f"category-{number % 7}", body, record)
            if wait is not None:
                pipeline.execute_command(*wait)
            pipeline.execute()
        return count / (time.perf_counter() - began)


def _event_sizes(told: Sequence[FeedbackAppend]) -> tuple[int, int]:
    """Mean bytes of an event's body and of a record, as they are sent."""
    places = redis_writer.random_places()
    commands = [redis_writer.FeedbackWork(each, b"key", places).command() for each in told[:100]]
    arguments = [command.arguments for command in commands if command is not None]
    rest, record = (int(statistics.mean(len(each[i]) for each in arguments)) for i in (2, 3))  # type: ignore[arg-type]
    return rest + record, record


def run(*, quick: bool = False) -> dict[str, Any]:
    """Per level of durability: feedbacks a second as a ratio to the bare script's, in turn on one server."""
    binary = newest()
    if binary is None:
        return NOT_RUN
    rounds, count = (2, 4_000) if quick else (5, 20_000)
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="banditroute-bench-") as folder,
        serving(binary, Path(folder), "--appendonly", "yes", "--appendfsync", "always") as server,
    ):
        address = parse_address(server.url)
        for level in ("memory", "aof"):
            durability = Durability.parse(level)
            _configure(server, "no" if level == "memory" else "yes")
            seen: dict[str, list[float]] = {"ours": [], "bare": []}
            for _ in range(rounds):
                told = feedbacks(count, random.Random(uuid.uuid4().int))
                with closing(RedisLog(address, namespace=uuid.uuid4().hex, durability=durability, timeout_s=30.0)) as log:
                    ours(log, told[:500])
                    with counting(log) as sizes:
                        seen["ours"].append(ours(log, told[500:]))
                    group = round(statistics.mean(sizes))
                wait = durability.wait(30.0, waitaof=True)
                seen["bare"].append(bare(server, _event_sizes(told), count, group, wait))
            found[level] = {
                "group": group,
                "bare_per_s": statistics.median(seen["bare"]),
                "ours_per_s": statistics.median(seen["ours"]),
                "throughput_ratio": statistics.median(a / b for a, b in zip(seen["ours"], seen["bare"], strict=True)),
            }
    return found


@contextmanager
def counting(log: RedisLog) -> Iterator[list[int]]:
    """The sizes of the groups that are written meanwhile."""
    sizes: list[int] = []
    held = log._writer._commit

    def counted(works: Sequence[Any]) -> None:
        sizes.append(len(works))
        held(works)

    log._writer._commit = counted  # type: ignore[method-assign]
    try:
        yield sizes
    finally:
        log._writer._commit = held  # type: ignore[method-assign]


def _configure(server: RedisServer, appendonly: str) -> None:
    with server.client() as client:
        client.flushall()
        client.config_set("appendonly", appendonly)
