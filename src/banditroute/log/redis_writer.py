"""The one thread of a process that writes to a log in Redis.

It sends whatever has come in since it last did so in one pipeline, with the command behind it that waits for replicas or the
disk; so many callers share one round trip and one fsync. Nobody is answered before that command is.
"""

from __future__ import annotations

import functools
import json
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import redis
from redis.exceptions import NoScriptError

from banditroute.core.errors import FeedbackWindowOver, StoreClosed, StoreError, StoreUnavailable
from banditroute.core.settings import canonical_json
from banditroute.core.types import FeedbackReceipt
from banditroute.log.base import PURGED, SKEW_US, FeedbackAppend, merged_feedback
from banditroute.log.redis_link import moved, unavailable
from banditroute.log.redis_pipe import Pipe
from banditroute.log.redis_script import SCRIPT, Argument, Command, run
from banditroute.redis_address import Durability

GROUP_SIZE = 512
MAX_QUEUED = 10_000
MAX_ROUNDS = 64
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.05, 2.0

_PLACES = (b"\x01", b"\x02", b"\x03")
"""Where the script puts position, time and ordinal. JSON escapes these characters, so no text of a user's is taken for one."""


class Work(Protocol):
    """Something to be written. `key`: works of one key are done one after the other."""

    future: Future[Any]
    key: bytes | None

    def command(self) -> Command | None:
        """What to send now; None where nothing is left to do and `outcome` has the answer."""

    def answered(self, reply: Any) -> bool:
        """Takes the script's reply; False where it must be sent again."""

    def outcome(self) -> Any:
        """What the caller gets. Raises what the caller is to see."""


class Plain:
    """A command whose reply says all."""

    key: bytes | None = None

    def __init__(self, command: Command, meaning: Callable[[Any], Any]) -> None:
        self.future: Future[Any] = Future()
        self._command, self._meaning = command, meaning
        self._reply: Any = None

    def command(self) -> Command:
        return self._command

    def answered(self, reply: Any) -> bool:
        self._reply = reply
        return True

    def outcome(self) -> Any:
        return self._meaning(self._reply)


class FeedbackWork:
    """Feedback on its way: merged here with what is known of its decision, kept by the script if that is still what is known.

    Most decisions have no feedback yet, so that is assumed first.
    """

    def __init__(self, feedback: FeedbackAppend, record_key: bytes, places: tuple[int, int, int]) -> None:
        self.future: Future[Any] = Future()
        self.key: bytes | None = record_key
        self._feedback, self._places = feedback, places
        self._known = b""
        self._receipt: FeedbackReceipt | None = None
        self._refused = ""

    def command(self) -> Command | None:
        feedback = self._feedback
        position, time_us, ordinal = self._places
        record = json.loads(self._known) if self._known else None
        merged = merged_feedback(feedback, record, position=position, append_time_us=time_us, ordinal=ordinal)
        self._receipt = merged.receipt()
        if merged.body is None and not merged.merge.touched:
            return None
        made_us = int.from_bytes(feedback.key[:6], "big") * 1000
        record_text = canonical_json(merged.merge.record)
        rest = b""
        if merged.body is not None:  # "after" is the record, and sorts first: it is sent once
            rest = canonical_json({name: part for name, part in merged.body.items() if name != "after"})[1:].encode()
        observed: Argument = "" if feedback.observe_us is None else feedback.observe_us
        arguments: list[Argument] = [feedback.decision["category"], self._known, rest, self._placed(record_text)]
        arguments += [observed, made_us, feedback.expire_us, SKEW_US]
        return Command("feedback", arguments, self.key)

    def _placed(self, text: str) -> bytes:
        raw = text.encode()
        for number, place in _placing(self._places):
            raw = raw.replace(number, place)
        return raw

    def answered(self, reply: Any) -> bool:
        match reply:
            case int(position):
                receipt = self._receipt
                assert receipt is not None
                if receipt.state_position == self._places[0]:
                    self._receipt = receipt._replace(state_position=position)
                return True
            case [b"known", record]:
                self._known = record
                return False
            case [b"gone"]:
                self._known = b""
                return False
            case [b"ahead"]:
                self._feedback = self._feedback._replace(observe_us=None)  # the store's clock is the latest there is
                return False
            case [b"over"]:
                self._refused = "the decision's feedback window is over"
            case _:
                self._refused = PURGED
        return True

    def outcome(self) -> FeedbackReceipt:
        if self._refused:
            raise FeedbackWindowOver(self._refused)
        assert self._receipt is not None
        return self._receipt


def random_places() -> tuple[int, int, int]:
    """Numbers that stand for position, time and ordinal until the script knows them: later than any time, and never guessed."""
    rng = random.SystemRandom()
    first, second, third = (10**18 * digit + rng.randrange(10**17) for digit in (7, 8, 9))
    return first, second, third


@functools.lru_cache(64)
def _placing(places: tuple[int, int, int]) -> list[tuple[bytes, bytes]]:
    return [(str(number).encode(), place) for number, place in zip(places, _PLACES, strict=True)]


class Writer:
    """See the module's text.

    Args:
        client: opens a client with one connection, after an error a new one; and says with which command to wait until what
            came before is kept.
        keys: the log's own, as the script expects them.
        now: the time in microseconds that the script is told; None: the server's own.
    """

    def __init__(
        self,
        client: Callable[[], tuple[redis.Redis, Sequence[str | int] | None]],
        keys: Sequence[bytes],
        *,
        durability: Durability,
        now: Callable[[], int] | None,
    ) -> None:
        self._open, self._keys = client, keys
        self._durability, self._now = durability, now
        self._wait: Sequence[str | int] | None = None
        self._client: redis.Redis | None = None
        self._pipe: Pipe | None = None
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._failures, self._away_until = 0, 0.0
        self._entering = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="banditroute-log", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> Future[Any]:
        """Takes work; its future is settled when what it wrote is kept.

        Raises:
            StoreClosed
            StoreUnavailable: too much waits, or the server was away a moment ago.
        """
        work.future.set_running_or_notify_cancel()  # what is on its way cannot be called back
        with self._entering:
            if self._closed:
                raise StoreClosed("the log is closed")
            if time.monotonic() < self._away_until:
                raise StoreUnavailable("the Redis server is away; trying it again soon")
            if self._queue.qsize() >= MAX_QUEUED:
                raise StoreUnavailable("the log is behind: too much waits to be written; try again")
            self._queue.put(work)
        return work.future

    def close(self) -> None:
        """Writes what waits. Idempotent."""
        with self._entering:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._drop_client()

    def _run(self) -> None:
        going = True
        while going:
            works = [self._queue.get()]
            while len(works) < GROUP_SIZE and not self._queue.empty():
                works.append(self._queue.get())
            going = None not in works
            self._commit([work for work in works if work is not None])

    def _commit(self, works: Sequence[Work]) -> None:
        for _ in range(MAX_ROUNDS):
            if not works:
                return
            try:
                works = self._round(works)
            except Exception as error:
                # Whatever is left on the connection is nobody's answer any more.
                self._fail(works, error, away=True)
                return
        self._fail(works, StoreUnavailable("others keep changing the same decisions; try again"), away=False)

    def _fail(self, works: Sequence[Work], error: BaseException, *, away: bool) -> None:
        shown = error if isinstance(error, StoreError) else unavailable(error)
        if away:
            self._failures += 1
            pause = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures, 10))
            self._away_until = time.monotonic() + pause * random.uniform(0.5, 1.0)  # not all replicas at once
            self._drop_client()
        for work in works:
            if not work.future.done():
                work.future.set_exception(shown)

    def _drop_client(self) -> None:
        pipe, self._pipe = self._pipe, None
        client, self._client = self._client, None
        for each in (pipe, client):
            if each is not None:
                each.close()

    def _round(self, works: Sequence[Work]) -> list[Work]:
        """Sends each work once; gives those that are to be sent again. What raises concerns all."""
        if self._client is None or self._pipe is None:
            self._client, self._wait = self._open()
            self._pipe = Pipe(self._client)
        pipe = self._pipe
        sent: list[Work] = []
        done: list[Work] = []
        later: list[Work] = []
        under_way: set[bytes] = set()
        for work in works:
            if work.key is not None and work.key in under_way:
                later.append(work)
                continue
            try:
                command = work.command()
            except Exception as error:  # this one cannot be written: the others can
                work.future.set_exception(error)
                continue
            if command is None:
                done.append(work)
                continue
            if work.key is not None:
                under_way.add(work.key)
            run(pipe, self._keys, command, self._now)
            sent.append(work)
        if sent and self._wait is not None:
            pipe.execute_command(*self._wait)
        replies = pipe.replies()
        if any(isinstance(reply, NoScriptError) for reply in replies):
            pipe.execute_command("SCRIPT", "LOAD", SCRIPT)
            pipe.replies()
        kept = self._wait is None or not sent or self._is_kept(replies[-1])
        again: list[Work] = []
        for work, reply in zip(sent, replies, strict=False):
            if isinstance(reply, NoScriptError):
                again.append(work)
            elif isinstance(reply, Exception) and moved(reply):
                raise reply
            elif isinstance(reply, Exception):
                work.future.set_exception(unavailable(reply))
            elif not kept:
                work.future.set_exception(StoreUnavailable(f"written, but not kept yet ({self._durability}): send it again"))
            elif work.answered(reply):
                done.append(work)
            else:
                again.append(work)
        self._failures = 0
        for work in done:
            try:
                work.future.set_result(work.outcome())
            except Exception as error:
                work.future.set_exception(error)
        return again + later

    def _is_kept(self, reply: Any) -> bool:
        if isinstance(reply, Exception):
            raise reply
        return self._durability.kept(reply)
