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


_HAPPENED_TO_MODELS = {
    "demoted": "{model} got worse by {change} {where} and is demoted {demoted_where}: only probes go there",
    "degraded": "{model} got worse by {change} {where} (from {reference} to {estimate}), but no rival is better: it stays",
    "improved": "{model} got better by {change} {where} (from {reference} to {estimate})",
    "probing": "{model} seems to recover {where} (evidence {evidence} of {evidence_needed}): it gets more probes",
    "relapsed": "{model} did not recover after all {where} (evidence {evidence} of {evidence_needed})",
    "promoted": "{model} has recovered {where} (evidence {evidence} of {evidence_needed}): it is live, with all that was known",
    "released": "{model} is no longer worse than a rival everywhere ({shift} {where}): it stays demoted {demoted_where}",
    "settled": "{model} is taken as changed by {shift} {where} for good: {reason}",
    "below_floor": "{model} is below the quality floor of {floor} {where} ({estimate} ± {stddev}): only probes go there",
    "above_floor": "{model} is no longer below the quality floor of {floor} {where} ({estimate} ± {stddev})",
    "onboarding": "{model} is new: it gets {least_share} to {max_share} of the traffic until {looks} feedbacks are in",
    "onboarded": "{model} is known after {feedback_count} feedbacks: best {best_where}, and treated as any other from now on",
}


def actor_of(row: JournalRow) -> str:
    """Who did it; empty where nobody in particular did."""
    return str(row.body.get("actor") or "")


def change_reason_of(row: JournalRow) -> str:
    """Why it was done; empty where nobody said."""
    return str(row.body.get("reason") or "") if row.kind in ("operator", "config") else ""


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
    if row.kind in _HAPPENED_TO_MODELS:
        return _HAPPENED_TO_MODELS[row.kind].format_map(_Told(body)) + "."
    if row.kind.startswith("breaker_"):
        return _breaker_told(row.kind, _Told(body), body.get("nothing_else_in"))
    return f"{row.kind.replace('_', ' ').capitalize()} at position {row.position}."


class _Told(dict[str, Any]):
    """A body's parts as sentences want them; what is missing is a question mark."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        super().__init__({name: _shown(value) for name, value in body.items()})
        demoted = body.get("demoted_in")
        names = [str(name) for name in demoted] if isinstance(demoted, list) else []
        self["demoted_where"] = "nowhere" if not names else f"in {names[0]}" if len(names) == 1 else f"in {len(names)} categories"
        shift = body.get("shift")
        if isinstance(shift, float):
            self["change"] = _shown(abs(shift))
        self["where"] = f"in category {body['category']}" if body.get("category") else "in all categories"

    def __missing__(self, name: str) -> str:
        return "?"


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000.0 else f"{value:.3g}"


def _breaker_told(kind: str, parts: _Told, alone: object) -> str:
    if kind == "breaker_closed":
        return "{model} answers again: its breaker closed.".format_map(parts)
    cause = (
        "a probe failed again" if kind == "breaker_reopened" else "{failures} calls failed of late ({rate_limited} rate limits)"
    )
    text = f"The breaker of {{model}} opened for {{cooldown_s}} s: {cause}.".format_map(parts)
    if not isinstance(alone, list) or not alone:
        return text
    return f"{text} WARNING: nothing else is left in {', '.join(map(str, alone))}, so it serves there nevertheless."


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
