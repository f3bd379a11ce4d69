"""Why this model, which others, why not, and what feedback followed: put together from what is known of a decision.

Three sources, the first always there: the decision's id itself, the decision sink's row, the log's record of feedback.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from banditroute.core.reward import SEPARATOR, USAGE_FIELDS
from banditroute.core.types import Candidate, ErrorKind, Exclusion, Reason
from banditroute.log.sink_codec import KeptDecision
from banditroute.tokens import DecisionToken

EXCLUSIONS: Mapping[Exclusion, str] = {
    Exclusion.NOT_ALLOWED: "is not among the allowed models",
    Exclusion.EXCLUDED: "is among the excluded models",
    Exclusion.TAG_MISSING: "lacks a required tag",
    Exclusion.COST_TOO_HIGH: "was expected to cost more than the maximum",
    Exclusion.CONTEXT_TOO_LONG: "cannot take so many tokens",
    Exclusion.PAUSED: "was paused by an operator",
    Exclusion.BREAKER_OPEN: "was kept out because its calls failed (its breaker was open)",
}


class Option(NamedTuple):
    """One model of the category as the decision saw it.

    `verdict` says in words why it was or was not chosen; `comparison` how it compared to the chosen one, if it could serve.
    """

    model: str
    chosen: bool
    eligible: bool
    quality_mean: float
    quality_stddev: float
    expected_cost_usd: float
    utility_mean: float
    propensity: float
    verdict: str
    comparison: str


class Judgement(NamedTuple):
    """One signal that followed: `value` in [0, 1], 1 is good; times in Unix seconds."""

    model: str
    kind: str
    source: str
    value: float
    weight: float
    observe_time: float


class Call(NamedTuple):
    """One attempt that followed. `usage` holds what was reported: tokens, USD, seconds."""

    model: str
    shadow: bool
    error: str
    usage: Mapping[str, float]
    observe_time: float


class Explanation(NamedTuple):
    """All that is known of one decision. `options` and `reason` are empty where the sink has no row."""

    decision: str
    time: float
    category: str
    model: str
    propensity: float
    expected_quality: float
    expected_cost_usd: float
    input_tokens: int | None
    state_position: int
    context: Mapping[str, float]
    reason: str
    why: str
    request: Mapping[str, Any]
    options: tuple[Option, ...]
    signals: tuple[Judgement, ...]
    attempts: tuple[Call, ...]
    sources: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything in it."""
        nested = {
            "options": [option._asdict() for option in self.options],
            "signals": [signal._asdict() for signal in self.signals],
            "attempts": [{**call._asdict(), "usage": dict(call.usage)} for call in self.attempts],
        }
        return {**self._asdict(), "context": dict(self.context), "request": dict(self.request), **nested}


def assemble(
    token: DecisionToken, row: KeptDecision | None, record: Mapping[str, Any] | None, *, features: Sequence[str] | None
) -> Explanation:
    """The explanation of the decision that `token` stands for.

    Args:
        row: the sink's; None where it has none.
        record: the log's (see `core/reward.py`); None where no feedback came.
        features: the names of the context's values; None where the schema is not known.
    """
    names = features if features is not None and len(features) == len(token.context) else None
    context = {(names[i] if names else f"feature {i + 1}"): value for i, value in enumerate(token.context)}
    candidates = row.candidates if row else ()
    chosen = next((candidate for candidate in candidates if candidate.model == token.model), None)
    signals, attempts = _followed(record)
    return Explanation(
        decision=str(uuid.UUID(bytes=token.decision)),
        time=token.time_ms / 1000,
        category=token.category,
        model=token.model,
        propensity=token.propensity,
        expected_quality=token.expected_quality,
        expected_cost_usd=token.expected_cost_usd,
        input_tokens=token.input_tokens,
        state_position=token.state_position,
        context=context,
        reason=row.reason.name if row else "",
        why=_why(row.reason, chosen, candidates) if row and chosen else "",
        request=row.request if row else {},
        options=tuple(_option(c, chosen) for c in _ranked(candidates)) if chosen else (),
        signals=signals,
        attempts=attempts,
        sources=tuple(name for name, there in (("id", True), ("sink", row is not None), ("log", record is not None)) if there),
    )


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that could serve first, best first."""
    return sorted(candidates, key=lambda c: (c.exclusion is not None, -c.utility_mean))


def _why(reason: Reason, chosen: Candidate, candidates: Sequence[Candidate]) -> str:
    others = [c for c in _ranked(candidates) if c.exclusion is None and c.model != chosen.model]
    model, share = chosen.model, f"{100 * chosen.propensity:.3g} %"
    if reason is Reason.ONLY_ELIGIBLE or not others:
        return f"{model} was the only model that could serve this request."
    best = others[0]
    against = f"{chosen.utility_mean:.3f} against {best.utility_mean:.3f} of {best.model}"
    if reason is Reason.BEST:
        return f"{model} had the highest expected utility ({against}), and so was drawn with probability {share}."
    if reason is Reason.FLOOR:
        return f"{model} was drawn at the floor of {share} that every model is given so that it stays known ({against})."
    if reason is Reason.PROBE:
        return f"{model} was asked to see whether it has recovered, with probability {share} ({against})."
    lead = f"{best.utility_mean:.3f} against {chosen.utility_mean:.3f}"
    return f"{model} was drawn to learn, with probability {share}: {best.model} looked better ({lead}), but not surely."


def _option(candidate: Candidate, chosen: Candidate) -> Option:
    is_chosen = candidate.model == chosen.model
    excluded = candidate.exclusion
    comparison = ""
    if is_chosen:
        verdict = "chosen"
    elif excluded is not None:
        verdict = f"could not serve: {EXCLUSIONS[excluded]}"
    else:
        verdict = "looked better" if candidate.utility_mean > chosen.utility_mean else "worth less"
        comparison = f"quality {candidate.quality_mean - chosen.quality_mean:+.3f}"
        if chosen.expected_cost_usd > 0:
            comparison += f", {candidate.expected_cost_usd / chosen.expected_cost_usd:.3g} × the cost"
    return Option(
        model=candidate.model,
        chosen=is_chosen,
        eligible=excluded is None,
        quality_mean=candidate.quality_mean,
        quality_stddev=candidate.quality_stddev,
        expected_cost_usd=candidate.expected_cost_usd,
        utility_mean=candidate.utility_mean,
        propensity=candidate.propensity,
        verdict=verdict,
        comparison=comparison,
    )


def _followed(record: Mapping[str, Any] | None) -> tuple[tuple[Judgement, ...], tuple[Call, ...]]:
    signals, attempts = [], []
    for key, (value, weight, observe_us) in sorted((record or {}).get("signals", {}).items()):
        model, kind, source = key.split(SEPARATOR)
        signals.append(Judgement(model, kind, source, value, weight, observe_us / 1e6))
    for key, entry in sorted((record or {}).get("attempts", {}).items()):
        model, shadow = key.split(SEPARATOR)
        usage = {field: entry[field] for field in USAGE_FIELDS if field in entry}
        attempts.append(Call(model, bool(shadow), ErrorKind(entry["error"]).name.lower(), usage, entry["observe_us"] / 1e6))
    return tuple(signals), tuple(attempts)
