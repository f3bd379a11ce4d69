"""What a line of the journal says to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from banditroute.core.types import JournalRow

_DONE_TO_ARMS = {
    "pause_arm": "paused {model} {where}",
    "resume_arm": "resumed {model} {where}",
    "reset_arm": "reset {model} {where}: what was learned of it is forgotten",
}


def actor_of(row: JournalRow) -> str:
    """Who did it; empty where nobody in particular did."""
    return str(row.body.get("actor") or "")


def change_reason_of(row: JournalRow) -> str:
    """Why it was done; empty where nobody said."""
    return str(row.body.get("reason") or "") if row.kind == "operator" else ""


def summarise(row: JournalRow) -> str:
    """One plain sentence about a line of the journal. Total: an unknown kind or a missing part gives a vaguer one."""
    body = row.body
    action = str(body.get("action")) if row.kind == "operator" else ""
    who = actor_of(row) or "Somebody"
    if row.kind == "config":
        fingerprint, replaced = str(body.get("fingerprint", "unknown")), body.get("replaces")
        replacing = f", replacing revision {replaced}" if replaced else ""
        return f"Configuration {fingerprint[:12]} took effect as revision {row.position}{replacing}."
    if row.kind == "event_skipped":
        return f"The event at position {row.position} was skipped: {body.get('reason', 'no reason given')}."
    if action == "set_weights":
        return f"{who} {_weights_told(body)} in category {body.get('category', '?')}."
    if action in _DONE_TO_ARMS:
        where = f"in category {body['category']}" if body.get("category") else "in every category that has it"
        return f"{who} {_DONE_TO_ARMS[action].format(model=body.get('model', '?'), where=where)}."
    return f"{row.kind.replace('_', ' ').capitalize()} at position {row.position}."


def _weights_told(body: Mapping[str, Any]) -> str:
    changes, previous = body.get("changes"), body.get("previous")
    if not isinstance(changes, Mapping) or not changes:
        return "changed nothing"
    before = previous if isinstance(previous, Mapping) else {}
    return " and ".join(_weight_told(name, value, before.get(name)) for name, value in sorted(changes.items()))


def _weight_told(name: str, value: object, before: object) -> str:
    if value is None:
        return f"cleared {name}" + ("" if before is None else f" (was {before})")
    return f"set {name} " + (f"to {value}" if before is None else f"from {before} to {value}")
