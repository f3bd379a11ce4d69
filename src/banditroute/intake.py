"""Feedback between the API and the log: what a report says, made worth what the configuration in force makes it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from banditroute.core.change import ended_since
from banditroute.core.errors import FeedbackWindowOver
from banditroute.core.settings import SharedSettings
from banditroute.core.state import State
from banditroute.core.types import Attempt, Disposition, FeedbackReceipt, FeedbackReport, Signal
from banditroute.log.base import FeedbackAppend
from banditroute.tokens import DecisionToken


def expiry(token: DecisionToken, state: State, *, now: float) -> int:
    """Until when feedback on a decision is taken, in microseconds since 1970; `now` in Unix seconds.

    Raises:
        FeedbackWindowOver
    """
    window_us = state.settings.feedback_window_us
    expire_us = token.time_ms * 1000 + window_us
    if now * 1e6 > expire_us:
        raise FeedbackWindowOver(f"the decision is older than the feedback window of {window_us / 86400e6:g} days; route again")
    return expire_us


def appended(report: FeedbackReport, token: DecisionToken, settings: SharedSettings, *, expire_us: int) -> FeedbackAppend:
    """The report on its way into the log: signals with their weight in observations, attempts with their
    price-table cost. Where the arm does not exist, they weigh nothing: recorded, not learned."""
    category, drawn = settings.categories.get(token.category), token.model
    live: Collection[str] = category.models if category else ()
    signals, attempts = [], []
    for signal in report.signals:
        if category is None or (signal.model or drawn) not in live:
            signals.append(signal._replace(weight=0.0))
        else:
            kind, value, source, scale, model = signal
            signals.append(Signal(kind, value, source, min(10.0, category.signal_weights[kind] * scale), model))
    for attempt in report.attempts:
        model = attempt.model or drawn
        if model not in live:
            attempts.append(attempt)
        elif attempt.input_tokens is not None and attempt.output_tokens is not None:
            cached = min(attempt.cached_input_tokens or 0, attempt.input_tokens)
            cost = settings.models[model].list_cost_usd(attempt.input_tokens, attempt.output_tokens, cached)
            attempts.append(attempt._replace(computed_usd=cost))
        elif model == drawn:  # without its tokens, what it was expected to take: known for the model that was drawn
            attempts.append(Attempt(*attempt[:-1], computed_usd=token.computed_cost_usd))
        else:
            attempts.append(attempt)
    observe_us = None if report.observe_time is None else int(report.observe_time * 1e6)
    return FeedbackAppend(token.decision, _body(token), tuple(signals), tuple(attempts), observe_us, expire_us)


def _body(token: DecisionToken) -> dict[str, Any]:
    return {
        "id": token.decision.hex(),
        "category": token.category,
        "model": token.model,
        "propensity": token.propensity,
        "expected_quality": token.expected_quality,
        "expected_cost_usd": token.expected_cost_usd,
        "input_tokens": token.input_tokens,
        "state_position": token.state_position,
        "schema": token.schema.hex(),
        "context": list(token.context),
    }


def answered(receipt: FeedbackReceipt, report: FeedbackReport, *, state: State, token: DecisionToken) -> FeedbackReceipt:
    """The receipt with RECORDED for what is durable, but teaches nothing: of an arm that no longer exists, and signals of a
    change of its model that is over."""
    settings = state.settings.categories.get(token.category)
    live: Collection[str] = settings.models if settings else ()
    named = {model or token.model for model in [*[s.model for s in report.signals], *[a.model for a in report.attempts]]}
    gone = {model for model in named if model not in live}
    over = {model for model in named if ended_since(state, category=token.category, model=model, made=token.state_position)}
    if not gone and not over:
        return receipt

    def mark(disposition: Disposition, model: str, unheard: Collection[str]) -> Disposition:
        fresh = disposition in (Disposition.APPLIED, Disposition.CORRECTED)
        return Disposition.RECORDED if fresh and (model or token.model) in unheard else disposition

    signals = tuple([mark(d, s.model, gone | over) for d, s in zip(receipt.signal_dispositions, report.signals, strict=True)])
    attempts = tuple([mark(d, a.model, gone) for d, a in zip(receipt.attempt_dispositions, report.attempts, strict=True)])
    whole = receipt.disposition
    if whole is Disposition.APPLIED and not {Disposition.APPLIED, Disposition.CORRECTED} & {*signals, *attempts}:
        whole = Disposition.RECORDED
    return FeedbackReceipt(whole, signals, attempts, receipt.state_position)
