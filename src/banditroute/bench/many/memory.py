"""What a log in Redis takes of the server's memory: bytes of each part, and how well they foretell a log of other sizes."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from banditroute.bench.many.redis_server import NOT_RUN, RedisServer, binaries, newest, serving
from banditroute.core.types import Attempt, Signal, SignalKind, Transition
from banditroute.log.base import Checkpoint, FeedbackAppend
from banditroute.log.redis import RedisLog
from banditroute.redis_address import Durability, parse_address
from banditroute.tokens import uuid7

NAMESPACE = "banditroute"
MODELS = ("gpt-4.1-mini", "claude-haiku", "mistral-large", "llama-3.1-8b")
CATEGORIES = ("summarise", "write-code", "classify", "extract")
WINDOW_US = 48 * 3600 * 10**6
AT_ONCE = 2_000
LINES = 1_000
CHECKPOINT_BYTES = 300_000
FEATURES = 4
OPTIONS = ("--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0")


def feedback(number: int, features: int, rng: random.Random) -> FeedbackAppend:
    """First feedback as the engine logs it: one judgement, and what the call cost."""
    now_ms = int(time.time() * 1000)
    into, out, cost = rng.randrange(300, 3000), rng.randrange(50, 900), rng.random() / 100
    decision = {
        "id": (key := uuid7(now_ms, rng.getrandbits(74))).hex(),
        "category": rng.choice(CATEGORIES),
        "model": rng.choice(MODELS),
        "propensity": rng.random(),
        "expected_quality": rng.random(),
        "expected_cost_usd": cost,
        "input_tokens": into,
        "state_position": number,
        "schema": "0123456789abcdef",
        "context": [rng.gauss(5.0, 2.0) for _ in range(features)],
    }
    signal = Signal(SignalKind.EVAL_SCORE, round(rng.random(), 3), "judge-v2")
    attempt = Attempt(
        input_tokens=into, output_tokens=out, cost_usd=round(cost * 1.1, 6), latency_s=rng.random(), computed_usd=cost
    )
    return FeedbackAppend(key, decision, (signal,), (attempt,), None, now_ms * 1000 + WINDOW_US)


class Filled:
    """A log on a server of its own, filled step by step."""

    def __init__(self, server: RedisServer, seed: int) -> None:
        self._rng, self._told = random.Random(seed), 0
        self._client: Any = server.client()
        address = parse_address(server.url)
        self.log = RedisLog(address, namespace=NAMESPACE, durability=Durability(), timeout_s=30.0)
        self.tell(1, 0)  # loads the script, opens the connections,
        self.checkpoint()  # and makes the server's buffers as large as they get

    def used(self) -> int:
        """Bytes in use, less what connections, the append-only file and what scripts have not swept up yet take for a while."""
        found = self._client.info("memory")
        buffers = ("mem_clients_normal", "mem_clients_slaves", "mem_aof_buffer", "used_memory_lua")
        return int(found["used_memory"]) - sum(int(found.get(name, 0)) for name in buffers)

    def on_disk(self) -> int:
        """Bytes of the append-only file."""
        return int(self._client.info("persistence")["aof_current_size"])

    def of(self, *keys: str) -> int:
        """Bytes of these keys of the log."""
        return sum(int(self._client.execute_command("MEMORY", "USAGE", f"{{{NAMESPACE}}}:{key}", "SAMPLES", 0)) for key in keys)

    def freed(self, key: str) -> int:
        """Bytes that removing a key sets free: of a stream, `of` says too much."""
        before = self.used()
        self._client.delete(f"{{{NAMESPACE}}}:{key}")
        return before - self.used()

    def tell(self, count: int, features: int) -> None:
        """First feedbacks on so many decisions."""
        for start in range(0, count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count))
            sent = [self.log.append_feedback(feedback(self._told + n, features, self._rng)) for n in numbers]
            for each in sent:
                each.result()
        self._told += count

    def note(self, count: int) -> None:
        """So many derived lines of the journal."""
        body = {"model": MODELS[0], "category": CATEGORIES[0], "change": -0.1, "evidence": 0.9, "reason": "it got worse"}
        for start in range(0, count, 100):
            lines = [Transition(n, 0, 1_800_000_000_000_000, "demoted", body) for n in range(start, start + 100)]
            self.log.record_transitions(lines)

    def checkpoint(self) -> None:
        tip = self.log.tip()
        self.log.save_checkpoint(Checkpoint(tip.position, tip.chain, 1, "ab" * 32, b"x" * CHECKPOINT_BYTES))

    def trim(self, kept: int) -> None:
        """Keeps so many events, and those that share a node with them."""
        self.checkpoint()
        self.log.trim(self.log.tip().position - kept)

    def close(self) -> None:
        self.log.close()
        self._client.close()


def parts(binary: Path, folder: Path, features: int, count: int) -> dict[str, float]:
    """Bytes of one event, one decision's record, one line of the journal and one checkpoint, and on disk of one feedback."""
    with serving(binary, folder, *OPTIONS) as server, closing(Filled(server, seed=features)) as filled:
        disk, before = filled.on_disk(), filled.used()
        filled.tell(count, features)
        whole, written = filled.used() - before, (filled.on_disk() - disk) / count
        filled.note(LINES)
        line, checkpoint = filled.of("journal", "lines") / LINES, filled.of("states") / CHECKPOINT_BYTES
        event = filled.freed("events") / count
        return {"event": event, "record": whole / count - event, "disk": written, "line": line, "checkpoint": checkpoint}


def of_both(plain: Mapping[str, float], rich: Mapping[str, float]) -> dict[str, float]:
    """The parts, from a run without features and one with FEATURES of them; `feature` is what one adds to an event."""
    found = {name: plain[name] for name in ("event", "line", "checkpoint", "disk")}
    return {
        **found,
        "feature": (rich["event"] - plain["event"]) / FEATURES,
        "record": (plain["record"] + rich["record"]) / 2,
        "disk_feature": (rich["disk"] - plain["disk"]) / FEATURES,
    }


def foretold(each: Mapping[str, float], *, events: int, features: int, decisions: int, lines: int, checkpoints: int) -> float:
    """The formula of docs/reference/redis.md: bytes of a log."""
    return (
        events * (each["event"] + features * each["feature"])
        + decisions * each["record"]
        + lines * each["line"]
        + checkpoints * CHECKPOINT_BYTES * each["checkpoint"]
    )


def again(binary: Path, folder: Path, each: Mapping[str, float], count: int) -> dict[str, float]:
    """A log of other sizes, most of whose events are trimmed, beside what was foretold of it."""
    kept, lines, features = count // 4, LINES // 2, FEATURES // 2
    with serving(binary, folder, *OPTIONS) as server, closing(Filled(server, seed=9)) as filled:
        before = filled.used()
        filled.tell(count, features)
        filled.note(lines)
        filled.trim(kept)
        measured = filled.used() - before
    expected = foretold(each, events=kept, features=features, decisions=count, lines=lines, checkpoints=1)
    return {"measured_bytes": measured, "foretold_bytes": expected, "ratio": expected / measured}


def run(*, quick: bool = False) -> dict[str, Any]:
    """Bytes by server; the formula is held against a second log on the same server."""
    count = 10_000 if quick else 100_000
    servers = {name: path for name, path in binaries().items() if name != "valkey"}
    if not servers and (found := newest()) is not None:
        servers = {found.name: found}
    if not servers:
        return dict(NOT_RUN)
    result: dict[str, Any] = {"feedbacks": count}
    for name, binary in servers.items():
        with tempfile.TemporaryDirectory(prefix="banditroute-") as folder:
            runs = [parts(binary, Path(folder, f"with-{features}"), features, count) for features in (0, FEATURES)]
            each = of_both(*runs)
            result[name] = {"bytes": each, "again": again(binary, Path(folder, "again"), each, count * 3 // 10)}
    return result
