"""What came of a decision, by intention to treat: the decision keeps what its chain of calls came to.

A model that failed is not left out. Its decision has the quality of the answer that the caller got in the end, from whichever
fallback, 0 where nobody answered, and the cost of all calls made for it. Leaving it out would flatter models that often fail.
Shadow calls, whose answers nobody got, count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from banditroute.core.reward import SEPARATOR, fuse
from banditroute.core.types import ErrorKind


class Bill(NamedTuple):
    """What one call cost. `usd` is None where nobody said and no tokens are known: then what was expected is taken."""

    model: str
    usd: float | None
    input_tokens: int | None
    output_tokens: int | None


class Outcome(NamedTuple):
    """Of one decision. `quality` in [0, 1]; None where it is not known (yet)."""

    quality: float | None
    bills: tuple[Bill, ...]


def outcome_of(drawn: str, record: Mapping[str, Any]) -> Outcome:
    """The outcome that a record of feedback (see `core/reward.py`) tells of a decision for the model `drawn`.

    Raises:
        ValueError, KeyError, TypeError: it is no record.
    """
    calls: dict[str, Mapping[str, Any]] = {}
    for key, attempt in sorted(record.get("attempts", {}).items()):
        model, shadow = key.split(SEPARATOR)
        if not shadow:
            calls[model] = attempt
    answered = [model for model, call in calls.items() if call["error"] == ErrorKind.NONE and model != drawn]
    failed = calls[drawn]["error"] != ErrorKind.NONE if drawn in calls else bool(answered)
    rewards = fuse(record.get("signals", {}))
    judged = [rewards[model] for model in answered if model in rewards] if failed else []
    if not judged and drawn in rewards:  # callers who name no model mean the answer
        judged = [rewards[drawn]]
    quality = None
    if judged:
        quality = sum(value * weight for value, weight in judged) / sum(weight for _, weight in judged)
    elif failed and not answered:
        quality = 0.0
    bills = [_bill(model, call) for model, call in calls.items()]
    if drawn not in calls and not failed:
        bills.append(Bill(drawn, None, None, None))
    return Outcome(quality, tuple(bills))


def _bill(model: str, call: Mapping[str, Any]) -> Bill:
    """A failed call costs what its report says, else nothing."""
    usd = call.get("cost_usd", 0.0 if call["error"] != ErrorKind.NONE else call.get("computed_usd"))
    return Bill(model, usd, call.get("input_tokens"), call.get("output_tokens"))
