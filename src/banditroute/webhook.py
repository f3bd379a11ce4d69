"""Webhooks: each line of the journal as a signed POST, repeated until its receiver has taken it.

A thread per receiver reads the journal forward and keeps in the log's store how far it has come. So a line is delivered at
least once, over restarts and `kill -9`, in order, with the same key each time; and a dead receiver loses nothing and holds
nobody else up. Of several processes on one log, the one with the claim delivers.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import random
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx

from banditroute import logs
from banditroute._version import __version__
from banditroute.core.errors import StoreClosed, StoreError
from banditroute.core.types import JournalRow
from banditroute.journal import JournalTail, key_of
from banditroute.log.base import EventLog, JournalKey
from banditroute.receivers import Receiver
from banditroute.summaries import actor_of, change_reason_of, summarise

SIGNATURE_HEADER, KEY_HEADER = "X-Banditroute-Signature", "Idempotency-Key"
HEADERS = {"User-Agent": f"banditroute/{__version__}", "Content-Type": "application/json"}
ATTEMPT_TIMEOUT_S = 10.0
"""To connect, to send, and for each part of the answer."""
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
LEASE_S = 180.0
"""Longer than a pause and an attempt together."""
CLOSE_WAIT_S = 3.0
"""How long closing waits for a POST on its way; what is not answered by then is sent again at the next start."""
READ_LIMIT = 100
ANSWER_PARTS = 8
REFUSED_FOR_GOOD = frozenset({400, 410, 413, 415, 422})
"""Answers that the same body will get again. Others (not found, unauthorised) somebody may mend."""

_START: JournalKey = 0, 0, 0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

log = logs.logger("banditroute.webhook")


def signature(secret: bytes, body: bytes, *, time_s: int) -> str:
    """The signature header's value: HMAC-SHA256 over ``TIME.BODY``, in hex. `time_s` in Unix seconds."""
    digest = hmac.new(secret, f"{time_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={time_s},v1={digest}"


def idempotency_key(row: JournalRow, log_id: str) -> str:
    """The same for every delivery of a line, and for no other line of any log."""
    return f"{log_id}-{row.epoch}-{row.position}-{row.index}"


def payload(row: JournalRow, log_id: str) -> bytes:
    """What is sent of a line, as JSON."""
    time = _EPOCH + timedelta(microseconds=row.append_time_us)
    data = {
        "key": {"log_id": log_id, "epoch": row.epoch, "position": row.position, "index": row.index},
        "time": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "kind": row.kind,
        "summary": summarise(row),
        "actor": actor_of(row),
        "change_reason": change_reason_of(row),
        "details": dict(row.body),
    }
    return json.dumps(data, default=str).encode()


class Webhook:
    """Delivers to one receiver while it lives. `clock` gives Unix seconds.

    It begins where it left off; the first time, with what comes after the log is folded at the start.
    """

    def __init__(self, receiver: Receiver, *, event_log: EventLog, tail: JournalTail, clock: Callable[[], float]) -> None:
        self._receiver, self._log, self._tail, self._clock = receiver, event_log, tail, clock
        self._name = f"webhook:{receiver.name}"
        self._owner = uuid.uuid4().hex
        self._at: JournalKey | None = None
        self._saved: JournalKey | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"banditroute-{self._name}", daemon=True)
        self.refused_count = 0
        """Lines that the receiver refused for good."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stops delivering. Idempotent."""
        self._stop.set()
        self._tail.wake()
        self._thread.join(CLOSE_WAIT_S)

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                with httpx.Client(timeout=ATTEMPT_TIMEOUT_S, headers=HEADERS) as client:
                    while not self._stop.is_set():
                        self._turn(client)
                        pause_s = FIRST_PAUSE_S
            except StoreClosed:
                return
            except StoreError as error:
                log.warning("webhook cannot use the log; trying again", webhook=self._receiver.name, cause=str(error))
            except Exception:  # it must not end the thread, and with it all that is to come
                log.exception("webhook failed; trying again", webhook=self._receiver.name)
            self._stop.wait(pause_s)
            pause_s = min(2.0 * pause_s, MAX_PAUSE_S)
        with suppress(StoreError):
            self._claim(0.0)

    def _claim(self, lease_s: float) -> bool:
        return self._log.claim(self._name, self._owner, lease_s)

    def _turn(self, client: httpx.Client) -> None:
        """Waits for lines and delivers them."""
        if self._at is None:
            self._at = self._log.cursor(self._name) or self._tail.start(self._stop.is_set)
            if self._at is None:
                return
        self._save()
        rows = self._tail.after(self._at, limit=READ_LIMIT, ended=self._stop.is_set)
        kinds = self._receiver.events
        for row in rows:
            wanted = kinds is None or row.kind in kinds
            if wanted and not self._deliver(client, row):
                self._stop.wait(LEASE_S)  # another process delivers: see later whether it still does
                return
            self._at = key_of(row)
            if wanted:
                self._save()
        self._save()

    def _save(self) -> None:
        if self._at is not None and self._at != self._saved:
            self._log.save_cursor(self._name, self._at)
            self._saved = self._at

    def _deliver(self, client: httpx.Client, row: JournalRow) -> bool:
        """Sends a line until it is taken or refused for good; False where that is not for this process to do."""
        said = log.bind(webhook=self._receiver.name, kind=row.kind, position=row.position, index=row.index)
        attempts, pause_s = 0, FIRST_PAUSE_S
        while not self._stop.is_set() and self._claim(LEASE_S):
            if (self._log.cursor(self._name) or _START) >= key_of(row):  # another process has
                return True
            attempts += 1
            answer = self._post(client, row)
            if isinstance(answer, int) and 200 <= answer < 300:
                if attempts > 1:
                    said.info("webhook taken after failures", attempts=attempts)
                return True
            if answer in REFUSED_FOR_GOOD:
                self.refused_count += 1
                said.error("webhook refused for good; going on with the next", status=answer, refused_count=self.refused_count)
                return True
            if attempts & (attempts - 1) == 0:  # at powers of two: a receiver may be away for days
                said.warning("webhook failed; trying again", cause=answer, attempts=attempts)
            self._stop.wait(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2.0 * pause_s, MAX_PAUSE_S)
        return False

    def _post(self, client: httpx.Client, row: JournalRow) -> int | str:
        """The answer's status, or what went wrong; redirects are answers like others."""
        body = payload(row, self._log.log_id)
        headers = {
            SIGNATURE_HEADER: signature(self._receiver.secret, body, time_s=int(self._clock())),
            KEY_HEADER: idempotency_key(row, self._log.log_id),
        }
        try:
            with client.stream("POST", self._receiver.url, content=body, headers=headers) as response:
                with suppress(httpx.HTTPError):  # read out of politeness, and not for ever
                    for _ in itertools.islice(response.iter_raw(), ANSWER_PARTS):
                        pass
                return response.status_code
        except httpx.TransportError as error:
            return f"{type(error).__name__}: {error}"
        except httpx.InvalidURL as error:  # says the URL
            return type(error).__name__
