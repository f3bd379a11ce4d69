"""What entries of the stream and keys of the journal are, as Redis holds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from banditroute.core.errors import EventsVanished
from banditroute.core.types import Event
from banditroute.log.base import JournalKey, chained


def position_of(entry: Any) -> int:
    """Where an entry of the stream lies."""
    return int(entry[0].partition(b"-")[0])


def events_of(entries: Sequence[Any], after: int, previous: bytes | None) -> list[Event]:
    """Entries of the stream as events, once positions and chain are seen to hold; without `previous`, from the second on.

    Raises:
        EventsVanished: an entry does not follow from the one before it.
    """
    events = []
    for expected, entry in enumerate(entries, after + 1):
        fields = entry[1]
        time_us, kind, chain = int(fields[b"t"]), fields[b"k"].decode(), bytes.fromhex(fields[b"c"].decode())
        follows = previous is None or chain == chained(
            previous, position=expected, append_time_us=time_us, kind=kind, body=fields[b"b"]
        )
        if position_of(entry) != expected or not follows:
            raise EventsVanished(f"event {expected} does not follow from the one before it")
        events.append(Event(expected, time_us, kind, int(fields[b"v"]), json.loads(fields[b"b"]), chain))
        previous = chain
    return events


def journal_key(key: JournalKey) -> bytes:
    """Sorts as bytes like the key itself."""
    epoch, position, index = (max(0, part) for part in key)
    return f"{epoch:010d}:{position:016d}:{index:010d}".encode()


def key_in(raw: bytes) -> JournalKey:
    """The inverse of `journal_key`."""
    epoch, position, index = (int(part) for part in raw.split(b":"))
    return epoch, position, index
