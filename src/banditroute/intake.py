"""Feedback between the API and the log: what a report says, made worth what the configuration in force makes it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from banditroute.core.change import ended_since
from banditroute.core.settings import SharedSettings
from banditroute.core.state import State
from banditroute.core.types import Attempt, Disposition, FeedbackReceipt, FeedbackReport, Signal
from banditroute.log.base import FeedbackAppend
from banditroute.tokens import DecisionToken


def appended(report: FeedbackReport, token: DecisionToken, settings: SharedSettings, *, expire_us: int) -> FeedbackAppend:
    """The report on its way into the log: signals with their weight in observations, attempts with their
    price-table cost. Where the arm does not exist, they weigh nothing: recorded, not learned."""
    category = settings.categories.get(token.category)
    live = category.models if category else ()

    def weighed(signal: Signal) -> Signal:
        if category is None or (signal.model or token.model) not in live:
            return signal._replace(weight=0.0)
        return signal._replace(weight=min(10.0, category.signal_weights[signal.kind] * signal.weight))

    def priced(attempt: Attempt) -> Attempt:
        model = attempt.model or token.model
        if model not in live:
            return attempt
        if attempt.input_tokens is not None and attempt.output_tokens is not None:
            cached = min(attempt.cached_input_tokens or 0, attempt.input_tokens)
            cost = settings.models[model].list_cost_usd(attempt.input_tokens, attempt.output_tokens, cached)
            return attempt._replace(computed_usd=cost)
        # Without its tokens, what it was expected to take: known for the model that was drawn.
        return attempt._replace(computed_usd=token.computed_cost_usd) if model == token.model else attempt

    return FeedbackAppend(
        key=token.decision,
        decision=_body(token),
        signals=tuple([weighed(signal) for signal in report.signals]),
        attempts=tuple([priced(attempt) for attempt in report.attempts]),
        observe_us=None if report.observe_time is None else int(report.observe_time * 1e6),
        expire_us=expire_us,
    )


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
