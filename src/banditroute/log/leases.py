"""Leases within one process: enough for a store that one process owns, whose end ends them all."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Leases:
    """See `EventLog.claim`. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}

    def claim(self, name: str, owner: str, lease_s: float) -> bool:
        with self._lock:
            now = self._clock()
            holder, until = self._held.get(name, (owner, now))
            if holder != owner and now < until:
                return False
            self._held[name] = owner, now + lease_s
            return True
