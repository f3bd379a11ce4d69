"""The decision sink in Redis: a stream beside the log, one entry per batch, numbered without gaps and bounded in bytes.

Entries have the server's time, so a decision is looked for where batches of its time are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import redis

from banditroute.core.errors import StoreUnavailable
from banditroute.log.redis_link import store_errors
from banditroute.log.redis_script import Argument, Command, run_loaded
from banditroute.log.sink import Cursor, StoredBatch
from banditroute.log.sink_codec import DamagedBatch, KeptDecision, decoded

PAGE_BATCHES = 32
EARLY_MS, LATE_MS = 60_000, 600_000
"""How far the server's clock at the batch may be from a replica's at the decision: before it, and behind it."""


class SinkStream(NamedTuple):
    """Where the stream is: `client` opens a client, `keys` are the log's own, as its script expects them, and the stream's."""

    log_id: str
    client: Callable[[], redis.Redis]
    keys: list[bytes]
    key: bytes


class RedisSinkWriter:
    """A `BatchWriter` into the stream of a namespace.

    Args:
        kept_bytes: what the stream's batches may come to; the oldest go first.
        retention_s: how long batches are kept, in seconds.
    """

    def __init__(self, stream: SinkStream, *, kept_bytes: int, retention_s: float) -> None:
        self._stream, self._kept_bytes, self._retention_ms = stream, kept_bytes, int(retention_s * 1000)
        self._client: redis.Redis | None = None

    def write(self, *, first_ms: int, last_ms: int, rows: str, numbers: bytes) -> None:
        """Keeps a batch. Raises StoreUnavailable."""
        arguments: list[Argument] = [self._kept_bytes, self._retention_ms, first_ms, last_ms, rows, numbers]
        try:
            with store_errors():
                if self._client is None:
                    self._client = self._stream.client()
                run_loaded(self._client, self._stream.keys, Command("batch", arguments), None)
        except StoreUnavailable:
            self.close()  # the server may be elsewhere by now
            raise

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


class RedisSinkReader:
    """A `SinkReader` of a namespace's stream. A cursor is ``{"log": id, "entry": id, "batch": number}``; of another log it stands
    before the first batch of this one."""

    def __init__(self, stream: SinkStream) -> None:
        self._stream = stream

    @property
    def exists(self) -> bool:
        return bool(self._ask(lambda client: client.exists(self._stream.key)))

    def batches(self, after: Cursor | None, *, since_ms: int = 0) -> Iterator[StoredBatch]:
        """See `SinkReader`."""
        entry, seen = self._place(after)
        newest = self._ask(lambda client: client.xrevrange(self._stream.key, count=1))
        end, lost = newest[0][0] if newest else b"0-0", 0
        while True:
            page = self._page(b"(" + entry if entry else b"-", end)
            for entry, fields in page:
                number = int(fields[b"i"])
                lost += number - seen - 1
                seen = number
                if int(fields[b"l"]) >= since_ms:
                    cursor = {"log": self._stream.log_id, "entry": entry.decode(), "batch": number}
                    yield StoredBatch(cursor, lost, fields[b"r"].decode(), fields[b"n"])
                    lost = 0
            if len(page) < PAGE_BATCHES:
                return

    def _page(self, start: bytes, end: bytes) -> list[Any]:
        found: list[Any] = self._ask(lambda client: client.xrange(self._stream.key, min=start, max=end, count=PAGE_BATCHES))
        return found

    def count_after(self, after: Cursor | None) -> int:
        """See `SinkReader`."""
        _, seen = self._place(after)
        newest = self._ask(lambda client: client.xrevrange(self._stream.key, count=1))
        count: int = self._ask(lambda client: client.xlen(self._stream.key))
        return min(count, int(newest[0][1][b"i"]) - seen) if newest else 0

    def find(self, decision: bytes) -> KeptDecision | None:
        """See `SinkReader`."""
        key, time_ms = decision.hex(), int.from_bytes(decision[:6], "big")
        start, end = f"{max(0, time_ms - EARLY_MS)}-0".encode(), f"{time_ms + LATE_MS}-0".encode()
        while True:
            page = self._page(start, end)
            for _, fields in page:
                rows = fields[b"r"].decode()
                if key not in rows or not int(fields[b"f"]) <= time_ms <= int(fields[b"l"]):
                    continue
                try:
                    held = decoded(rows, fields[b"n"])
                except DamagedBatch as error:
                    raise StoreUnavailable(f"the stream of decisions holds it in a damaged batch: {error}") from error
                found = next((row for row in held if row.decision == key), None)
                if found is not None:
                    return found
            if len(page) < PAGE_BATCHES:
                return None
            start = b"(" + page[-1][0]

    def _place(self, after: Cursor | None) -> tuple[bytes, int]:
        """The entry and the number of the last batch that was read."""
        if after is None or after.get("log") != self._stream.log_id:
            return b"", 0
        return after["entry"].encode(), int(after["batch"])

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        with store_errors():
            client = self._stream.client()
            try:
                return question(client)
            finally:
                client.close()
