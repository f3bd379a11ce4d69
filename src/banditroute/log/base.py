"""`EventLog`: the whole storage interface, and what all backends share."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, NamedTuple

from banditroute.core.fold import FOLD_VERSION
from banditroute.core.reward import Merge, merge, overall
from banditroute.core.settings import canonical_json
from banditroute.core.types import Attempt, Event, EventKind, FeedbackReceipt, JournalRow, Signal, Transition

CHAIN_BYTES = 16
SKEW_US = 3600 * 10**6 + 5 * 60 * 10**6
"""Idempotency records outlive the feedback window by an hour and five minutes of clock skew."""

KEPT_CHECKPOINTS = 3
PURGED = "the decision is as old as others whose feedback is no longer remembered; its window is over"
"""Where the window was made longer: taking such feedback could count it twice."""

JOURNALLED = (EventKind.CONFIG, EventKind.OPERATOR)

JournalKey = tuple[int, int, int]
"""(epoch, position, index): the place of a line in the journal."""


class FeedbackAppend(NamedTuple):
    """Feedback on its way into the log.

    `decision` is what the event keeps of the decision (JSON data, at least category and model);
    `key` its 16-byte id. After `expire_us` (by the store's clock) the store refuses it.
    """

    key: bytes
    decision: Mapping[str, Any]
    signals: tuple[Signal, ...]
    attempts: tuple[Attempt, ...]
    observe_us: int | None
    expire_us: int


class Tip(NamedTuple):
    """The end of the log: the last event's position and chain value (0 and empty before the first)."""

    position: int
    chain: bytes


class Checkpoint(NamedTuple):
    """A saved state: where on the log it lies, which fold made it, and its bytes."""

    position: int
    chain: bytes
    fold_version: int
    digest: str
    body: bytes


class EventLog(abc.ABC):
    """One append-only log with dense positions from 1, and what lives beside it.

    Every method raises StoreClosed after `close`, and StoreUnavailable where the store cannot be
    written or read now (disk full, gone); nothing is half written then. Thread-safe.
    """

    keeps_configuration: ClassVar[bool] = False
    """Whether the configuration that it has stands until `apply`: else start and SIGHUP adopt the file's."""
    log_id: str
    """Random, made with the log: says which log a decision belongs to."""
    epoch: int
    """Raised where a log is rewritten, so that (epoch, position, index) stays unique."""

    @abc.abstractmethod
    def append(self, kind: EventKind, body: Mapping[str, Any], *, replaces: int | None = None) -> Future[Event]:
        """Appends a configuration or operator event, in the journal too. Resolves when durable.

        The future raises ConfigReplaced where `replaces` is given and is not the position of the newest configuration (0: none).
        """

    @abc.abstractmethod
    def append_feedback(self, feedback: FeedbackAppend) -> Future[FeedbackReceipt]:
        """Merges feedback into its decision's record and, if that changes anything, appends an event
        that holds the record as it was and as it is. Resolves when durable.

        The future raises FeedbackWindowOver where the store's clock is past `expire_us`.
        """

    @abc.abstractmethod
    def read(self, after: int, limit: int, *, chain: bytes | None = None) -> Sequence[Event]:
        """Up to `limit` durable events behind position `after`, in order; empty at the end.

        Raises EventsTrimmed where `after` lies before what was trimmed, and EventsVanished where the event at `after` is not
        the one whose chain value is `chain`, or is gone.
        """

    @abc.abstractmethod
    def wait(self, after: int, timeout_s: float) -> bool:
        """Waits until there is a durable event behind `after`, or that one has vanished; False if there was none in time."""

    @abc.abstractmethod
    def tip(self) -> Tip:
        """The last durable event."""

    @abc.abstractmethod
    def record(self, key: bytes) -> Mapping[str, Any] | None:
        """All feedback so far on one decision (see `core/reward.py`); None where there is none."""

    def rewound(self) -> None:  # noqa: B027  (a log that nobody shares loses none)
        """Told by who found that events vanished, before it reads on: begins the next epoch, unless another has."""

    @abc.abstractmethod
    def save_checkpoint(self, checkpoint: Checkpoint) -> str | None:
        """Keeps a checkpoint; only the newest few that lie on this log are kept.

        Returns:
            The digest of the state that is kept for this place: another's, where another process saved one first. None
            where the checkpoint does not lie on this log.
        """

    @abc.abstractmethod
    def newest_checkpoint(self, *, oldest: int, newest: int) -> Checkpoint | None:
        """The newest one of those fold versions, both included, that lies on this log (position and chain)."""

    @abc.abstractmethod
    def record_transitions(self, transitions: Sequence[Transition]) -> Sequence[Transition]:
        """Adds derived lines to the journal; idempotent by (epoch, position, index). Gives those that were new."""

    @abc.abstractmethod
    def journal(self, *, before: JournalKey | None, limit: int) -> Sequence[JournalRow]:
        """Up to `limit` lines of the journal, newest first, strictly before the key `before`."""

    @abc.abstractmethod
    def journal_after(self, after: JournalKey | None, limit: int) -> Sequence[JournalRow]:
        """Up to `limit` lines of the journal, oldest first, strictly behind the key `after`; None: from the first.

        A derived line comes later than those of the appends that it was folded after: see `journal.Journal`.
        """

    @abc.abstractmethod
    def claim(self, name: str, owner: str, lease_s: float) -> bool:
        """Takes or renews the lease `name` for `lease_s` seconds of the store's clock; 0 gives it up.

        False while another owner's lasts. A holder that was slow may overlap with the next one.
        """

    @abc.abstractmethod
    def cursor(self, name: str) -> JournalKey | None:
        """How far the reader `name` has come in the journal; None before its first `save_cursor`."""

    @abc.abstractmethod
    def save_cursor(self, name: str, key: JournalKey) -> None:
        """Keeps how far a reader has come: durable when this returns, and never back."""

    @abc.abstractmethod
    def trim(self, position: int) -> int:
        """Removes events up to `position`, as far as they lie before the newest checkpoint; says how many.

        That checkpoint's own event stays: it proves that the checkpoint lies on this log.
        """

    @abc.abstractmethod
    def purge_records(self) -> int:
        """Removes idempotency records that have expired; says how many."""

    @abc.abstractmethod
    def key_checks(self, mine: Sequence[str]) -> None:
        """Notes which signing keys are in use.

        Raises:
            StoreKeyMismatch: the log was made with keys of which `mine` has none.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Makes everything durable and lets go of the store. Idempotent."""


def chained(previous: bytes, *, position: int, append_time_us: int, kind: str, body: bytes) -> bytes:
    """The chain value of an event: ties it to everything before it.

    It tells a lost or replaced event from the one that was there, not a forger's from a genuine one: SHA-1, since a script in
    Redis has no other hash at hand.
    """
    head = f"{previous.hex()}\n{position}\n{append_time_us}\n{kind}\n".encode()
    return hashlib.sha1(head + body, usedforsecurity=False).digest()[:CHAIN_BYTES]


def made_event(previous: Tip, *, append_time_us: int, kind: EventKind, body: Mapping[str, Any]) -> tuple[Event, bytes]:
    """The next event, and its body as bytes."""
    raw = canonical_json(body).encode()
    position = previous.position + 1
    chain = chained(previous.chain, position=position, append_time_us=append_time_us, kind=kind, body=raw)
    return Event(position, append_time_us, kind.value, FOLD_VERSION, body, chain), raw


class Merged(NamedTuple):
    """What feedback does to its decision's record. `body` is that of the event, None where none is due; the
    record itself is to be kept where there is one, or where `merge.touched`."""

    merge: Merge
    body: Mapping[str, Any] | None

    def receipt(self) -> FeedbackReceipt:
        """The answer; the position is that of the decision's newest event."""
        merged = self.merge
        whole = overall(merged.signal_dispositions + merged.attempt_dispositions)
        return FeedbackReceipt(whole, merged.signal_dispositions, merged.attempt_dispositions, merged.record["newest"])


def merged_feedback(
    feedback: FeedbackAppend, record: Mapping[str, Any] | None, *, position: int, append_time_us: int, ordinal: int
) -> Merged:
    """Merges feedback that would become the event at `position`.

    Args:
        record: the decision's record so far.
        ordinal: the number that the decision gets in its category if this is its first feedback.
    """
    observe_us = append_time_us if feedback.observe_us is None else min(feedback.observe_us, append_time_us)
    result = merge(
        record, drawn=feedback.decision["model"], signals=feedback.signals, attempts=feedback.attempts, observe_us=observe_us
    )
    if not result.changed:
        return Merged(result, None)
    if record is None:
        result.record.update(ordinal=ordinal, position=position, time_us=append_time_us)
    result.record["newest"] = position
    before = None if record is None else {name: record[name] for name in ("signals", "attempts")}
    return Merged(result, {"decision": feedback.decision, "before": before, "after": result.record})
