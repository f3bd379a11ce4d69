"""Decisions of this process whose quality is not known yet.

Where feedback is late, an arm that was just asked would be asked again and again; the gate counts what is in flight
(`core/policy.py`). It is not part of what was learned: other replicas have their own, and a restart begins with none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

LATEST = 256
"""Of a category's decisions; older ones without feedback are taken as lost, for some feedback never comes."""

_NONE: Mapping[str, int] = {}


class InFlight:
    """Counts by category and model. Takes no lock: every step is one that the interpreter does not interrupt."""

    def __init__(self) -> None:
        self._latest: dict[str, deque[tuple[str, bytes]]] = {}
        self._waiting: dict[str, dict[str, dict[bytes, None]]] = {}

    def started(self, category: str, model: str, decision: bytes) -> None:
        """A decision was made."""
        latest = self._latest.get(category)
        if latest is None:
            latest = self._latest.setdefault(category, deque())
            self._waiting.setdefault(category, {})
        waiting = self._waiting[category]
        ids = waiting.get(model)
        if ids is None:
            ids = waiting.setdefault(model, {})
        ids[decision] = None
        latest.append((model, decision))
        if len(latest) > LATEST:
            old_model, old = latest.popleft()
            waiting[old_model].pop(old, None)

    def answered(self, category: str, model: str, decision: bytes) -> None:
        """Its quality was told, perhaps not for the first time, perhaps of another process' decision."""
        ids = self._waiting.get(category, {}).get(model)
        if ids is not None:
            ids.pop(decision, None)

    def of(self, category: str) -> Mapping[str, int]:
        """How many are in flight, by model; models with none may be missing."""
        waiting = self._waiting.get(category)
        if waiting is None:
            return _NONE
        return {model: len(ids) for model, ids in list(waiting.items()) if ids}
