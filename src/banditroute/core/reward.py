"""From pieces of feedback to one reward: merging what was already said, and fusing what is known.

A decision's *record* is all the feedback that it ever got, one value per key. The log keeps it and
writes it, as it was before and as it is now, into the event; so the fold needs no memory of single
decisions, and a correction is the difference of two fusions.

Record (JSON data)::

    {"ordinal": 17, "position": 40, "newest": 58, "time_us": ...,
     "signals": {key: [value, weight, observe_us]},
     "attempts": {key: {"error": 0, "input_tokens": ..., "computed_usd": ..., "observe_us": ...}}}

A signal's weight and an attempt's computed cost are those of the configuration in force when they came
in. So what a correction takes back is what was once added, whatever changed in between.

Signal keys are model, kind, source; attempt keys are model, shadow; joined by U+001F.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from banditroute.core.types import Attempt, Disposition, Signal

SEPARATOR = "\x1f"
_NOT_SAID = ("observe_us", "computed_usd")
USAGE_FIELDS = ("input_tokens", "output_tokens", "cached_input_tokens", "cost_usd", "latency_s", "time_to_first_token_s")

Record = Mapping[str, Any]
"""See the module's text."""


class Merge(NamedTuple):
    """`record` lacks ordinal, position, newest and time where there was none before: the log adds them.

    `changed`: an event is due. `touched`: only observe times moved; the record is due, but no event.
    """

    record: dict[str, Any]
    signal_dispositions: tuple[Disposition, ...]
    attempt_dispositions: tuple[Disposition, ...]
    touched: bool

    @property
    def changed(self) -> bool:
        """Whether anything is new to the fold."""
        both = self.signal_dispositions + self.attempt_dispositions
        return Disposition.APPLIED in both or Disposition.CORRECTED in both


def signal_key(signal: Signal, drawn: str) -> str:
    """The idempotency key of a signal on a decision that drew the model `drawn`."""
    return SEPARATOR.join((signal.model or drawn, signal.kind, signal.source))


def attempt_key(attempt: Attempt, drawn: str) -> str:
    """The idempotency key of an attempt on a decision that drew the model `drawn`."""
    return SEPARATOR.join((attempt.model or drawn, "shadow" if attempt.shadow else ""))


def _disposition(old: object, old_time: int, new: object, observe_us: int) -> Disposition:
    if old is None:
        return Disposition.APPLIED
    if old == new:
        return Disposition.DUPLICATE
    return Disposition.CORRECTED if observe_us >= old_time else Disposition.STALE


def merge(record: Record | None, *, drawn: str, signals: Sequence[Signal], attempts: Sequence[Attempt], observe_us: int) -> Merge:
    """What a report changes about a decision's record.

    The same value again is DUPLICATE; another value observed no earlier is CORRECTED; one observed earlier
    is STALE. So the value that was observed last stands, in whatever order values arrive (of two observed
    at once, the one that arrives last). A corrected signal keeps the weight that it first came with.
    """
    merged = dict(record) if record else {}
    known_signals: dict[str, Any] = dict(merged.get("signals", {}))
    known_attempts: dict[str, Any] = dict(merged.get("attempts", {}))
    touched = False
    signal_dispositions = []
    for signal in signals:
        key = signal_key(signal, drawn)
        value, weight, time_us = known_signals.get(key, (None, signal.weight, observe_us))
        disposition = _disposition(value, time_us, signal.value, observe_us)
        if disposition is not Disposition.STALE:
            touched |= observe_us > time_us
            known_signals[key] = [signal.value, weight, max(time_us, observe_us)]
        signal_dispositions.append(disposition)
    attempt_dispositions = []
    for attempt in attempts:
        key = attempt_key(attempt, drawn)
        said: dict[str, Any] = {"error": int(attempt.error)}
        for field, value in zip(USAGE_FIELDS, attempt[3:9], strict=True):
            if value is not None:
                said[field] = value
        before, time_us = None, observe_us
        old = known_attempts.get(key)
        if old is not None:
            before = {name: value for name, value in old.items() if name not in _NOT_SAID}
            time_us = old["observe_us"]
        disposition = _disposition(before, time_us, said, observe_us)
        if disposition is Disposition.DUPLICATE:
            touched |= observe_us > time_us
            known_attempts[key] = {**known_attempts[key], "observe_us": max(time_us, observe_us)}
        elif disposition is not Disposition.STALE:
            if attempt.computed_usd is not None:
                said["computed_usd"] = attempt.computed_usd
            said["observe_us"] = observe_us
            known_attempts[key] = said
        attempt_dispositions.append(disposition)
    merged["signals"] = known_signals
    merged["attempts"] = known_attempts
    return Merge(merged, tuple(signal_dispositions), tuple(attempt_dispositions), touched)


def overall(dispositions: Sequence[Disposition]) -> Disposition:
    """Of a whole report: APPLIED if anything changed, else the first item's."""
    for disposition in dispositions:
        if disposition in (Disposition.APPLIED, Disposition.CORRECTED):
            return Disposition.APPLIED
    return dispositions[0] if dispositions else Disposition.DUPLICATE


def fuse(signals: Mapping[str, Sequence[Any]]) -> dict[str, tuple[float, float]]:
    """One reward per judged model.

    Args:
        signals: a record's signals.

    Returns:
        model -> (reward in [0, 1], weight in observations); the joint weight is at most 1, since
        signals of one decision judge the same answer. Models without weight are left out.

    Raises:
        ValueError, TypeError: this is no record.
    """
    totals: dict[str, tuple[float, float]] = {}
    items = signals.items() if len(signals) < 2 else sorted(signals.items())  # in one order, so that sums round the same
    for key, (value, weight, _) in items:
        model, _, _ = key.split(SEPARATOR)
        if not (0.0 <= value <= 1.0 and 0.0 <= weight <= 10.0):
            raise ValueError(f"signal out of range: {value!r}, {weight!r}")
        if weight > 0.0:
            mass, moment = totals.get(model, (0.0, 0.0))
            totals[model] = (mass + weight, moment + weight * value)
    return {model: (moment / mass, min(1.0, mass)) for model, (mass, moment) in totals.items()}
