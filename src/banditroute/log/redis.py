"""The log in Redis: one log that many processes on many machines share.

Events are a stream whose ids are the positions; all else is a few keys beside it (docs/reference/redis.md), every one with
the namespace as its hash tag, so that a cluster keeps them on one node. Every change is one run of one script, atomic and
idempotent. Reading checks that positions are dense and that the chain holds, and tells where events that were read before are
gone: a server that was promoted, or restarted from its disk, may lack the newest.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import redis

from banditroute.core.errors import (
    ConfigReplaced,
    EventsTrimmed,
    EventsVanished,
    StoreClosed,
    StoreEmpty,
    StoreKeyMismatch,
    StoreTooNew,
    StoreUnavailable,
)
from banditroute.core.fold import FOLD_VERSION
from banditroute.core.settings import canonical_json
from banditroute.core.types import Event, EventKind, FeedbackReceipt, JournalRow, Transition
from banditroute.log.base import (
    JOURNALLED,
    KEPT_CHECKPOINTS,
    Checkpoint,
    EventLog,
    FeedbackAppend,
    JournalKey,
    Tip,
)
from banditroute.log.redis_codec import events_of, journal_key, key_in, position_of
from banditroute.log.redis_link import Link, Server, check_server, store_errors
from banditroute.log.redis_script import KEYS, Command, run_loaded
from banditroute.log.redis_writer import FeedbackWork, Plain, Writer, random_places
from banditroute.log.sink_redis import SinkStream
from banditroute.redis_address import Address, Durability

FORMAT_VERSION = 1
READ_CONNECTIONS = 8
WAIT_SLICE_S = 0.25

Found = TypeVar("Found")


class RedisLog(EventLog):
    """See `EventLog` and the module's text.

    Args:
        namespace: names the log; logs of different namespaces on one server know nothing of each other.
        durability: when what was appended counts as kept.
        timeout_s: how long one command may take.
        known: id and epoch of the log, from this process's last time: then the server may be away at the start, and is looked
            for whenever it is needed.
        clock: Unix seconds in place of the server's clock, for tests.
        read_only: appends nothing, and makes no log where there is none.

    Raises (on opening):
        StoreUnfit: the server cannot keep what is asked of it.
        StoreTooNew: the log has a newer format.
        StoreUnavailable: the server is away.
        StoreEmpty (read-only): there is no such log.
    """

    keeps_configuration: ClassVar[bool] = True

    def __init__(
        self,
        address: Address,
        *,
        namespace: str,
        durability: Durability,
        timeout_s: float,
        known: tuple[str, int] | None = None,
        clock: Callable[[], float] | None = None,
        read_only: bool = False,
    ) -> None:
        tag = f"{{{namespace}}}:"
        self._keys = [f"{tag}{name}".encode() for name in KEYS]
        self._sink_key = f"{tag}decisions".encode()
        self._record_prefix = f"{tag}r:".encode()
        self._now = None if clock is None else lambda: int(clock() * 1e6)
        self._read_only = read_only
        self._durability = durability
        self._closing = threading.Event()
        self._places = random_places()
        self._link = Link(address, key=f"{tag}meta", timeout_s=timeout_s)
        self._clients: dict[str, redis.Redis] = {}
        self._opening = threading.RLock()
        self._server: Server | None = None
        self.log_id, self.epoch = known or ("", 0)
        self._read_epoch = self.epoch or 1
        try:
            self._meet()
        except StoreUnavailable:
            self._drop_clients()
            if known is None:
                raise
        except BaseException:
            self._drop_clients()
            raise
        self._writer = Writer(self._writing_client, self._keys, durability=durability, now=self._now)

    def _meet(self) -> Server:
        """What the server is, once it and the log on it were found to be what is expected."""
        with self._opening:
            if self._server is None:
                server = check_server(self._client("read"), self._durability, key=self._keys[0])
                self._identify(self.log_id or uuid.uuid4().hex)
                self._server = server
            return self._server

    def _identify(self, log_id: str) -> None:
        """Takes the log's id and epoch; makes a log with `log_id` where there is none."""
        client: Any = self._client("read")
        with store_errors():
            if self._read_only:
                found = client.hmget(self._keys[0], ["format", "log_id", "epoch"])
            else:
                found = run_loaded(client, self._keys, Command("open", [FORMAT_VERSION, log_id, FOLD_VERSION]), self._now)
        if found[0] is None:
            raise StoreEmpty("no log of this namespace on this server: nothing was served from there yet")
        if int(found[0]) > FORMAT_VERSION:
            raise StoreTooNew(
                f"the log in Redis has format {int(found[0])}, this banditroute knows up to {FORMAT_VERSION}: upgrade banditroute"
            )
        if self.log_id and found[1].decode() != self.log_id:
            raise StoreUnavailable("this is another log than the one that this process has served from: start it again")
        self.log_id, self.epoch = found[1].decode(), max(self.epoch, int(found[2]))

    def _writing_client(self) -> tuple[redis.Redis, Sequence[str | int] | None]:
        """A connection to write with, and the command that returns once what came before is kept."""
        server = self._meet()
        timeout_s = self._link.timeout_s
        client = self._link.client(connections=1, timeout_s=2 * timeout_s)
        return client, self._durability.wait(timeout_s, waitaof=server.waitaof)

    # --- asking the server ---

    def _client(self, name: str, timeout_s: float | None = None) -> redis.Redis:
        with self._opening:
            client = self._clients.get(name)
            if client is None:
                client = self._clients[name] = self._link.client(
                    connections=READ_CONNECTIONS if name == "read" else 1, timeout_s=timeout_s
                )
            return client

    def _drop_clients(self) -> None:
        with self._opening:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        if self._closing.is_set():
            raise StoreClosed("the log is closed")
        try:
            self._meet()
            with store_errors():
                yield
        except StoreUnavailable:
            self._drop_clients()  # the server may be elsewhere by now, and another one
            self._server = None
            raise

    def _ask(self, question: Callable[[Any], Found]) -> Found:
        with self._asking():
            return question(self._client("read"))

    def _run(self, command: Command) -> Any:
        """The script's reply, at once and without waiting for durability."""
        return self._ask(lambda client: run_loaded(client, self._keys, command, self._now))

    def _write(self, command: Command, meaning: Callable[[Any], Found]) -> Future[Found]:
        self._writable()
        return self._writer.submit(Plain(command, meaning))

    def _writable(self) -> None:
        if self._closing.is_set():
            raise StoreClosed("the log is closed")
        if self._read_only:
            raise StoreUnavailable("the log was opened read-only")

    @property
    def sink_stream(self) -> SinkStream:
        """Where decisions are kept beside this log."""
        return SinkStream(self.log_id, lambda: self._link.client(connections=1), [*self._keys, self._sink_key], self._sink_key)

    # --- appending ---

    def append(self, kind: EventKind, body: Mapping[str, Any], *, replaces: int | None = None) -> Future[Event]:
        raw = canonical_json(body).encode()

        def meaning(reply: Any) -> Event:
            if reply[0] != b"ok":
                raise ConfigReplaced(f"the configuration was changed by another process at position {int(reply[1])}")
            _, position, time_us, chain, version = reply
            return Event(int(position), int(time_us), kind.value, int(version), body, bytes.fromhex(chain.decode()))

        journalled = int(kind in JOURNALLED)
        arguments = [kind.value, raw, journalled, "" if replaces is None else replaces]
        return self._write(Command("append", arguments), meaning)

    def append_feedback(self, feedback: FeedbackAppend) -> Future[FeedbackReceipt]:
        self._writable()
        return self._writer.submit(FeedbackWork(feedback, self._record_prefix + feedback.key, self._places))

    # --- reading ---

    def read(self, after: int, limit: int, *, chain: bytes | None = None) -> Sequence[Event]:
        if limit <= 0 and not self._closing.is_set():
            return []
        first = max(after, 1)

        def question(client: Any) -> Any:
            pipeline = client.pipeline(transaction=False)
            pipeline.hmget(self._keys[0], ["log_id", "epoch", "position"])
            pipeline.xrange(self._keys[1], min=f"{first}-0", count=limit + (after > 0))
            return pipeline.execute()

        (log_id, epoch, end), entries = self._ask(question)
        if log_id is None or log_id.decode() != self.log_id:
            raise EventsVanished("the log is gone from the Redis server: it was emptied, or replaced by one that lacks it")
        if int(end) < after:
            if chain is None:
                return []
            raise EventsVanished(f"the log ends at {int(end)}, but {after} was read from it before")
        previous = b"" if after == 0 else chain
        if after > 0 and entries and position_of(entries[0]) == after:
            previous = bytes.fromhex(entries.pop(0)[1][b"c"].decode())
            if chain not in (None, previous):
                raise EventsVanished(f"event {after} is not the one that was read before")
        if position_of(entries[0]) != after + 1 if entries else int(end) > after:
            first = position_of(entries[0]) if entries else int(end) + 1
            raise EventsTrimmed(f"events behind {after} were trimmed: start from a checkpoint", first_position=first)
        events = events_of(entries[:limit], after, previous)
        self.epoch = self._read_epoch = int(epoch)
        return events

    def wait(self, after: int, timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while True:
            left = min(WAIT_SLICE_S, until - time.monotonic())
            with self._asking():
                # 0 would be for ever; without a wait it only looks
                block = max(1, int(left * 1000)) if left > 0 else None
                client: Any = self._client("wait", self._link.timeout_s + WAIT_SLICE_S)
                found = client.xread({self._keys[1]: f"{max(after, 0)}-0"}, count=1, block=block)
            if found:
                return True
            if left <= 0 or until <= time.monotonic():
                if self._closing.is_set():
                    raise StoreClosed("the log is closed")
                return self._ends_before(after)

    def _ends_before(self, after: int) -> bool:
        """Whether events up to `after` are gone: then there is something to find out."""
        end = self._ask(lambda client: client.hget(self._keys[0], "position"))
        return after > 0 and (end is None or int(end) < after)

    def tip(self) -> Tip:
        position, chain = self._ask(lambda client: client.hmget(self._keys[0], ["position", "chain"]))
        if position is None:
            raise EventsVanished("the log is gone from the Redis server")
        return Tip(int(position), bytes.fromhex(chain.decode()))

    def record(self, key: bytes) -> Mapping[str, Any] | None:
        found = self._ask(lambda client: client.get(self._record_prefix + key))
        return None if found is None else json.loads(found)

    def rewound(self) -> None:
        with self._opening, store_errors():
            self._identify(self.log_id)  # makes it anew where the server was emptied: ids that were given out stay good
        self.epoch = self._read_epoch = int(self._run(Command("rewound", [self._read_epoch])))

    def announce(self, replica: str, said: str, lease_s: float) -> tuple[int, Mapping[str, str]]:
        """Says that a replica is there, for `lease_s` seconds (0: it leaves), and what it says of itself.

        Returns:
            The fold version that all replicas that are there can do, and so do; and what each says.
        """
        version, *there = self._run(Command("replica", [replica, FOLD_VERSION, said, lease_s]))
        texts = [each.decode() for each in there]
        return int(version), dict(zip(texts[::2], texts[1::2], strict=True))

    # --- checkpoints, journal, housekeeping ---

    def save_checkpoint(self, checkpoint: Checkpoint) -> str | None:
        position, chain, version, digest, body = checkpoint
        command = Command("checkpoint", [position, chain.hex(), version, digest, body, KEPT_CHECKPOINTS])
        return self._write(command, lambda reply: None if reply[0] == b"off" else reply[1].decode()).result()

    def newest_checkpoint(self, *, oldest: int, newest: int) -> Checkpoint | None:
        found = self._run(Command("newest", [oldest, newest]))
        if not found:
            return None
        head = json.loads(found[0])
        return Checkpoint(int(head["position"]), bytes.fromhex(head["chain"]), head["version"], head["digest"], found[1])

    def record_transitions(self, transitions: Sequence[Transition]) -> Sequence[Transition]:
        self._writable()
        if not transitions:
            return []
        arguments: list[Any] = [self.epoch]
        for line in transitions:
            arguments += [line.position, line.index, f"{line.append_time_us} {line.kind} {canonical_json(line.body)}"]

        def meaning(reply: Any) -> Sequence[Transition]:
            return [line for line, fresh in zip(transitions, reply, strict=True) if fresh]

        return self._write(Command("notes", arguments), meaning).result()

    def journal(self, *, before: JournalKey | None, limit: int) -> Sequence[JournalRow]:
        end = b"+" if before is None else b"(" + journal_key(before)
        return self._lines(lambda client: client.zrevrangebylex(self._keys[3], end, b"-", start=0, num=limit))

    def journal_after(self, after: JournalKey | None, limit: int) -> Sequence[JournalRow]:
        start = b"-" if after is None else b"(" + journal_key(after)
        return self._lines(lambda client: client.zrangebylex(self._keys[3], start, b"+", start=0, num=limit))

    def _lines(self, find: Callable[[Any], Any]) -> list[JournalRow]:
        def question(client: Any) -> tuple[Any, Any]:
            keys = find(client)
            return keys, client.hmget(self._keys[4], keys) if keys else []

        rows = []
        for key, line in zip(*self._ask(question), strict=True):
            time_us, kind, body = line.decode().split(" ", 2)
            rows.append(JournalRow(*key_in(key), int(time_us), kind, json.loads(body)))
        return rows

    def claim(self, name: str, owner: str, lease_s: float) -> bool:
        return bool(self._run(Command("claim", [name, owner, lease_s])))

    def cursor(self, name: str) -> JournalKey | None:
        found = self._ask(lambda client: client.hget(self._keys[8], name))
        return None if found is None else key_in(found)

    def save_cursor(self, name: str, key: JournalKey) -> None:
        self._write(Command("cursor", [name, journal_key(key)]), lambda _: None).result()

    def trim(self, position: int) -> int:
        return self._write(Command("trim", [max(position, 0)]), int).result()

    def purge_records(self) -> int:
        """Nothing to do: the server forgets records by itself."""
        self._writable()
        return 0

    def key_checks(self, mine: Sequence[str]) -> None:
        if not self._write(Command("checks", mine), bool).result():
            raise StoreKeyMismatch(
                "this log was made with other signing keys: give this process the same signing_keys_file as the others"
            )

    def close(self) -> None:
        if not self._closing.is_set():
            self._writer.close()
            self._closing.set()
            self._drop_clients()
