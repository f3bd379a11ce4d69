"""What feedback tells of the models' health: from reported calls to breakers (`core/breaker.py`) and lines of the journal.

What counts is the first value of an attempt, shadow or not, by whichever model it was, drawn or fallen back to: the provider
does not know why it was called. A judgement of a model whose call nobody reported says that it answered, so callers who report
their failed calls only are understood. What was observed long before it was told says nothing of now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from banditroute.core.breaker import FALSE_OPENING_CALLS, Breaker, Turn
from banditroute.core.lifecycle import Note
from banditroute.core.reward import SEPARATOR, Record
from banditroute.core.state import State
from banditroute.core.types import BreakerState, ErrorKind

_NEW = Breaker()
STALE_US = 120 * 10**6
"""What was observed so long before it came in is not heard."""


def heard(state: State, *, made: int, before: Record, after: Record) -> tuple[Mapping[str, Breaker], Sequence[Note]]:
    """The breakers once they have heard of the calls in a decision's feedback.

    Args:
        made: the position of the state that the decision was made from.
        before: the decision's feedback as it was, empty where there was none.

    Raises:
        ValueError, TypeError, KeyError: this is no record.
    """
    settings, now_us = state.settings.breaker, state.append_time_us
    if not settings.enabled:
        return state.breakers, ()
    breakers, notes = dict(state.breakers), []
    for model, error in _calls(before, after, now_us - STALE_US):
        held = breakers.get(model, _NEW)
        if model in state.settings.models and made >= held.since:
            breakers[model], turn = held.after(error, now_us=now_us, position=state.position, settings=settings)
            if turn is not None:
                notes.append(Note(turn.kind, {"model": model} | _about(state, breakers, model, turn)))
    return breakers, notes


def _calls(before: Record, after: Record, since_us: int) -> list[tuple[str, int]]:
    """The calls that are news: model and how they ended."""
    attempts, old_attempts = after["attempts"], before.get("attempts", ())
    found, known = [], set()
    for key in sorted(attempts):
        model, attempt = key.partition(SEPARATOR)[0], attempts[key]
        known.add(model)
        if key not in old_attempts and attempt["observe_us"] >= since_us:
            found.append((model, attempt["error"]))
    judged_before = before.get("signals", ())
    for key, (_, _, observe_us) in sorted(after["signals"].items()):
        model = key.partition(SEPARATOR)[0]
        if model not in known and not any(old.partition(SEPARATOR)[0] == model for old in judged_before):
            known.add(model)
            if observe_us >= since_us:
                found.append((model, ErrorKind.NONE))
    return found


def _about(state: State, breakers: Mapping[str, Breaker], model: str, turn: Turn) -> dict[str, Any]:
    breaker = breakers[model]
    if turn.kind == "breaker_closed":
        return {"answers": breaker.answers}
    now_us = state.append_time_us
    about: dict[str, Any] = {
        "failures": int(breaker.failures + 0.5),
        "rate_limited": int(breaker.limited + 0.5),
        "cooldown_s": breaker.cooldown_us / 1e6,
        "open_until_us": breaker.open_until_us,
        "nothing_else_in": [
            name
            for name, category in sorted(state.settings.categories.items())
            if model in category.models
            and all((name, each) in state.paused or _is_open(breakers.get(each, _NEW), now_us) for each in category.models)
        ],
    }
    if turn.evidence:
        about |= {
            "usual_failure_share": breaker.usual,
            "evidence": turn.evidence,
            "evidence_needed": FALSE_OPENING_CALLS,
        }
    return about


def _is_open(breaker: Breaker, now_us: int) -> bool:
    return breaker.state(now_us) is BreakerState.OPEN
